package query

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestCanonicalSpelling(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", ""},
		{"  \t\n", ""},
		{"failed", "failed"},
		{"Failed LOGIN", "failed login"},
		{"failed AND login", "failed login"},
		{"a b OR c d", "a b OR c d"},
		{"(a b) OR (c d)", "a b OR c d"},
		{"a (b OR c) d", "a (b OR c) d"},
		{"a OR (b OR c)", "a OR b OR c"},
		{"(a (b c))", "a b c"},
		{"NOT a b", "NOT a b"},
		{"NOT (a b)", "NOT (a b)"},
		{"NOT NOT(a OR b)", "NOT NOT (a OR b)"},
		{"and or not", "and or not"},
		{`"AND"`, "and"},
		{"foo-bar 203.0.113.42", `"foo bar" "203 0 113 42"`},
		{"user@example.com", `"user example com"`},
		{"foo_bar", "foo_bar"},
		{"pay* foo-b*", `pay* "foo b"*`},
		{`"failed log"*`, `"failed log"*`},
		{`~"5% \"off\"\n"`, `~"5% \"off\"\n"`},
		{`/a\/b\\/`, `/a\/b\\/`},
		{`/(?i)x y/`, `/(?i)x y/`},
		{"level:ERROR", "level:error"},
		{"ip:203.0.113.42", "ip:203.0.113.42"},
		{"ip:2001:db8::1", "ip:2001:db8::1"},
		{`metadata.user.name:"Ann"`, "user.name:ann"},
		{`user."name"."x y":"Ann B"`, `"user.name.x y":"ann b"`},
		{`"a.b":x`, "a.b:x"},
		{`"level":x`, "metadata.level:x"},
		{"metadata.level:x", "metadata.level:x"},
		{"metadata.metadata.x:y", "metadata.metadata.x:y"},
		{"metadata.since:x", "metadata.since:x"},
		{"level.x:y message.y:z", "level.x:y message.y:z"},
		{"metadata.control.x:y", "metadata.control.x:y"},
		{"control:epoch producer:0123456789abcdef", `control.type:epoch producer.key:0123456789abcdef`},
		{"producer.counter:>=5", "producer.counter:>=5"},
		{"exists:control exists:producer.key exists:a.b", "exists:control exists:producer.key exists:a.b"},
		{`exists:"x y" exists:metadata.id`, `exists:"x y" exists:metadata.id`},
		{"amount:>=1000", "amount:>=1000"},
		{"amount:=1e3", "amount:=1e3"},
		{"amount:-5", `amount:"-5"`},
		{"attempts:5..10", "attempts:5..10"},
		{"v:-5..-1e0", "v:-5..-1e0"},
		{`v:"5..10" path:../x`, `v:"5..10" path:"../x"`},
		{"status:4*", "status:4*"},
		{`path:"/api/"*`, `path:"/api/"*`},
		{`name:""`, `name:""`},
		{"message:refund", "message:refund"},
		{`message:"card refund" message:ref*`, `message:"card refund" message:ref*`},
		{`message:~"x" user:/^a/ user:~"B"`, `message:~"x" user:/^a/ user:~"b"`},
		{"since:-15m until:now", "since:-15m until:now"},
		{"since:-1w2d3h4m5s", "since:-1w2d3h4m5s"},
		{"since:2026-01-01 until:2026-01-02T03:04:05.600+01:00", "since:2026-01-01 until:2026-01-02T02:04:05.6Z"},
		{"timestamp:2026-01-01", "timestamp:=2026-01-01"},
		{"eventTime:2026-01-01..2026-01-31", "eventTime:2026-01-01..2026-01-31"},
		{"eventTime:>=-1d", "eventTime:>=-1d"},
		{"index:42 pid:>1", "index:=42 pid:>1"},
		{"user:(", ""},
	} {
		q, err := Parse(c.text, testNow)
		if c.text == "user:(" {
			if err == nil {
				t.Errorf("%q is accepted", c.text)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", c.text, err)
			continue
		}
		if got := q.String(); got != c.want {
			t.Errorf("%q becomes %q, want %q", c.text, got, c.want)
		}
		checkRoundTrip(t, q)
	}
}

// checkRoundTrip parses the canonical spelling again.
func checkRoundTrip(t *testing.T, q *Query) {
	t.Helper()
	text := q.String()
	again, err := Parse(text, testNow)
	var e *Error
	if errors.As(err, &e) && len(text) > MaxLength {
		return // escapes made it longer
	}
	if err != nil {
		t.Fatalf("canonical %q is refused: %v", text, err)
	}
	if !reflect.DeepEqual(simple(again.Root), simple(q.Root)) {
		t.Fatalf("canonical %q means\n%#v, want\n%#v", text, simple(again.Root), simple(q.Root))
	}
}

