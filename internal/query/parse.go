package query

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tree-of-life-system/immutable/internal/index"
)

// Limits that make a query from a stranger harmless.
const (
	MaxLength  = 4096 // bytes of a query
	MaxDepth   = 64   // parentheses and NOTs within each other
	MaxTerms   = 256  // conditions
	MaxRegexps = 8    // regular expressions
	MaxRegexp  = 1000 // bytes of a regular expression, and instructions of its program
)

// Parse reads a query. Relative times are before now. Every error is an *Error.
func Parse(text string, now time.Time) (*Query, error) {
	p := parser{text: text, now: now}
	root, err := p.query()
	if err != nil {
		return nil, err
	}
	return &Query{Root: root, Now: now}, nil
}

type parser struct {
	text           string
	pos            int
	now            time.Time
	depth          int
	terms, regexps int
}

func (p *parser) errorf(at int, format string, args ...any) *Error {
	return &Error{Query: p.text, Offset: at, Msg: fmt.Sprintf(format, args...)}
}

func (p *parser) query() (Node, error) {
	if len(p.text) > MaxLength {
		p.text = strings.ToValidUTF8(p.text[:MaxLength], "")
		return nil, p.errorf(len(p.text), "a query has at most %d bytes", MaxLength)
	}
	for i, r := range p.text {
		if r == utf8.RuneError && !strings.HasPrefix(p.text[i:], "\ufffd") {
			p.text = strings.ToValidUTF8(p.text, "\ufffd")
			return nil, p.errorf(i, "a byte that is not UTF-8")
		}
	}
	if p.skip(); p.pos == len(p.text) {
		return All{}, nil
	}
	n, err := p.or()
	if err != nil {
		return nil, err
	}
	if p.pos < len(p.text) { // or stops at the end and at ) only
		return nil, p.errorf(p.pos, "this ) closes nothing")
	}
	return n, nil
}

func (p *parser) skip() {
	for p.pos < len(p.text) && isSpace(p.text[p.pos]) {
		p.pos++
	}
}

func isSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }

// peek says whether the rest begins with s.
func (p *parser) peek(s string) bool { return strings.HasPrefix(p.text[p.pos:], s) }

// keyword says whether word stands here as a word of its own.
func (p *parser) keyword(word string) bool {
	if !p.peek(word) {
		return false
	}
	rest := p.text[p.pos+len(word):]
	return rest == "" || isSpace(rest[0]) || rest[0] == '(' || rest[0] == ')'
}

func (p *parser) or() (Node, error) {
	var nodes []Node
	for {
		n, err := p.and()
		if err != nil {
			return nil, err
		}
		if o, ok := n.(Or); ok {
			nodes = append(nodes, o.Nodes...)
		} else {
			nodes = append(nodes, n)
		}
		if !p.keyword("OR") {
			break
		}
		p.pos += len("OR")
		p.skip()
	}
	if len(nodes) == 1 {
		return nodes[0], nil
	}
	return Or{nodes}, nil
}

func (p *parser) and() (Node, error) {
	var nodes []Node
	for {
		n, err := p.not()
		if err != nil {
			return nil, err
		}
		if a, ok := n.(And); ok {
			nodes = append(nodes, a.Nodes...)
		} else {
			nodes = append(nodes, n)
		}
		if p.skip(); p.keyword("AND") {
			p.pos += len("AND")
			p.skip()
			continue
		}
		if p.pos == len(p.text) || p.peek(")") || p.keyword("OR") {
			break
		}
	}
	if len(nodes) == 1 {
		return nodes[0], nil
	}
	return And{nodes}, nil
}

// not reads one condition, with what stands before it.
func (p *parser) not() (Node, error) {
	at := p.pos
	negated, group := p.keyword("NOT"), p.peek("(")
	if !negated && !group {
		return p.condition()
	}
	if p.depth++; p.depth > MaxDepth {
		return nil, p.errorf(at, "parentheses and NOTs within each other go at most %d deep", MaxDepth)
	}
	defer func() { p.depth-- }()
	if negated {
		p.pos += len("NOT")
		p.skip()
		n, err := p.not()
		if err != nil {
			return nil, err
		}
		return Not{n}, nil
	}
	p.pos++
	if p.skip(); p.peek(")") {
		return nil, p.errorf(p.pos, "nothing is in these parentheses")
	}
	n, err := p.or()
	if err != nil {
		return nil, err
	}
	if !p.peek(")") {
		return nil, p.errorf(at, "this ( is not closed")
	}
	p.pos++
	return n, nil
}

