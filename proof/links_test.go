package proof

import (
	"bytes"
	"strings"
	"testing"
)

func TestEpochLinksComeBack(t *testing.T) {
	x := threeEpochs(t, false)
	want := []EpochLink{x.link(1, nil), x.link(2, nil), {Number: MaxSize, Entry: []byte("\x00\"\\\u0080 é\x7f"), Proof: []byte("\n")}}
	var file []byte
	for _, l := range want {
		file = l.Append(file)
	}
	got, err := ParseEpochLinks(file)
	if err != nil || len(got) != len(want) {
		t.Fatalf("got %d links, %v", len(got), err)
	}
	for i := range want {
		if got[i].Number != want[i].Number || !bytes.Equal(got[i].Entry, want[i].Entry) || !bytes.Equal(got[i].Proof, want[i].Proof) {
			t.Errorf("link %d: got %v, want %v", i, got[i], want[i])
		}
	}
	if got, err := ParseEpochLinks(nil); err != nil || len(got) != 0 {
		t.Errorf("no epochs yet: got %v, %v", got, err)
	}
	// The links before a bad line are returned, so that a torn file can be followed as far as it goes.
	first := len(want[0].Append(nil))
	if got, err := ParseEpochLinks(file[:first+10]); err == nil || len(got) != 1 || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("cut in the second line: got %d links, %v", len(got), err)
	}
}

func TestParseEpochLinksRefusesEveryOtherSpelling(t *testing.T) {
	const good = `{"epoch":1,"entry":"a\n","proof":"b"}` + "\n"
	if _, err := ParseEpochLinks([]byte(good)); err != nil {
		t.Fatal(err)
	}
	if _, err := ParseEpochLinks([]byte(strings.TrimSuffix(good, "\n"))); err == nil || !strings.Contains(err.Error(), "no newline") {
		t.Errorf("a torn line: got %v", err)
	}
	for what, s := range map[string]string{
		"an empty line":    "\n" + good,
		"CRLF":             strings.TrimSuffix(good, "\n") + "\r\n",
		"a space":          strings.Replace(good, ":1", ": 1", 1),
		"epoch 0":          strings.Replace(good, ":1", ":0", 1),
		"leading zero":     strings.Replace(good, ":1", ":01", 1),
		"2^63":             strings.Replace(good, ":1", ":9223372036854775808", 1),
		"another order":    `{"entry":"a","epoch":1,"proof":"b"}` + "\n",
		"a member more":    strings.TrimSuffix(good, "}\n") + `,"x":1}` + "\n",
		"no proof":         `{"epoch":1,"entry":"a"}` + "\n",
		"an empty entry":   `{"epoch":1,"entry":"","proof":"b"}` + "\n",
		"an empty proof":   `{"epoch":1,"entry":"a","proof":""}` + "\n",
		"another escape":   strings.Replace(good, `a\n`, `a\u000a`, 1),
		"a needless one":   strings.Replace(good, `a\n`, `\u0061`, 1),
		"a number":         strings.Replace(good, `"b"`, `1`, 1),
		"invalid UTF-8":    strings.Replace(good, "b", "\xff", 1),
		"a lone surrogate": strings.Replace(good, `"b"`, `"\ud800"`, 1),
		"no brace":         strings.Replace(good, "}", "", 1),
	} {
		if _, err := ParseEpochLinks([]byte(s)); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
}

func TestEpochLinksAreBounded(t *testing.T) {
	for over := range 2 {
		l := EpochLink{Number: 1, Entry: []byte("e"), Proof: []byte("p")}
		l.Proof = bytes.Repeat([]byte("p"), MaxEpochLink-len(l.Append(nil))+1+over)
		if _, err := ParseEpochLinks(l.Append(nil)); (err == nil) != (over == 0) {
			t.Errorf("%d bytes above the limit of a link: got %v", over, err)
		}
		one := EpochLink{Number: 1, Entry: []byte("e"), Proof: []byte("p")}.Append(nil)
		if got, err := ParseEpochLinks(bytes.Repeat(one, MaxEpochs+over)); (err == nil) != (over == 0) || len(got) != MaxEpochs {
			t.Errorf("%d links above the limit: got %d, %v", over, len(got), err)
		}
	}
}

func FuzzParseEpochLinks(f *testing.F) {
	x := threeEpochs(f, false)
	f.Add(x.link(2, nil).Append(x.link(1, nil).Append(nil)))
	f.Add([]byte(`{"epoch":1,"entry":"a\n","proof":"b"}` + "\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		links, err := ParseEpochLinks(data)
		if err != nil {
			return
		}
		var again []byte
		for _, l := range links {
			again = l.Append(again)
		}
		if !bytes.Equal(again, data) {
			t.Fatalf("%q was accepted and is written %q", data, again)
		}
	})
}
