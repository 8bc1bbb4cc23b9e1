package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable/proof"
)

// testKeys are private keys in a log's name: of the log, and of epochs.
type testKeys map[string]*proof.PrivateKey

func newTestKeys(t *testing.T, origin string) testKeys {
	t.Helper()
	keys := testKeys{}
	for name, typ := range map[string]byte{
		"log": proof.TypeEd25519, "ed": proof.TypeEd25519, "ml": proof.TypeMLDSA44, "ed5": proof.TypeEd25519, "ml5": proof.TypeMLDSA44,
		"other": proof.TypeEd25519,
	} {
		k, err := proof.NewKey(typ, origin, sha256.Sum256([]byte(name)))
		check(t, err)
		keys[name] = k
	}
	w, err := proof.NewKey(proof.TypeCosignature, "witness.example/w", sha256.Sum256([]byte("w")))
	check(t, err)
	keys["w"] = w
	return keys
}

// note is a checkpoint that these keys signed; a name that is no key's is a line that nobody made.
func (k testKeys) note(t *testing.T, text string, names ...string) []byte {
	t.Helper()
	out := []byte(text + "\n")
	for _, name := range names {
		key, ok := k[name]
		if !ok {
			origin, _, _ := strings.Cut(text, "\n")
			out = append(out, "— "+origin+" AAAAAAAAAAAAAAAA\n"...)
			continue
		}
		line, err := key.SignatureLine(text, 1700000000)
		check(t, err)
		out = append(out, line...)
	}
	return out
}

// verifies runs verify and returns the first word of what it says.
func verifies(t *testing.T, env map[string]string, args ...string) (verdict string, r result) {
	t.Helper()
	r = run(t, env, nil, append([]string{"verify"}, args...)...)
	verdict, _, _ = strings.Cut(string(r.out), " ")
	if want, ok := map[string]int{"PROVEN": exitOK, "REFUTED": exitNo, "UNKNOWN": exitUnknown}[verdict]; ok && r.code != want {
		t.Errorf("%v: %s with exit code %d", args, verdict, r.code)
	}
	return verdict, r
}

