package immutable

import (
	"context"
	"os"
	"path/filepath"
	"testing"
)

func TestVerifyProvesAnHonestLogAndRefutesAnEditedOne(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	l := openTest(t, dir, func(c *Config) { c.RotateSize = minRotateSize })
	receipts := fill(t, l, 1000, 100)
	note, err := l.Checkpoint()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // while it is open, and after it was closed
		rep, err := VerifyDir(context.Background(), dir, &Config{StateDir: l.cfg.StateDir}, VerifyOptions{
			Keys: l.VerifierKeys(), Checkpoints: [][]byte{note}, Receipts: receipts[:3], Indexes: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		if rep.Verdict != Proven || rep.Entries != 1000 || len(rep.Basis) < 4 {
			t.Fatalf("verdict %s on %v, %d entries, findings %v", rep.Verdict, rep.Basis, rep.Entries, rep.Findings)
		}
		if !l.closed {
			closeTest(t, l)
		}
	}
	name := filepath.Join(dir, openName)
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.Chmod(name, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	rep, err := VerifyDir(context.Background(), dir, &Config{StateDir: l.cfg.StateDir}, VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if rep.Verdict != Refuted || rep.Findings[0].File != openName {
		t.Fatalf("verdict %s, findings %v", rep.Verdict, rep.Findings)
	}
}