// condition reads one condition that is no group.
func (p *parser) condition() (Node, error) {
	if err := p.countTerm(); err != nil {
		return nil, err
	}
	if f, at, ok, err := p.field(); err != nil {
		return nil, err
	} else if ok {
		return p.fieldCondition(f, at)
	}
	switch p.text[p.pos] {
	case '"':
		at := p.pos
		text, err := p.quoted()
		if err != nil {
			return nil, err
		}
		return p.phrase(nil, text, at)
	case '~':
		return p.substring(nil)
	case '/':
		return p.regexp(nil)
	}
	at := p.pos
	token, err := p.token()
	if err != nil {
		return nil, err
	}
	switch {
	case token[0] == '-' || token[0] == '!':
		return nil, p.errorf(at, "%c does not negate: write NOT before what must not match, or put this in quotes", token[0])
	case strings.Contains(token, ":"):
		return nil, p.errorf(at, "what stands before the : is no field name (letters, digits, _ - @ $ and dots, not a digit first); put it in quotes, and all of it where the : is part of the text")
	}
	return p.star(nil, token, at)
}

func (p *parser) countTerm() error {
	if p.pos == len(p.text) {
		return p.errorf(p.pos, "a condition is missing here")
	}
	for _, w := range []string{"AND", "OR"} {
		if p.keyword(w) {
			return p.errorf(p.pos, "a condition is missing before %s; in quotes it is a word to look for", w)
		}
	}
	if p.peek(")") {
		return p.errorf(p.pos, "a condition is missing before this )")
	}
	if p.terms++; p.terms > MaxTerms {
		return p.errorf(p.pos, "a query has at most %d conditions", MaxTerms)
	}
	return nil
}

// token reads up to whitespace or a closing parenthesis.
func (p *parser) token() (string, error) {
	at := p.pos
	for p.pos < len(p.text) {
		switch c := p.text[p.pos]; {
		case isSpace(c) || c == ')':
			return p.text[at:p.pos], nil
		case c == '(' || c == '"':
			return "", p.errorf(p.pos, "%c inside a word; put the whole in quotes, with \\ before a quote, or a space before this", c)
		}
		p.pos++
	}
	return p.text[at:], nil
}

// ended checks that nothing is glued to what was just read.
func (p *parser) ended(what string) error {
	if p.pos < len(p.text) && !isSpace(p.text[p.pos]) && p.text[p.pos] != ')' {
		return p.errorf(p.pos, "%s ends before this; put a space here, or the whole in quotes", what)
	}
	return nil
}

// quoted reads a text in quotes.
func (p *parser) quoted() (string, error) {
	at := p.pos
	var b strings.Builder
	for p.pos++; p.pos < len(p.text); p.pos++ {
		switch c := p.text[p.pos]; c {
		case '"':
			p.pos++
			return b.String(), nil
		case '\\':
			if err := p.escape(&b); err != nil {
				return "", err
			}
		default:
			b.WriteByte(c)
		}
	}
	return "", p.errorf(at, "this quote is not closed")
}

// escape reads an escape and stops at its last byte.
func (p *parser) escape(b *strings.Builder) error {
	at := p.pos
	if p.pos++; p.pos < len(p.text) {
		switch c := p.text[p.pos]; c {
		case '"', '\\':
			b.WriteByte(c)
			return nil
		case 'n':
			b.WriteByte('\n')
			return nil
		case 'r':
			b.WriteByte('\r')
			return nil
		case 't':
			b.WriteByte('\t')
			return nil
		case 'u':
			if r, ok := hex4(p.text[p.pos+1:]); ok {
				b.WriteRune(r)
				p.pos += 4
				return nil
			}
		}
	}
	return p.errorf(at, `in quotes a \ begins one of \" \\ \n \r \t \u0000; write \\ for the character itself`)
}

// hex4 reads four hex digits that are a character.
func hex4(s string) (r rune, ok bool) {
	if len(s) < 4 {
		return 0, false
	}
	for i := range 4 {
		v := strings.IndexByte("0123456789abcdef", s[i]|0x20)
		if v < 0 || s[i] < '0' {
			return 0, false
		}
		r = r<<4 | rune(v)
	}
	return r, r < 0xd800 || r > 0xdfff
}

// phrase makes a condition of a quoted text that ends here.
func (p *parser) phrase(in *Field, text string, at int) (Node, error) {
	begin := p.peek("*")
	if begin {
		p.pos++
	}
	if err := p.ended("the phrase"); err != nil {
		return nil, err
	}
	return p.words(in, text, begin, at)
}

// star makes a condition of a bare token, which may end with *.
func (p *parser) star(in *Field, token string, at int) (Node, error) {
	token, begin, err := p.cutStar(token, at)
	if err != nil {
		return nil, err
	}
	return p.words(in, token, begin, at)
}

func (p *parser) cutStar(token string, at int) (string, bool, error) {
	token, begin := strings.CutSuffix(token, "*")
	if i := strings.IndexByte(token, '*'); i >= 0 {
		return "", false, p.errorf(at+i, "* stands only at the end of a word; use a regular expression, /…/, or put it in quotes")
	}
	return token, begin, nil
}

