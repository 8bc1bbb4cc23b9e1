package main

import (
	"bytes"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable"
)

func TestReceiptProvesItsEntryAndNoOther(t *testing.T) {
	dir := t.TempDir()
	l, err := immutable.Open(filepath.Join(dir, "log"), &immutable.Config{StateDir: filepath.Join(dir, "state")})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for range 7 {
		if _, err := l.Audit(t.Context(), "access granted", immutable.Fields{"user": "ann"}); err != nil {
			t.Fatal(err)
		}
	}
	e, err := l.Entry(t.Context(), 4)
	if err != nil {
		t.Fatal(err)
	}
	receipt, err := l.Proof(t.Context(), 4)
	if err != nil {
		t.Fatal(err)
	}
	vkey := l.VerifierKeys()[0]
	entryFile, proofFile := filepath.Join(dir, "entry"), filepath.Join(dir, "proof")
	for name, data := range map[string][]byte{entryFile: append(bytes.Clone(e.Line), '\n'), proofFile: receipt} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out strings.Builder
	if err := run(log.New(&out, "", 0), []string{vkey, entryFile, proofFile}); err != nil || !strings.Contains(out.String(), "of 7 entries") {
		t.Fatalf("%q, %v", out.String(), err)
	}

	other, err := immutable.Open(filepath.Join(dir, "other"), &immutable.Config{StateDir: filepath.Join(dir, "state")})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := check(other.VerifierKeys()[0], e.Line, receipt); err == nil {
		t.Error("another log's key was taken")
	}
	if _, err := check(vkey, bytes.Replace(e.Line, []byte("ann"), []byte("bob"), 1), receipt); err == nil {
		t.Error("another entry was taken")
	}
	for i := range receipt {
		bad := bytes.Clone(receipt)
		bad[i] ^= 1
		if _, err := check(vkey, e.Line, bad); err == nil {
			t.Errorf("a receipt with byte %d changed was taken", i)
		}
	}
	if err := run(log.New(io.Discard, "", 0), nil); err == nil {
		t.Error("no arguments were taken")
	}
}
