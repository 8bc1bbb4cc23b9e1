package entry

import "testing"

func TestPeekAgreesWithDecode(t *testing.T) {
	for level := range Level(NumLevels) {
		line, err := Append(nil, &Event{Level: level, Message: "m", Hostname: "h", PID: 1})
		if err != nil {
			t.Fatal(err)
		}
		Patch(line, 7, 1_700_000_000_123_456_789, 5)
		var d Line
		if err := Decode(line, &d); err != nil {
			t.Fatal(err)
		}
		if at, got, ok := Peek(line); !ok || at != d.Time || got != d.Level {
			t.Fatalf("Peek = %d %v %v, Decode %d %v", at, got, ok, d.Time, d.Level)
		}
		for n := range line { // no prefix makes it panic, and none shorter than the places is answered
			if _, _, ok := Peek(line[:n]); ok && n < levelAt {
				t.Fatalf("%d bytes answered", n)
			}
		}
	}
	for _, bad := range []string{"", `{"commit":{"from":0,"size":1}}`, `{"id":"x"}`} {
		if _, _, ok := Peek([]byte(bad)); ok {
			t.Errorf("%q answered", bad)
		}
	}
}
