package entry

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

var objects = []string{
	`{}`, ` { } `, `{"":0}`, `{"a":1,"b":[true,false,null,"x",{}],"c":{"a":1}}`, "\t{\"a\" : [ 1 ,\n2 ] ,\r\"b\":\"x y\" }\n",
	`{"\u0061":1,"b":2}`, `{"a":"\ud83d\ude00 \uD83D\uDE00 \/ \b\f\n\r\t \u0000"}`, "{\"a\":\"\u007f\u0085\u2028é😀\"}",
	`{"a":0,"b":-0,"c":-0.0,"d":0e999999999999999999999,"e":0.000e-5,"f":1.0,"g":100E+2,"h":1.50}`,
	`{"a":18446744073709551615,"b":-99999999999999999999,"c":100000000000000000000000,"d":1e308,"e":5e-324}`,
	`{"a":1.7976931348623157e308,"b":123456.123456789e-3,"c":0.1,"d":0.30000000000000004,"e":2.2250738585072014e-308}`,
	`{"aaaaaaaaaaaaaaaaa":1,"aaaaaaaabaaaaaaaa":2,"aaaaaaaacaaaaaaaa":3}`,
	`{"a":1,"A":2,"á":3,"a\u0301":4}`,
}

var badObjects = []string{
	``, ` `, `[]`, `1`, `"x"`, `null`, `{`, `{"a"`, `{"a":`, `{"a":1`, `{"a":1,`, `{"a":1,}`, `{,}`, `{"a" 1}`, `{"a":1}x`, `{"a":1}{}`, `{a:1}`, `{'a':1}`,
	`{"a":[1,]}`, `{"a":[,1]}`, `{"a":[1 2]}`, `{"a":[`, `{"a":tru}`, `{"a":nul}`, `{"a":False}`, `{"a":+1}`, `{"a":01}`, `{"a":-01}`, `{"a":-}`, `{"a":1.}`, `{"a":.5}`, `{"a":1e}`, `{"a":1e+}`, `{"a":1.e1}`, `{"a":0x1}`, `{"a":NaN}`, `{"a":Infinity}`,
	`{"a":"` + "\n" + `"}`, `{"a":"\x"}`, `{"a":"\u12"}`, `{"a":"\u12g4"}`, `{"a":"\ud800"}`, `{"a":"\udc00"}`, `{"a":"\ud800\ud800"}`, `{"a":"\ud800\u0041"}`, `{"a":"\ud800x\udc00"}`, `{"\udfff":1}`, "{\"a\":\"\xff\"}", "{\"\xc0\x80\":1}", "{\"a\":\"\xed\xa0\x80\"}", `{"a":"`, `{"a":"\`, `{"a":"\u`,
	`{"a":1,"a":1}`, `{"a":1,"\u0061":1}`, `{"":1,"":2}`, `{"x":{"a":1,"b":2,"a":3}}`, `{"\ud83d\ude00":1,"😀":2}`, `{"aaaaaaaaaaaaaaaaa":1,"aaaaaaaaaaaaaaaaa":2}`,
	`{"a":1e309}`, `{"a":-1e400}`, `{"a":1e-400}`, `{"a":0.1000000000000000055}`, `{"a":123456789012345678901}`, `{"a":1.00000000000000001}`, `{"a":4.9e-324}`, `{"a":1e99999999999999999999}`, `{"a":1e-99999999999999999999}`, `{"a":9007199254740993.0}`, `{"a":1.7976931348623159e308}`,
	"\ufeff{}", "{\u00a0}", "{\"a\":1\x00}", "{\x0b}",
}

func TestObjectIsAcceptedExactlyOrRefused(t *testing.T) {
	for _, s := range objects {
		if !checkObject(t, []byte(s)) {
			t.Errorf("%s is refused", s)
		}
	}
	for _, s := range badObjects {
		if checkObject(t, []byte(s)) {
			t.Errorf("%s is accepted", s)
		}
	}
}

func TestRefusedObjectSaysWhere(t *testing.T) {
	for _, c := range []struct {
		raw, field string
		offset     int
	}{
		{`{"a":{"b":[0,{"c d":1e400}]}}`, `a.b[1]."c d"`, 20},
		{`{"a":1, "b":{"x":1,"x":2}}`, `b.x`, 19},
		{`{"a":"` + "\xff" + `"}`, `a`, 6},
		{`{"a":"x\ud800"}`, `a`, 7},
		{`{"a":tru}`, `a`, 5},
		{`[]`, ``, 0},
		{`{"a":1}]`, ``, 7},
	} {
		_, err := AppendObject(nil, []byte(c.raw))
		var e *FieldError
		if !errors.As(err, &e) || e.Field != c.field || e.Offset != c.offset {
			t.Errorf("%q: got %v, want field %q, offset %d", c.raw, err, c.field, c.offset)
		}
	}
}

func TestDuplicateNameIsFoundAmongMany(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{2, 31, 32, 33, 47, 48, 49, 50, 200, 4000} {
		names := make([]string, n)
		for i := range names {
			names[i] = strconv.Itoa(i)
			if rng.IntN(3) == 0 { // an escape changes the spelling, not the name
				names[i] = fmt.Sprintf(`\u%04x`, names[i][0]) + names[i][1:]
			}
		}
		unique := `{"in":{"x":1,"` + strings.Join(names, `":1,"`) + `":1},"y":{"x":1}}`
		if !checkObject(t, []byte(unique)) {
			t.Errorf("%d unique names are refused", n)
		}
		from, to := rng.IntN(n), rng.IntN(n)
		if from == to {
			to = (to + 1) % n
		}
		names[to] = strconv.Itoa(from)
		double := `{"in":{"x":1,"` + strings.Join(names, `":1,"`) + `":1}}`
		if checkObject(t, []byte(double)) {
			t.Errorf("the name %d stands twice among %d and is accepted", from, n)
		}
	}
}

func TestNestingHasALimit(t *testing.T) {
	for _, n := range []int{MaxDepth, MaxDepth + 1, 100_000} {
		for _, s := range []string{
			strings.Repeat(`{"a":`, n-1) + `{}` + strings.Repeat(`}`, n-1),
			`{"a":` + strings.Repeat(`[`, n-1) + strings.Repeat(`]`, n-1) + `}`,
		} {
			_, err := AppendObject(nil, []byte(s))
			if (err == nil) != (n <= MaxDepth) {
				t.Errorf("nesting %d: %v", n, err)
			}
			if err != nil && len(err.Error()) > 1000 {
				t.Errorf("nesting %d: the error has %d bytes", n, len(err.Error()))
			}
		}
	}
}

func TestObjectSizeHasALimit(t *testing.T) {
	fits := `{"a":"` + strings.Repeat("x", MaxLine-8) + `"}`
	for s, want := range map[string]bool{
		fits: true, " " + fits + strings.Repeat("\n", 1<<20): true, fits[:6] + "x" + fits[6:]: false,
		`{"a":[` + strings.Repeat("0,", MaxLine) + `0]}`: false,
		strings.Repeat(" ", maxRaw) + "{}":               false,
	} {
		if _, err := AppendObject(nil, []byte(s)); (err == nil) != want {
			t.Errorf("%d bytes: %v", len(s), err)
		}
	}
}

func TestNumberRuleMatchesExactArithmetic(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	digits := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte('0' + rng.IntN(10))
		}
		return string(b)
	}
	accepted := 0
	check := func(s string) {
		if checkObject(t, []byte(`{"n":`+s+`}`)) {
			accepted++
		}
	}
	for range 20_000 {
		f := math.Float64frombits(rng.Uint64())
		if math.IsNaN(f) || math.IsInf(f, 0) {
			continue
		}
		check(strconv.FormatFloat(f, 'e', -1, 64))
		check(strconv.FormatFloat(f, 'e', 14+rng.IntN(5), 64))
		check(strconv.FormatFloat(rng.ExpFloat64(), 'f', 12+rng.IntN(8), 64))
		check(strconv.Itoa(1+rng.IntN(9)) + digits(rng.IntN(25)) + "." + digits(1+rng.IntN(6)) + strings.Repeat("0", rng.IntN(3)))
		check(fmt.Sprintf("%d%se%d", 1+rng.IntN(9), digits(rng.IntN(17)), rng.IntN(700)-350))
	}
	if accepted < 20_000 {
		t.Errorf("only %d numbers were accepted", accepted)
	}
	for _, s := range []string{
		"0." + strings.Repeat("0", 60_000) + "1e60001", "1" + strings.Repeat("0", 60_000) + "e-60000",
		"1" + strings.Repeat("0", 60_000) + "e-59500", "0e" + strings.Repeat("9", 60_000), "1e" + strings.Repeat("9", 60_000),
		"1e-" + strings.Repeat("9", 60_000), "1e" + strings.Repeat("0", 60_000) + "5", strings.Repeat("9", 60_000),
	} {
		check(s)
	}
}