// simple is a node without compiled programs, which differ from each other.
func simple(n Node) Node {
	all := func(nodes []Node) (out []Node) {
		for _, s := range nodes {
			out = append(out, simple(s))
		}
		return out
	}
	switch n := n.(type) {
	case And:
		return And{all(n.Nodes)}
	case Or:
		return Or{all(n.Nodes)}
	case Not:
		return Not{simple(n.Node)}
	case Regexp:
		n.Re = nil
		return n
	}
	return n
}

func TestMistakesAreShownWhereTheyAre(t *testing.T) {
	for _, c := range []struct {
		text string // ^ stands before the mistake
		msg  string
	}{
		{"failed ^)", "closes nothing"},
		{"a ^(b", "not closed"},
		{"a (^)", "nothing is in"},
		{"a OR ^", "missing here"},
		{"^OR a", "before OR"},
		{"a AND ^AND b", "before AND"},
		{"a AND ^", "missing here"},
		{"NOT ^", "missing here"},
		{"(a OR ^)", "before this )"},
		{"^-draft", "write NOT"},
		{"^!draft", "write NOT"},
		{`a ^"open`, "quote is not closed"},
		{`"a ^\x"`, "begins one of"},
		{`"a ^\ud800"`, "begins one of"},
		{`foo^"bar"`, "inside a word"},
		{`foo^(bar)`, "inside a word"},
		{`"foo"^bar`, "ends before this"},
		{`~"foo"^bar`, "ends before this"},
		{`^~""`, "empty text"},
		{`~^foo`, "in quotes"},
		{"/var/^log", "ends before this"},
		{"^/etc", "no second /"},
		{"x ^//", "it is empty"},
		{"^/a(/", "missing closing )"},
		{"^/(a{1000}){1000}/", "RE2"},
		{"^/(ab{30}c){33}/", "too large"},
		{"^/" + strings.Repeat("a", MaxRegexp+1) + "/", "at most 1000"},
		{"p^*y", "only at the end"},
		{"^*", "before a *"},
		{"^foo-*", "before a *"},
		{"^+++", "no word"},
		{"user:^", "value is missing"},
		{"user:^ ann", "value is missing"},
		{"^12:30", "no field name"},
		{"^a/b:c", "no field name"},
		{"fe80:^:1", "second colon"},
		{"^metadata:x", "metadata.NAME"},
		{"user:^*", "exists:FIELD"},
		{`user:^""*`, "empty text"},
		{"level:^loud", "levels are INFO"},
		{"level:>^5", "no order"},
		{"amount:>=^x", "want a number"},
		{"amount:>^", "missing here"},
		{"amount:^5..", "two ends"},
		{"amount:5..^x", "want a number"},
		{"amount:^10..5", "ends before it begins"},
		{"amount:^5..2026-01-01", "the other a time"},
		{"timestamp:^yesterday", "want a date"},
		{"timestamp:>^5", "want a date"},
		{"^timestamp:~\"2026\"", "no text"},
		{"^pid:/1/", "no text"},
		{"timestamp:^2026*", "no text"},
		{"pid:^x", "with a number"},
		{"pid:>^2026-01-01", "with a number"},
		{"since:^24h", "want a date"},
		{"since:^-24", "want a date"},
		{"since:^-1m1h", "want a date"},
		{"since:^-9999999w", "want a date"},
		{"since:^2026-02-30", "want a date"},
		{"until:^2026-01-01T10:00", "want a date"},
		{"exists:^*", "a field's name"},
		{"exists:^since", "no field"},
		{"exists:a^:b", "ends before this"},
		{"user:foo^(bar", "inside a word"},
		{strings.Repeat("(", MaxDepth) + "^(a", "64 deep"},
		{strings.Repeat("NOT ", MaxDepth) + "^NOT a", "64 deep"},
		{strings.Repeat("a ", MaxTerms) + "^a", "256 conditions"},
		{strings.Repeat("/a/ ", MaxRegexps) + "^/a/", "8 regular"},
		{strings.Repeat("é", MaxLength/2) + "^é", "4096 bytes"},
		{"a ^\xff", "not UTF-8"},
	} {
		before, after, found := strings.Cut(c.text, "^")
		if !found {
			t.Fatalf("%q has no ^", c.text)
		}
		if strings.HasPrefix(c.text, "user:/^") {
			t.Fatal("ambiguous case")
		}
		_, err := Parse(before+after, testNow)
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("%q is accepted", before+after)
			continue
		}
		if e.Offset != len(before) || !strings.Contains(e.Msg, c.msg) {
			t.Errorf("%q: %q at %d, want %q at %d", before+after, e.Msg, e.Offset, c.msg, len(before))
		}
	}
}

func TestLimitsAreReached(t *testing.T) {
	for _, text := range []string{
		strings.Repeat("(", MaxDepth) + "a" + strings.Repeat(")", MaxDepth),
		strings.Repeat("NOT ", MaxDepth) + "a",
		strings.Repeat("a ", MaxTerms),
		strings.Repeat("/a/ ", MaxRegexps),
		strings.Repeat("é", MaxLength/2),
		"/" + strings.Repeat("a", MaxRegexp) + "/",
		"/(a{30}){30}/",
	} {
		if _, err := Parse(text, testNow); err != nil {
			t.Errorf("%.40q: %v", text, err)
		}
	}
}