// A proof is worth the keys that signed it: all of an epoch that are required, and never the log key alone, wherever it stands.
func TestProofNeedsAWholeSetOfKeys(t *testing.T) {
	const origin = "example.com/audit"
	keys, dir := newTestKeys(t, origin), t.TempDir()
	line := []byte(`{"id":"forged"}`)
	text := proof.Checkpoint{Origin: origin, Size: 1, Root: proof.LeafHash(line)}.Text()
	file := func(name string, data []byte) string {
		name = filepath.Join(dir, name)
		check(t, os.WriteFile(name, data, 0o600))
		return name
	}
	entry := file("entry.json", append(line, '\n'))
	v := func(name string) string { return keys[name].Key().String() }
	witness := "witness w " + v("w") + "\n"
	policies := map[string]string{
		"nobody":   file("nobody", []byte("log "+v("log")+"\n"+witness+"quorum none\n")),
		"nolog":    file("nolog", []byte(witness+"quorum w\n")),
		"complete": file("complete", []byte("log "+v("log")+"\n"+witness+"quorum w\n")),
	}
	for i, tt := range []struct {
		signed, given, flags string
		want                 string
	}{
		{"log ed ml", "log ed ml", "", "PROVEN"},
		{"log ed ml", "ml ed log", "", "PROVEN"},
		{"log ed ml w", "log ed ml", "", "PROVEN"},
		// The log key alone, which can be stolen.
		{"log", "log", "", "UNKNOWN"},
		{"log", "log ed ml", "", "UNKNOWN"},
		{"log", "log ed", "", "UNKNOWN"},
		{"junk log", "log", "", "UNKNOWN"},
		{"junk log", "log ed", "", "UNKNOWN"},
		{"log ed ml", "log", "", "UNKNOWN"},
		{"log ed ml", "ed", "", "UNKNOWN"},
		{"log ed", "log ed", "", "UNKNOWN"},
		{"log ml", "log ml", "", "UNKNOWN"},
		{"log ed ml", "ed ml", "", "UNKNOWN"},
		// Stripped: keys that always sign together have not.
		{"ed", "ed", "", "UNKNOWN"},
		{"ed", "log ed ml", "", "UNKNOWN"},
		{"log ed", "log ed ml", "", "REFUTED"},
		{"ml", "log ed ml", "", "REFUTED"},
		{"ed ml", "log ed ml", "", "REFUTED"},
		{"other", "log ed ml", "", "REFUTED"},
		{"other", "log", "", "UNKNOWN"},
		// What --require asks for.
		{"log ed", "log ed", "--require ed25519", "PROVEN"},
		{"log ed", "log ed ml", "--require ed25519", "PROVEN"},
		{"log", "log ed", "--require ed25519", "UNKNOWN"},
		{"log", "log", "--require ed25519", "UNKNOWN"},
		{"log ml", "log ml", "--require ml-dsa-44", "PROVEN"},
		{"log ml", "log ed ml", "--require ml-dsa-44", "PROVEN"},
		{"log ed", "log ed ml", "--require ml-dsa-44", "REFUTED"},
		{"log", "log", "--require both", "UNKNOWN"},
		// Somebody says that the log has one key.
		{"log", "log", "--one-key-log", "PROVEN"},
		{"log w", "log", "--one-key-log", "PROVEN"},
		{"other", "log", "--one-key-log", "REFUTED"},
		{"log ed ml", "log", "--one-key-log", "UNKNOWN"},
		{"log", "log", "--one-key-log --require both", "UNKNOWN"},
		{"log", "log ed ml", "--one-key-log", "UNKNOWN"},
		{"log ed ml", "log ed ml", "--one-key-log", "UNKNOWN"},
		// Keys of another epoch too: what they have to do with it is not known.
		{"log ed ml", "log ed ml ed5 ml5", "", "UNKNOWN"},
		{"log ed5 ml5", "log ed ml", "", "UNKNOWN"},
		{"log ed ml", "log ed ml other", "", "UNKNOWN"},
		// Witnesses: somebody must say which log it is, and a quorum of none is nobody's word.
		{"w", "", "--policy nolog", "UNKNOWN"},
		{"log w", "", "--policy nolog", "UNKNOWN"},
		{"w", "", "--policy complete", "UNKNOWN"},
		{"log w", "", "--policy complete", "PROVEN"},
		{"log w", "log", "--policy nolog", "PROVEN"},
		{"w", "log", "--policy nolog", "UNKNOWN"},
		{"log ed ml w", "log ed ml", "--policy nolog", "PROVEN"},
		{"log ed ml", "log ed ml", "--policy nolog", "UNKNOWN"},
		{"log w", "", "--policy nobody", "UNKNOWN"},
		{"log w", "log", "--policy nobody", "UNKNOWN"},
		{"log ed ml", "log ed ml", "--policy nobody", "PROVEN"},
	} {
		note := keys.note(t, text, strings.Fields(tt.signed)...)
		data, err := proof.InclusionProof{Checkpoint: note}.MarshalText()
		check(t, err)
		receipt := file(fmt.Sprint(i, ".tlog-proof"), data)
		args := []string{receipt, "--entry-file", entry}
		for name := range strings.FieldsSeq(tt.given) {
			args = append(args, "--key", v(name))
		}
		for s := range strings.FieldsSeq(tt.flags) {
			if p, ok := policies[s]; ok {
				s = p
			}
			args = append(args, s)
		}
		if got, r := verifies(t, nil, args...); got != tt.want {
			t.Errorf("signed by %q, given %q %s: %s, want %s\n%s%s", tt.signed, tt.given, tt.flags, got, tt.want, r.out, r.errOut)
		}
	}
}

// rotatedLog is a log in its third epoch, with what `immutable` hands out of it: keys, proofs, exports.
func rotatedLog(t *testing.T) (env map[string]string, file func(string) string) {
	t.Helper()
	env = logEnv(t)
	dir := t.TempDir()
	file = func(name string) string { return filepath.Join(dir, name) }
	keep := func(name string, args ...string) {
		check(t, os.WriteFile(file(name), mustRun(t, env, nil, args...).out, 0o600))
	}
	mustRun(t, env, nil, "init", "--origin", "example.com/audit")
	mustRun(t, env, nil, "log", "audit", "entry")
	keep("keys", "key", "show")
	keep("checkpoint0", "checkpoint")
	mustRun(t, env, nil, "prove", "0", "--out", file("p0.tlog-proof"))
	mustRun(t, env, nil, "key", "rotate")
	mustRun(t, env, nil, "log", "audit", "entry")
	keep("epochs1", "key", "chain")
	keep("keys1", "key", "show", "--current")
	mustRun(t, env, nil, "key", "rotate")
	mustRun(t, env, nil, "log", "audit", "entry")
	keep("epochs2", "key", "chain")
	keep("keys2", "key", "show", "--current")
	keep("checkpoint2", "checkpoint")
	keep("all.jsonl", "export")
	mustRun(t, env, nil, "prove", "0", "--out", file("p.tlog-proof"), "--entry-out", file("p.json"))
	mustRun(t, env, nil, "export", "tiles", file("tiles"))
	return env, file
}

