package query

import (
	"fmt"
	"strings"
	"unicode"

	"github.com/tree-of-life-system/immutable/internal/index"
)

// String is the query in its canonical spelling. Parse reads it as the same query.
func (q *Query) String() string {
	var b strings.Builder
	write(&b, q.Root, 0)
	return b.String()
}

// What a node binds tighter than.
const (
	inNothing = iota
	inOr
	inAnd
	inNot
)

func write(b *strings.Builder, n Node, in int) {
	switch n := n.(type) {
	case All:
	case Or:
		list(b, n.Nodes, " OR ", inOr, in)
	case And:
		list(b, n.Nodes, " ", inAnd, in)
	case Not:
		b.WriteString("NOT ")
		write(b, n.Node, inNot)
	default:
		condition(b, n)
	}
}

// list writes nodes, in parentheses where what they are in binds as tight as they do.
func list(b *strings.Builder, nodes []Node, between string, own, in int) {
	if in >= own {
		b.WriteByte('(')
		defer b.WriteByte(')')
	}
	for i, n := range nodes {
		if i > 0 {
			b.WriteString(between)
		}
		write(b, n, own)
	}
}

func condition(b *strings.Builder, n Node) {
	switch n := n.(type) {
	case Phrase:
		prefix(b, n.In)
		if text := strings.Join(n.Words, " "); len(n.Words) == 1 && bareWord(text) {
			b.WriteString(text)
		} else {
			quote(b, text)
		}
		if n.Begin {
			b.WriteByte('*')
		}
	case Substring:
		prefix(b, n.In)
		b.WriteByte('~')
		quote(b, n.Text)
	case Regexp:
		prefix(b, n.In)
		b.WriteByte('/')
		for i := 0; i < len(n.Source); i++ {
			switch c := n.Source[i]; {
			case c == '/':
				b.WriteString(`\/`)
			case c == '\\' && i+1 < len(n.Source):
				i++
				b.WriteString(n.Source[i-1 : i+1])
			default:
				b.WriteByte(c)
			}
		}
		b.WriteByte('/')
	case Equal:
		prefix(b, &n.Field)
		value(b, n.Text)
	case Begins:
		prefix(b, &n.Field)
		value(b, n.Text)
		b.WriteByte('*')
	case Compare:
		prefix(b, &n.Field)
		b.WriteString(n.Op.String())
		b.WriteString(n.Operand.Text)
	case Range:
		prefix(b, &n.Field)
		b.WriteString(n.From.Text + ".." + n.To.Text)
	case Exists:
		b.WriteString("exists:" + n.Field.String())
	case Since:
		b.WriteString("since:" + n.At.Text)
	case Until:
		b.WriteString("until:" + n.At.Text)
	default:
		panic(fmt.Sprintf("query: a node of type %T", n))
	}
}

func (o Op) String() string { return [...]string{"=", ">=", ">", "<=", "<"}[o] }

func prefix(b *strings.Builder, f *Field) {
	if f != nil {
		b.WriteString(f.String())
		b.WriteByte(':')
	}
}

// String is the field as a query names it.
func (f Field) String() string {
	if f.Root != Metadata {
		for name, root := range roots {
			switch {
			case root != f.Root:
			case f.Path == "":
				return name
			default:
				return name + "." + pathText(f.Path)
			}
		}
	}
	text := pathText(f.Path)
	first, _, more := strings.Cut(text, ".")
	_, isRoot := roots[text]
	_, isPseudo := pseudo[text]
	if isRoot || isPseudo || first == "metadata" || more && (first == "producer" || first == "control") {
		return "metadata." + text
	}
	return text
}

// pathText is a path with quotes around what could not stand without them.
func pathText(path string) string {
	for i, name := range strings.Split(path, ".") {
		if name == "" || strings.ContainsFunc(name, func(r rune) bool { return !isNameRune(r) }) || i == 0 && (name[0] == '-' || unicode.IsDigit([]rune(name)[0])) {
			var b strings.Builder
			quote(&b, path)
			return b.String()
		}
	}
	return path
}

// bareWord says whether a word stands for itself without quotes.
func bareWord(s string) bool {
	return s != "AND" && s != "OR" && s != "NOT" && !strings.ContainsFunc(s, func(r rune) bool { return !index.IsWord(r) })
}

func value(b *strings.Builder, s string) {
	plain := s != "" && !strings.Contains(s, "..")
	for i, r := range s {
		word := unicode.IsLetter(r) || unicode.IsDigit(r) || r == '_'
		plain = plain && (word || i > 0 && strings.ContainsRune("-.@:+", r))
	}
	if plain {
		b.WriteString(s)
		return
	}
	quote(b, s)
}

func quote(b *strings.Builder, s string) {
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < ' ' || r >= 0x7f && r <= 0x9f:
			fmt.Fprintf(b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
}