func (p *parser) words(in *Field, text string, begin bool, at int) (Node, error) {
	n := Phrase{In: in, Begin: begin}
	for w := range index.Words(text) {
		n.Words = append(n.Words, w)
	}
	if last, _ := utf8.DecodeLastRuneInString(text); begin && (len(n.Words) == 0 || !index.IsWord(last)) {
		return nil, p.errorf(at, "before a * stands the beginning of a word: letters, digits or _")
	}
	if len(n.Words) == 0 {
		return nil, p.errorf(at, `no word is in this (letters, digits, _); ~"…" finds any characters`)
	}
	return n, nil
}

func (p *parser) substring(in *Field) (Node, error) {
	at := p.pos
	if p.pos++; !p.peek(`"`) {
		return nil, p.errorf(p.pos, `after ~ comes a text in quotes: ~"…"`)
	}
	text, err := p.quoted()
	if err != nil {
		return nil, err
	}
	if text == "" {
		return nil, p.errorf(at, "an empty text is in everything")
	}
	if err := p.ended("the text"); err != nil {
		return nil, err
	}
	return Substring{In: in, Text: index.Fold(text)}, nil
}

func (p *parser) regexp(in *Field) (Node, error) {
	at := p.pos
	var b strings.Builder
	for p.pos++; p.pos < len(p.text) && p.text[p.pos] != '/'; p.pos++ {
		if p.text[p.pos] == '\\' && p.pos+1 < len(p.text) {
			if p.pos++; p.text[p.pos] != '/' {
				b.WriteByte('\\')
			}
		}
		b.WriteByte(p.text[p.pos])
	}
	if p.pos == len(p.text) {
		return nil, p.errorf(at, `this / begins a regular expression that no second / ends; put a path in quotes`)
	}
	p.pos++
	if err := p.ended("the regular expression"); err != nil {
		return nil, err
	}
	if p.regexps++; p.regexps > MaxRegexps {
		return nil, p.errorf(at, "a query has at most %d regular expressions", MaxRegexps)
	}
	re, err := compile(b.String())
	if err != nil {
		return nil, p.errorf(at, "regular expression: %s", err)
	}
	return Regexp{In: in, Source: b.String(), Re: re}, nil
}

// compile makes a program of bounded size, so that matching takes bounded time for each byte.
func compile(source string) (*regexp.Regexp, error) {
	switch {
	case source == "":
		return nil, fmt.Errorf("it is empty; put // in quotes")
	case len(source) > MaxRegexp:
		return nil, fmt.Errorf("%d bytes; at most %d", len(source), MaxRegexp)
	}
	tree, err := syntax.Parse(source, syntax.Perl)
	if err != nil {
		return nil, fmt.Errorf("%w (syntax: RE2)", err)
	}
	if programSize(tree) > MaxRegexp {
		return nil, fmt.Errorf("too large with its repetitions; at most %d steps", MaxRegexp)
	}
	return regexp.Compile(source)
}

// programSize is about how many instructions a regular expression takes, before they are made.
func programSize(re *syntax.Regexp) int {
	n := 1
	switch re.Op {
	case syntax.OpLiteral:
		n = len(re.Rune)
	case syntax.OpRepeat:
		n = 0
	}
	for _, sub := range re.Sub {
		n = min(n+programSize(sub), 1<<20)
	}
	if re.Op == syntax.OpRepeat {
		n *= max(re.Min, re.Max, 1)
	}
	return min(n, 1<<20)
}

// isNameRune says what names of fields consist of without quotes.
func isNameRune(r rune) bool {
	return unicode.IsLetter(r) || unicode.IsDigit(r) || unicode.IsMark(r) || r == '_' || r == '-' || r == '@' || r == '$'
}

// field reads a field name and its colon. If there is none it reads nothing.
func (p *parser) field() (f Field, at int, ok bool, err error) {
	at = p.pos
	names, plain, err := p.names()
	if err == nil && names != nil && p.peek(":") {
		p.pos++
		f, err = p.named(names, plain, at)
		return f, at, err == nil, err
	}
	p.pos = at
	return f, at, false, err
}

// names reads member names with dots between them. plain: the first has no quotes.
func (p *parser) names() (names []string, plain bool, err error) {
	at := p.pos
	plain = !p.peek(`"`)
	for {
		if from := p.pos; p.peek(`"`) {
			name, err := p.quoted()
			if err != nil {
				return nil, false, err
			}
			names = append(names, name)
		} else {
			for p.pos < len(p.text) {
				r, n := utf8.DecodeRuneInString(p.text[p.pos:])
				if !isNameRune(r) || p.pos == at && (r == '-' || unicode.IsDigit(r)) {
					break
				}
				p.pos += n
			}
			if p.pos == from {
				return nil, plain, nil
			}
			names = append(names, p.text[from:p.pos])
		}
		if !p.peek(".") {
			return names, plain, nil
		}
		p.pos++
	}
}