func without(t *testing.T, name string) (back func()) {
	t.Helper()
	data, err := os.ReadFile(name)
	check(t, err)
	check(t, os.Remove(name))
	return func() { check(t, os.WriteFile(name, data, 0o600)) }
}

// What is honest is never refuted because the keys were changed since: it is proven by the chain of keys, which goes along, or
// it cannot be told.
func TestFilesAreVerifiedAfterKeysWereChanged(t *testing.T) {
	_, file := rotatedLog(t)
	for _, tt := range []struct {
		args string // names of files have a @ before them
		want [2]string
		says string
	}{
		// With what was written beside, and without.
		{"@p.tlog-proof --entry-file @p.json --key @keys", [2]string{"PROVEN", "UNKNOWN"}, "epoch 2"},
		{"@p.tlog-proof --entry-file @p.json --key @keys --epochs @epochs2", [2]string{"PROVEN", "PROVEN"}, "epoch 2"},
		{"@p.tlog-proof --entry-file @p.json --key @keys --epochs @epochs1", [2]string{"PROVEN", "UNKNOWN"}, ""},
		{"@p.tlog-proof --entry-file @p.json --key @keys1", [2]string{"PROVEN", "UNKNOWN"}, ""},
		{"@p.tlog-proof --entry-file @p.json --key @keys2", [2]string{"PROVEN", "PROVEN"}, "those of one epoch"},
		{"@p.tlog-proof --entry-file @p.json --key @keys2 --epochs @epochs2", [2]string{"PROVEN", "PROVEN"}, "those of one epoch"},
		// Keys of epoch 2 do not go on from a chain that ends in epoch 1, as far as can be told.
		{"@p.tlog-proof --entry-file @p.json --key @keys2 --epochs @epochs1", [2]string{"UNKNOWN", "UNKNOWN"}, "does not go on"},
		{"@p.tlog-proof --entry-file @p.json --key @keys --key @keys2", [2]string{"PROVEN", "UNKNOWN"}, ""},
		{"@p.tlog-proof --entry-file @p.json --key @keys --epochs @p.json", [2]string{"UNKNOWN", "UNKNOWN"}, "does not go on"},
		{"@p0.tlog-proof --entry-file @p.json --key @keys", [2]string{"PROVEN", "PROVEN"}, ""},
		{"@p0.tlog-proof --entry-file @p.json --key @keys --epochs @epochs2", [2]string{"PROVEN", "PROVEN"}, "epoch 0"},
		{"@p0.tlog-proof --entry-file @p.json --key @keys2", [2]string{"UNKNOWN", "UNKNOWN"}, ""},
		{"@p0.tlog-proof --entry-file @p.json --key @keys2 --epochs @epochs2", [2]string{"UNKNOWN", "UNKNOWN"}, "before that of the keys given"},
		{"@tiles --key @keys", [2]string{"PROVEN", "UNKNOWN"}, "epoch 2"},
		{"@tiles --key @keys --checkpoint @checkpoint0", [2]string{"PROVEN", "UNKNOWN"}, "its entries are these"},
		{"@tiles --key @keys1 --epochs @epochs2", [2]string{"PROVEN", "PROVEN"}, "epoch 2"},
		{"@all.jsonl --checkpoint @checkpoint2 --key @keys", [2]string{"UNKNOWN", "UNKNOWN"}, "--epochs"},
		{"@all.jsonl --checkpoint @checkpoint2 --key @keys --epochs @epochs2", [2]string{"PROVEN", "PROVEN"}, ""},
		{"@all.jsonl --checkpoint @checkpoint2", [2]string{"PROVEN", "PROVEN"}, ""},
	} {
		for i, want := range tt.want {
			back := []func(){}
			if i == 1 {
				back = append(back, without(t, file("p.tlog-proof.epochs")), without(t, file(filepath.Join("tiles", "epochs"))))
			}
			got, r := verifies(t, nil, expand(tt.args, file)...)
			if got != want || want == tt.want[0] && !bytes.Contains(r.out, []byte(tt.says)) {
				t.Errorf("%s (%d): %s, want %s and %q\n%s%s", tt.args, i, got, want, tt.says, r.out, r.errOut)
			}
			for _, f := range back {
				f()
			}
		}
	}
}