func TestCaretStandsUnderTheMistake(t *testing.T) {
	for _, c := range []struct{ text, line, caret string }{
		{"level:loud", "level:loud", "      ^"},
		{"failed )", "failed )", "       ^"},
		{"a OR ", "a OR ", "     ^"},
		{"für )", "für )", "    ^"},
		{"日本 )", "日本 )", "     ^"},
		{"e\u0301 )", "e\u0301 )", "  ^"},
		{"\x1b[31m )", "·[31m )", "      ^"},
		{"a\n)", "a·)", "  ^"},
		{"a \u202e)", "a ·)", ""},
		{strings.Repeat("a ", 40) + ") " + strings.Repeat("b ", 40), "…" + strings.Repeat("a ", 30) + ") " + strings.Repeat("b ", 29) + "…", strings.Repeat(" ", 61) + "^"},
	} {
		_, err := Parse(c.text, testNow)
		var e *Error
		if !errors.As(err, &e) {
			t.Fatalf("%q is accepted", c.text)
		}
		line, caret := e.Caret()
		if line != c.line || c.caret != "" && caret != c.caret {
			t.Errorf("%q is shown as\n%s\n%s\nwant\n%s\n%s", c.text, line, caret, c.line, c.caret)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"", `a AND (b OR NOT "c d"*) x:y`, `~"\u0041" /a\/b/ a."b.c":>=1e3 t:-1d..now`, "exists:metadata.level since:-15m until:2026-01-01T00:00:00.5Z",
		`"level":~"x" message:pay* producer:ab control.type:/x/`, "a:1..2 ι* ͅ \u0345", "x:\"\\u2028\"", "NOT NOT(a)",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		q, err := Parse(text, testNow)
		if err == nil {
			checkRoundTrip(t, q)
			NewMatcher(q)
			return
		}
		var e *Error
		if !errors.As(err, &e) || e.Offset < 0 || e.Offset > len(e.Query) || !utf8.ValidString(e.Query) || e.Msg == "" {
			t.Fatalf("%q: %#v", text, err)
		}
		line, caret := e.Caret()
		if strings.ContainsAny(line, "\n\r\x1b") || len(caret) > 2*excerpt+2 {
			t.Fatalf("%q is shown as %q, %q", text, line, caret)
		}
	})
}

func TestDecimalComparesExactly(t *testing.T) {
	ascending := []string{
		"-1e1099511627776", "-1e300", "-18446744073709551616", "-18446744073709551615", "-10", "-1.5", "-1", "-0.1", "-1e-300", "0", "1e-1000000000", "1e-300", "0.1",
		"0.10000000000000000000000000001", "0.2", "1", "1.0000000000000000000001", "9", "10", "11", "100", "18446744073709551614", "18446744073709551615", "1e20", "1e300", "1e1099511627775",
	}
	for i, a := range ascending {
		x, ok := ParseDecimal(a)
		if !ok {
			t.Fatalf("%s is no number", a)
		}
		for j, b := range ascending {
			y, _ := ParseDecimal(b)
			want := 0
			if i != j {
				want = 1
				if i < j {
					want = -1
				}
			}
			if got := x.Cmp(y); got != want {
				t.Errorf("%s compared with %s is %d, want %d", a, b, got, want)
			}
		}
	}
	for _, same := range [][]string{{"0", "-0", "0.0", "0e5", "-0.0e-5", "0e99999999999999999999"}, {"1000", "1e3", "1E+3", "1000.0", "0.001e6", "10000e-1"}, {"-0.5", "-5e-1", "-0.50"}} {
		for _, s := range same {
			x, ok := ParseDecimal(s)
			if y, _ := ParseDecimal(same[0]); !ok || x != y {
				t.Errorf("%s is %v, %v, want as %s", s, x, ok, same[0])
			}
		}
	}
	for _, s := range []string{"", "-", "+1", "01", "-01", ".5", "5.", "1e", "1e+", "1x", "1e5x", " 1", "1 ", "0x1", "1_000", "NaN", "Infinity", "1e1099511627777", "1e99999999999999999999"} {
		if d, ok := ParseDecimal(s); ok {
			t.Errorf("%q is the number %v", s, d)
		}
	}
}

func ExampleParse() {
	_, err := Parse(`failed AND (login OR`, testNow)
	var e *Error
	if errors.As(err, &e) {
		line, caret := e.Caret()
		fmt.Printf("%s\n%s\n%s\n", e, line, strings.TrimRight(caret, " "))
	}
	// Output:
	// query: character 21: a condition is missing here
	// failed AND (login OR
	//                     ^
}
