package main

import (
	"bufio"
	"strings"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
)

// TestOnlyATerminalGetsMarks, and what is marked or not is made safe all the same.
func TestOnlyATerminalGetsMarks(t *testing.T) {
	filter, err := immutable.ParseFilter(`"failed login" user:ann`, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	e := &immutable.Entry{Index: 7, Level: immutable.Info, Message: "\x1b[2J Failed\u202e login ok", Metadata: []byte(`{"user":"Ann","n":1}`)}
	for _, colour := range []bool{false, true} {
		var b strings.Builder
		c := &call{app: &app{}, out: &printer{w: bufio.NewWriter(&b), colour: colour}}
		c.entryMarked(e, filter)
		if err := c.out.flush(); err != nil {
			t.Fatal(err)
		}
		got := b.String()
		plain := `\u001b[2J Failed\u202e login ok`
		if colour {
			plain = `\u001b[2J ` + "\x1b[1;33mFailed" + `\u202e login` + "\x1b[0m ok"
		}
		if !strings.Contains(got, plain) || strings.Contains(got, "\x1b[1;33mAnn") != colour || strings.Contains(got, "\x1b[2J") || strings.Contains(got, "\u202e") {
			t.Errorf("with colour %v: %q, want %q in it", colour, got, plain)
		}
		if !colour && strings.Contains(got, "\x1b") {
			t.Errorf("without colour: %q", got)
		}
	}
}