// Whoever copied the keys of an epoch before they were destroyed can give them another successor. Two such chains contradict each other,
// whichever of them came with the evidence.
func TestTwoChainsOfKeysFromOneEpochAreRefuted(t *testing.T) {
	env := logEnv(t)
	mustRun(t, env, nil, "init", "--origin", "example.com/audit")
	mustRun(t, env, nil, "log", "audit", "entry")
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	check(t, os.WriteFile(file("keys"), mustRun(t, env, nil, "key", "show").out, 0o600))
	thief := logEnv(t)
	for _, name := range []string{"IMMUTABLE_LOG_DIR", "IMMUTABLE_STATE_DIR"} {
		check(t, os.RemoveAll(thief[name]))
		check(t, os.CopyFS(thief[name], os.DirFS(env[name])))
	}
	r := run(t, thief, nil, "adopt")
	if r.code != 0 {
		t.Fatalf("the copy: %s%s", r.out, r.errOut)
	}
	for name, e := range map[string]map[string]string{"ours": env, "theirs": thief} {
		mustRun(t, e, nil, "key", "rotate")
		mustRun(t, e, nil, "prove", "0", "--out", file(name), "--entry-out", file(name+".entry"))
		check(t, os.WriteFile(file(name+".chain"), mustRun(t, e, nil, "key", "chain").out, 0o600))
	}
	for _, name := range []string{"ours", "theirs"} {
		args := expand("@"+name+" --entry-file @"+name+".entry --key @keys", file)
		if got, r := verifies(t, nil, args...); got != "PROVEN" {
			t.Fatalf("%s alone: %s\n%s%s", name, got, r.out, r.errOut)
		}
		other := map[string]string{"ours": "theirs.chain", "theirs": "ours.chain"}[name]
		got, r := verifies(t, nil, append(args, "--epochs", file(other))...)
		if got != "REFUTED" || !bytes.Contains(r.out, []byte("two chains of keys go on from the keys given, with other keys in epoch 1")) {
			t.Errorf("%s with the other chain: %s\n%s%s", name, got, r.out, r.errOut)
		}
	}
}

func expand(args string, file func(string) string) []string {
	list := strings.Fields(args)
	for i, s := range list {
		if name, found := strings.CutPrefix(s, "@"); found {
			list[i] = file(name)
		}
	}
	return list
}

// Where the epoch is over, what its keys have not signed is refuted; also what carries a chain of keys of its own.
func TestStolenLogKeySignsNothingOfAClosedEpoch(t *testing.T) {
	env, file := rotatedLog(t)
	vkeys := strings.Fields(string(mustRun(t, env, nil, "key", "show").out))
	var log *proof.PrivateKey
	check(t, filepath.WalkDir(env["IMMUTABLE_STATE_DIR"], func(name string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(name)
		for line := range strings.FieldsSeq(string(data)) {
			if k, err := proof.ParsePrivateKey(line); err == nil && k.Key().String() == vkeys[0] {
				log = k
			}
		}
		return err
	}))
	if log == nil {
		t.Fatal("no log key")
	}
	line := []byte(`{"id":"forged"}`)
	for size, want := range map[uint64]string{1: "REFUTED", 3: "REFUTED", 1000: "UNKNOWN"} {
		leaves := slices.Repeat([]proof.Hash{proof.LeafHash(line)}, int(size))
		text := proof.Checkpoint{Origin: "example.com/audit", Size: size, Root: proof.Root(leaves)}.Text()
		hashes, err := proof.InclusionProof{Checkpoint: testKeys{"log": log}.note(t, text, "log"), Hashes: path(leaves)}.MarshalText()
		check(t, err)
		check(t, os.WriteFile(file("forged"), hashes, 0o600))
		check(t, os.WriteFile(file("forged.json"), line, 0o600))
		got, r := verifies(t, nil, expand("@forged --entry-file @forged.json --key @keys --epochs @epochs2", file)...)
		if got != want {
			t.Errorf("size %d: %s, want %s\n%s%s", size, got, want, r.out, r.errOut)
		}
	}
}

