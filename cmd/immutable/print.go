package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/tree-of-life-system/immutable"
)

// printer writes to a stream. Everything that is not a constant of this program goes through clean, so that no message,
// name, path or error can colour a terminal, move its cursor, forge a line or reorder text. Only bytes and raw write as
// they are: JSON output, and this program's own texts.
type printer struct {
	mu       sync.Mutex // one line at a time: progress and log handlers print from other goroutines
	w        *bufio.Writer
	colour   bool
	terminal bool
}

func newPrinter(f *os.File, getenv func(string) string) *printer {
	p := &printer{w: bufio.NewWriterSize(f, 64<<10)}
	if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
		p.terminal = true
	}
	p.colour = p.terminal && getenv("NO_COLOR") == "" && getenv("TERM") != "dumb"
	return p
}

func (p *printer) flush() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.w.Flush()
}

// raw writes a constant of this program.
func (p *printer) raw(s string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = p.w.WriteString(s) // bufio keeps the error for flush
}

// bytes writes data as it is, for --json and for files that others read.
func (p *printer) bytes(data []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = p.w.Write(data) // bufio keeps the error for flush
}

// printf formats like fmt.Fprintf; format is a constant, and arguments that are text are cleaned.
func (p *printer) printf(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = fmt.Fprintf(p.w, format, p.safe(args)...) // bufio keeps the error for flush
}

func (p *printer) safe(args []any) []any {
	out := make([]any, len(args))
	for i, a := range args {
		switch v := a.(type) {
		case bool, int, int64, uint64, uint32, float64:
			out[i] = v
		case styled:
			out[i] = v.render(p)
		case []byte:
			out[i] = clean(string(v))
		case json.RawMessage:
			out[i] = clean(string(v))
		case string:
			out[i] = clean(v)
		default:
			out[i] = clean(fmt.Sprint(v))
		}
	}
	return out
}

// styled is text in a colour, padded to a width before it is coloured.
type styled struct {
	code  string
	text  string
	width int
}

func (s styled) render(p *printer) string {
	text := clean(s.text)
	if pad := s.width - utf8.RuneCountInString(text); pad > 0 {
		text += strings.Repeat(" ", pad)
	}
	if !p.colour || s.code == "" {
		return text
	}
	return "\x1b[" + s.code + "m" + text + "\x1b[0m"
}

const (
	red    = "31"
	green  = "32"
	yellow = "33"
	cyan   = "36"
	bold   = "1"
	dim    = "2"
)

func paint(code string, v any) styled { return styled{code: code, text: fmt.Sprint(v)} }

// failure prints an error. A refusal has several lines of its own, which are put together here and not by its text.
func (p *printer) failure(prefix string, err error) {
	var refused *immutable.RefusedError
	if !errors.As(err, &refused) {
		p.printf("%s%s\n", paint(red, prefix), err)
		return
	}
	p.printf("%s%s: %s\n", paint(red, prefix), refused.Dir, refused.Reason)
	if refused.Ours != "" {
		p.printf("the directory shows:\n")
		p.indented(refused.Ours)
	}
	if refused.Known != "" {
		p.printf("this host's head says:\n")
		p.indented(refused.Known)
	}
	p.printf("next: %s\n", refused.Next)
}

// indented prints text of several lines, such as a checkpoint's.
func (p *printer) indented(text string) { p.indentedBy("  ", text) }

func (p *printer) indentedBy(indent, text string) {
	for _, line := range lines([]byte(text)) {
		p.printf("%s%s\n", indent, line)
	}
}

// lines are the lines of text without their newlines.
func lines(text []byte) []string {
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

// clean makes text safe to print within a line: control characters, bytes that are not UTF-8, and characters that reorder
// or hide text stand as escapes.
func clean(s string) string {
	s = redact(s)
	i := 0
	for i < len(s) && s[i] >= ' ' && s[i] < 0x7f {
		i++
	}
	if i == len(s) {
		return s
	}
	var b strings.Builder
	b.WriteString(s[:i])
	for i < len(s) {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case hidden(r) && r > 0xffff:
			fmt.Fprintf(&b, `\U%08x`, r)
		case hidden(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteString(s[i : i+n])
		}
		i += n
	}
	return b.String()
}

// hidden characters control a terminal, end a line, reorder text or cannot be seen.
func hidden(r rune) bool {
	return r < ' ' || r >= 0x7f && r <= 0x9f || // C0, DEL, C1
		r == 0x2028 || r == 0x2029 || // line and paragraph separator
		r == 0xfeff || r == 0x200b || r >= 0xfff9 && r <= 0xfffb || r >= 0xe0000 && r <= 0xe007f || // invisible
		unicode.Is(unicode.Bidi_Control, r)
}

// quote shows an argument in a message.
func quote(s string) string { return strconv.Quote(s) }

var privateKey = regexp.MustCompile(`(PRIVATE|PRODUCER)\+KEY\+[^\s"']*`)

// redact hides private keys, which people give by mistake where a public key or a file's name belongs: what is printed here goes to
// terminals, logs and alerts.
func redact(s string) string {
	if !strings.Contains(s, "+KEY+") {
		return s
	}
	return privateKey.ReplaceAllString(s, "$1+KEY+(not shown)")
}