// checkString checks the one spelling and the way back.
func checkString(t *testing.T, s string) {
	t.Helper()
	raw, err := AppendString(nil, s)
	if (err == nil) != utf8.ValidString(s) {
		t.Fatalf("%q: %v", s, err)
	}
	if err != nil {
		var e *FieldError
		if !errors.As(err, &e) {
			t.Fatalf("%q: %T", s, err)
		}
		at := e.Offset
		if r, n := utf8.DecodeRuneInString(s[at:]); !utf8.ValidString(s[:at]) || r != utf8.RuneError || n != 1 {
			t.Fatalf("%q: offset %d is not the first invalid byte", s, at)
		}
		return
	}
	if want := naiveQuote(s); string(raw) != want {
		t.Fatalf("%q: got %s, want %s", s, raw, want)
	}
	end, size, fail := canonical(append(raw, "tail"...), 0)
	if fail != nil || end != len(raw) || size != len(s) {
		t.Fatalf("%q: got end %d, size %d, %v", s, end, size, fail)
	}
	if got, err := Unquote(raw); err != nil || got != s || Text(raw) != s {
		t.Fatalf("%s: got %q, %v; want %q", raw, got, err, s)
	}
}

func TestStringHasOneSpelling(t *testing.T) {
	for r := rune(0); r <= 0x2100; r++ {
		for pad := range 9 {
			checkString(t, strings.Repeat("p", pad)+string(r)+strings.Repeat("é", pad)+"end")
		}
	}
	for _, s := range []string{"\xff", "12345678\x80", "é\xc2", "\xed\xa0\x80", "\xf4\x90\x80\x80", "a\xc0\xaf", "中文\xe4\xb8"} {
		checkString(t, s)
	}
}

func TestUnquoteRefusesWhatIsNoString(t *testing.T) {
	for _, s := range []string{``, `x`, `"`, `"x`, `"x"y`, `"\"`, `"\u00"`, `"\ud800"`, "\"\n\"", "\"\xff\"", ` "x"`, `"\a"`} {
		if got, err := Unquote([]byte(s)); err == nil {
			t.Errorf("%s: got %q", s, got)
		}
	}
	got, err := Unquote([]byte(`"\ud83d\ude00\/\u00e9\u0000"`))
	if want := "😀/é\x00"; err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}