// path is the inclusion proof of the first leaf.
func path(leaves []proof.Hash) (list []proof.Hash) {
	for len(leaves) > 1 {
		k := 1
		for 2*k < len(leaves) {
			k *= 2
		}
		list = append([]proof.Hash{proof.Root(leaves[k:])}, list...)
		leaves = leaves[:k]
	}
	return list
}

// A checkpoint that contradicts, or a policy that is not satisfied, is not passed over because something else agrees.
func TestEvidenceAgainstAFileIsNotPassedOver(t *testing.T) {
	env, file := rotatedLog(t)
	other := map[string]string{"IMMUTABLE_LOG_DIR": file("otherlogs"), "IMMUTABLE_STATE_DIR": file("otherstate")}
	for _, origin := range []string{"example.com/audit", "example.com/other"} {
		other["IMMUTABLE_LOG_DIR"] += "x"
		mustRun(t, other, nil, "init", "--origin", origin)
		for range 5 { // so that the sizes are those of the log
			mustRun(t, other, nil, "log", "audit", "another history")
		}
		check(t, os.WriteFile(file("of-"+filepath.Base(origin)), mustRun(t, other, nil, "checkpoint").out, 0o600))
	}
	if size := len(bytes.Split(bytes.TrimSpace(mustRun(t, env, nil, "export").out), []byte("\n"))); size != 5 {
		t.Fatalf("the log has %d entries", size)
	}
	same, err := os.ReadFile(file("checkpoint2"))
	check(t, err)
	check(t, os.WriteFile(file("renamed"), bytes.Replace(same, []byte("example.com/audit"), []byte("example.com/renamed"), 1), 0o600))
	keys := newTestKeys(t, "example.com/audit")
	check(t, os.WriteFile(file("policy"), []byte("witness w "+keys["w"].Key().String()+"\nquorum w\n"), 0o600))
	first, err := os.ReadFile(file("keys"))
	check(t, err)
	logKey, _, _ := bytes.Cut(first, []byte("\n"))
	check(t, os.WriteFile(file("logkey"), append(logKey, '\n'), 0o600))
	for _, tt := range []struct{ args, want string }{
		{"@p.tlog-proof --entry-file @p.json --key @keys --checkpoint @checkpoint2", "PROVEN"},
		{"@p.tlog-proof --entry-file @p.json --key @keys --checkpoint @of-audit", "REFUTED"},
		{"@p.tlog-proof --entry-file @p.json --key @keys --checkpoint @of-other", "REFUTED"},
		{"@p.tlog-proof --entry-file @p.json --key @keys --checkpoint @renamed", "REFUTED"},
		{"@p.tlog-proof --entry-file @p.json --key @keys --checkpoint @checkpoint0", "UNKNOWN"},
		{"@all.jsonl --checkpoint @checkpoint2 --checkpoint @renamed", "REFUTED"},
		{"@p.tlog-proof --entry-file @p.json --key @keys --checkpoint @p.json", "REFUTED"},
		{"@all.jsonl --checkpoint @checkpoint2", "PROVEN"},
		{"@all.jsonl --checkpoint @checkpoint2 --key @logkey", "UNKNOWN"},
		{"@all.jsonl --checkpoint @checkpoint2 --policy @policy", "UNKNOWN"},
		{"@all.jsonl --checkpoint @checkpoint2 --checkpoint @of-audit", "REFUTED"},
		{"@all.jsonl --checkpoint @checkpoint2 --checkpoint @of-other", "REFUTED"},
		{"@tiles --key @keys --checkpoint @checkpoint2", "PROVEN"},
		{"@tiles --key @keys --checkpoint @checkpoint2 --policy @policy", "UNKNOWN"},
		{"@tiles --key @logkey --checkpoint @checkpoint2", "UNKNOWN"},
		{"@tiles --key @keys --checkpoint @of-audit", "REFUTED"},
		{"@tiles --key @keys --checkpoint @of-other", "REFUTED"},
	} {
		if got, r := verifies(t, nil, expand(tt.args, file)...); got != tt.want {
			t.Errorf("%s: %s, want %s\n%s%s", tt.args, got, tt.want, r.out, r.errOut)
		}
	}
}

