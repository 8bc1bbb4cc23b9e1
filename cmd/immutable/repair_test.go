package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// repairLog makes a log with sealed segments and an open one, a backup of an earlier time within the open segment, and
// returns both with the export of all entries.
func repairLog(t *testing.T) (env map[string]string, backup string, want []byte) {
	t.Helper()
	env = logEnv(t)
	lines := func(from, to int) []byte {
		var b bytes.Buffer
		for i := from; i < to; i++ {
			fmt.Fprintf(&b, `{"message":"entry %d","metadata":{"n":%d,"fill":"%s"}}`+"\n", i, i, strings.Repeat("x", i%100))
		}
		return b.Bytes()
	}
	for i := range 2 {
		mustRun(t, env, lines(256*i, 256*i+256), "append", "--batch", "50")
		mustRun(t, env, nil, "rotate")
	}
	mustRun(t, env, lines(512, 660), "append", "--batch", "7")
	backup = filepath.Join(t.TempDir(), "backup")
	if err := copyTree(backup, env["IMMUTABLE_LOG_DIR"]); err != nil {
		t.Fatal(err)
	}
	mustRun(t, env, lines(660, 690), "append", "--batch", "7")
	return env, backup, mustRun(t, env, nil, "export").out
}

func verdictOf(t *testing.T, env map[string]string) string {
	t.Helper()
	var rep struct{ Verdict string }
	r := run(t, env, nil, "verify", "--json")
	if err := json.Unmarshal(r.out, &rep); err != nil {
		t.Fatalf("%v: %s%s", err, r.out, r.errOut)
	}
	return rep.Verdict
}

// TestRepairRestoresEveryFileThatTheBackupHas damages each file of a log in turn, in several ways, and repairs it. Afterwards every
// entry is what it was, the log verifies and takes appends.
func TestRepairRestoresEveryFileThatTheBackupHas(t *testing.T) {
	alone(t)
	env, backup, want := repairLog(t)
	var files []string
	dir := env["IMMUTABLE_LOG_DIR"]
	err := filepath.WalkDir(backup, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && e.Name() != "lock" && e.Name() != "reserve" {
			rel, rerr := filepath.Rel(backup, path)
			files = append(files, rel)
			return rerr
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 8 {
		t.Fatalf("only %q", files)
	}
	for _, name := range files {
		for what, change := range map[string]func([]byte) []byte{
			"flip":  func(b []byte) []byte { b[0] ^= 1; return b }, // further in, an archive may decode to the same lines
			"empty": func([]byte) []byte { return nil },
			"cut":   func(b []byte) []byte { return b[:len(b)/2] },
			"gone":  nil,
		} {
			t.Run(strings.ReplaceAll(name, "/", " ")+" "+what, func(t *testing.T) { repairOne(t, env, backup, dir, name, change, want) })
		}
	}
	mustRun(t, env, nil, "log", "info", "the log goes on")
	if got := verdictOf(t, env); got != "proven" {
		t.Fatalf("after all repairs and an append the log is %s", got)
	}
}

func repairOne(t *testing.T, env map[string]string, backup, dir, name string, change func([]byte) []byte, want []byte) {
	// What stands beyond the backup's end must be the log's own, so files that grew are damaged where the backup has them.
	path := filepath.Join(dir, name)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		if err := os.WriteFile(path, change(bytes.Clone(good)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if verdictOf(t, env) != "refuted" {
		t.Fatal("the damage is not refuted")
	}
	r := run(t, env, nil, "repair", "--from", backup, "--json")
	if r.code == exitNo && strings.Contains(string(r.errOut), "entries 660 to 689 are whole neither in ") && name == segmentName {
		checkUnchanged(t, path, change, good)
		if err := os.WriteFile(path+".new", good, 0o444); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil { // the next case begins with a good log
			t.Fatal(err)
		}
		return
	}
	if r.code != exitOK {
		t.Fatalf("exit code %d: %s%s", r.code, r.out, r.errOut)
	}
	if name == "log.json" { // another file has its name now: the head knows the first one
		if r := run(t, env, nil, "adopt"); r.code != exitOK && !bytes.Contains(r.errOut, []byte("nothing to adopt")) { // the file system gave it the old one's inode
			t.Fatalf("adopt: exit code %d: %s", r.code, r.errOut)
		}
		mustRun(t, env, nil, "rotate") // opens it, which signs a clean head again
	}
	if got := verdictOf(t, env); got != "proven" {
		t.Fatalf("the repaired log is %s: %s", got, r.out)
	}
	if got := mustRun(t, env, nil, "export").out; !bytes.Equal(got, want) {
		t.Fatal("entries differ after the repair")
	}
	if _, err := os.Stat(filepath.Join(dir, ".repair")); err == nil {
		t.Fatal("the candidate was left behind")
	}
}

// checkUnchanged says that a repair that was refused has not touched the file.
func checkUnchanged(t *testing.T, path string, change func([]byte) []byte, good []byte) {
	t.Helper()
	got, err := os.ReadFile(path)
	if change == nil {
		if err == nil {
			t.Fatal("it is there again")
		}
		return
	}
	if err != nil || !bytes.Equal(got, change(bytes.Clone(good))) {
		t.Fatalf("it was changed: %v", err)
	}
}

func TestRepairRefusesWhatDoesNotProveItself(t *testing.T) {
	env, backup, _ := repairLog(t)
	dir := env["IMMUTABLE_LOG_DIR"]
	if r := mustRun(t, env, nil, "repair", "--from", backup); !bytes.Contains(r.out, []byte("nothing to repair")) {
		t.Fatalf("%s", r.out)
	}
	if r := run(t, env, nil, "repair", "--from", dir); r.code != exitNo {
		t.Fatalf("from itself: exit code %d", r.code)
	}
	if r := run(t, env, nil, "repair", "--from", "nowhere"); r.code != exitUnknown {
		t.Fatalf("from nowhere: exit code %d", r.code)
	}
	if r := run(t, env, nil, "repair"); r.code != exitUnknown {
		t.Fatalf("without --from: exit code %d", r.code)
	}
	// Damage in both, at the same entry.
	archives, err := filepath.Glob(filepath.Join(dir, "archive", "*"))
	if err != nil || len(archives) == 0 {
		t.Fatalf("archives: %q, %v", archives, err)
	}
	for _, base := range []string{dir, backup} {
		if err := rewrite(base, filepath.Join("archive", filepath.Base(archives[0])), func(b []byte) ([]byte, error) { b[len(b)/2] ^= 4; return b, nil }); err != nil {
			t.Fatal(err)
		}
	}
	before := treeOf(t, dir)
	r := run(t, env, nil, "repair", "--from", backup)
	if r.code != exitNo || !bytes.Contains(r.errOut, []byte("entries 0 to ")) {
		t.Fatalf("exit code %d: %s", r.code, r.errOut)
	}
	if after := treeOf(t, dir); after != before {
		t.Fatalf("it was changed:\n%s\n%s", before, after)
	}
}

// treeOf is a directory's files with their contents, without locks.
func treeOf(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || e.Name() == "lock" {
			return err
		}
		data, err := os.ReadFile(path)
		fmt.Fprintf(&b, "%s %x\n", path, data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}
