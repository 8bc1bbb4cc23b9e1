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
	vkeys := l.VerifierKeys()
	early, err := l.Proof(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	first, err := l.Entry(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := check(vkeys, first.Line, early, nil); err != nil {
		t.Error(err)
	}
	if _, err := check(vkeys[:1], first.Line, early, nil); err == nil {
		t.Error("the log key alone, which can be stolen, was enough")
	}
	if err := l.RotateKeys(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Audit(t.Context(), "access granted", nil); err != nil {
		t.Fatal(err)
	}
	receipt, err := l.Proof(t.Context(), 8)
	if err != nil {
		t.Fatal(err)
	}
	e, err := l.Entry(t.Context(), 8)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := l.KeyChain()
	if err != nil {
		t.Fatal(err)
	}
	keysFile, chainFile := filepath.Join(dir, "keys"), filepath.Join(dir, "chain")
	entryFile, proofFile := filepath.Join(dir, "entry"), filepath.Join(dir, "proof")
	for name, data := range map[string][]byte{entryFile: append(bytes.Clone(e.Line), '\n'), proofFile: receipt, chainFile: chain, keysFile: []byte(strings.Join(vkeys, "\n") + "\n")} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out strings.Builder
	if err := run(log.New(&out, "", 0), []string{keysFile, entryFile, proofFile, chainFile}); err != nil || !strings.Contains(out.String(), "of 9 entries") {
		t.Fatalf("%q, %v", out.String(), err)
	}

	other, err := immutable.Open(filepath.Join(dir, "other"), &immutable.Config{StateDir: filepath.Join(dir, "state")})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := check(other.VerifierKeys(), e.Line, receipt, chain); err == nil {
		t.Error("another log's key was taken")
	}
	if _, err := check(vkeys, bytes.Replace(e.Line, []byte("granted"), []byte("refused"), 1), receipt, chain); err == nil {
		t.Error("another entry was taken")
	}
	if _, err := check(vkeys, e.Line, receipt, nil); err == nil {
		t.Error("a receipt by keys that nothing leads to was taken")
	}
	for i := range receipt {
		if i > 300 && i%7 != 0 { // the rest is base64 of signatures
			continue
		}
		bad := bytes.Clone(receipt)
		bad[i] ^= 1
		if _, err := check(vkeys, e.Line, bad, chain); err == nil {
			t.Errorf("a receipt with byte %d changed was taken", i)
		}
	}
	if err := run(log.New(io.Discard, "", 0), nil); err == nil {
		t.Error("no arguments were taken")
	}
}