// Somebody who replaces a log's directory by something else that verifies does not take away what was asked of the log.
func TestFlagsThatSayNothingToTheKindAreRefused(t *testing.T) {
	env, file := rotatedLog(t)
	mustRun(t, env, nil, "bundle", "--out", file("bundle.html"))
	check(t, os.WriteFile(file("receipt"), mustRun(t, env, nil, "log", "audit", "x", "--json").out, 0o600))
	forms := map[string]string{
		"@tiles": "", "@bundle.html": "", "@p.tlog-proof": "--entry-file @p.json", "@all.jsonl": "--epochs @epochs2 --checkpoint @checkpoint2",
	}
	for name, more := range forms {
		for _, flag := range []string{
			"", "--require-covered", "--receipt @receipt", "--receipts @receipt", "--proof @p.tlog-proof", "--entry 0", "--indexes",
			"--no-head", "--workers 1", "--state-dir @x", "--dir @x", "--page", "--out @y",
		} {
			a := &alerts{codes: []int{200}}
			server := httptest.NewServer(a)
			r := run(t, env, nil, append([]string{"verify", "--alert", server.URL}, expand(name+" --key @keys "+more+" "+flag, file)...)...)
			server.Close()
			accepted := flag == "" || flag == "--require-covered"
			if accepted != (r.code == exitOK) || !accepted && r.code != exitUnknown || accepted == bytes.Contains(r.errOut, []byte("says nothing")) {
				t.Errorf("%s %s: exit code %d\n%s%s", name, flag, r.code, r.out, r.errOut)
			}
			if sent := len(a.bodies) > 0; sent == accepted {
				t.Errorf("%s %s: alert sent: %t", name, flag, sent)
			}
		}
	}
	r := run(t, env, nil, append([]string{"verify"}, expand("--entry-file @p.json", file)...)...)
	if r.code != exitUnknown || !bytes.Contains(r.errOut, []byte("--entry-file says nothing")) {
		t.Errorf("a log with --entry-file: exit code %d\n%s", r.code, r.errOut)
	}
}

func TestRequireCoveredAndAlertHoldForEveryKind(t *testing.T) {
	env, file := rotatedLog(t)
	mustRun(t, env, nil, "bundle", "--out", file("bundle.html"))
	check(t, os.WriteFile(file("nolog"), []byte("log "+strings.Fields(string(mustRun(t, env, nil, "key", "show").out))[0]+"\nquorum none\n"), 0o600))
	for _, tt := range []struct {
		args    string
		code    int
		verdict string // that an alert has
	}{
		{"@bundle.html", exitOK, ""},
		{"@bundle.html --require-covered", exitNo, ""},
		{"@bundle.html --require-covered --key @keys", exitOK, ""},
		{"@all.jsonl --checkpoint @checkpoint0", exitOK, ""},
		{"@all.jsonl --checkpoint @checkpoint0 --require-covered", exitNo, ""},
		{"@all.jsonl --checkpoint @checkpoint2 --require-covered", exitOK, ""},
		{"@tiles --policy @nolog --checkpoint @checkpoint0", exitOK, ""},
		{"@tiles --policy @nolog --checkpoint @checkpoint0 --require-covered", exitNo, ""},
		{"@tiles --require-covered --key @keys", exitOK, ""},
		{"@tiles", exitUnknown, "unknown"},
		{"@all.jsonl", exitUnknown, "unknown"},
		{"@p.tlog-proof --entry-file @keys --key @keys", exitNo, "refuted"},
		{"@bundle.html --key " + newTestKeys(t, "example.com/audit")["ed"].Key().String(), exitNo, "refuted"},
		{"@keys", exitUnknown, "unknown"},
	} {
		a := &alerts{codes: []int{200}}
		server := httptest.NewServer(a)
		r := run(t, env, nil, append([]string{"verify", "--alert", server.URL}, expand(tt.args, file)...)...)
		server.Close()
		if r.code != tt.code {
			t.Errorf("%s: exit code %d, want %d\n%s%s", tt.args, r.code, tt.code, r.out, r.errOut)
		}
		if tt.verdict == "" && len(a.bodies) > 0 || tt.verdict != "" && (len(a.bodies) != 1 || !bytes.Contains(a.bodies[0], []byte(`"verdict":"`+tt.verdict+`"`))) {
			t.Errorf("%s: alerts %q, want %q", tt.args, a.bodies, tt.verdict)
		}
	}
}
