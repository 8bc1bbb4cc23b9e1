package immutable

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/fsck"
	"github.com/tree-of-life-system/immutable/internal/identity"
	"github.com/tree-of-life-system/immutable/internal/segment"
	"github.com/tree-of-life-system/immutable/proof"
)

// vectorDir holds the golden vectors of format 1; its README.md says what is in them. A committed vector never changes:
// every later program, of ours or of others, must give the same answers.
const vectorDir = "testdata/format/v1"

const (
	vectorHeader = "vector.txt" // what is expected
	vectorSums   = "SHA256SUMS" // of everything in vectorDir, in sha256sum's form
	vectorReadme = "README.md"
)

// A vector is one log directory, what this host knows of it, and the answer that a verifier must give.
type vector struct {
	name    string
	comment string

	expect fsck.Verdict
	size   int64  // entries in complete batches; -1 where the vector does not say
	root   string // base64
	chain  string // hex
	vkey   string // pinned: known to the verifier from elsewhere; "" is none
	head   bool   // the file head is this host's head of the log; without it the verifier knows none
	link   string // two names in the log that are one file, the first of which is not kept: git has no hard links
	base   string // the vector whose files stand in for those that this one does not have
	places []place

	files map[string][]byte // log/…, head, kept (a checkpoint that the verifier is given), by slashed path
}

// A place is where a verifier's first finding may be: in a file of the log (or head, kept), and, where from is not -1,
// at an offset of from to to, both included. Where two files contradict each other, either may be named.
type place struct {
	file     string
	from, to int64
}

// own is what the vector has beside its base: the files that differ, and the names of those that are gone.
func (v *vector) own(base *vector) (files map[string][]byte, gone []string) {
	if v.base == "" {
		return v.files, nil
	}
	files = maps.Clone(v.files)
	for _, name := range slices.Sorted(maps.Keys(base.files)) {
		if data, found := v.files[name]; !found {
			gone = append(gone, name)
		} else if bytes.Equal(data, base.files[name]) {
			delete(files, name)
		}
	}
	return files, gone
}

// text is the vector's header file.
func (v *vector) text(gone []string) string {
	var b strings.Builder
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%s: %s\n", name, value)
		}
	}
	line("expect", string(v.expect))
	if v.size >= 0 {
		line("size", strconv.FormatInt(v.size, 10))
	}
	line("root", v.root)
	line("chain", v.chain)
	line("vkey", v.vkey)
	line("head", map[bool]string{true: "yes", false: "no"}[v.head])
	line("link", v.link)
	line("base", v.base)
	for _, name := range gone {
		line("gone", name)
	}
	for _, p := range v.places {
		at := p.file
		if p.from >= 0 {
			at += fmt.Sprintf(" offset %d-%d", p.from, p.to)
		}
		line("finding", at)
	}
	return b.String() + "\n" + v.comment + "\n"
}

// parseVector is the inverse of text.
func parseVector(text string) (v *vector, gone []string, err error) {
	v = &vector{size: -1}
	header, comment, _ := strings.Cut(text, "\n\n")
	v.comment = strings.TrimSuffix(comment, "\n")
	for line := range strings.SplitSeq(header, "\n") {
		name, value, _ := strings.Cut(line, ": ")
		switch name {
		case "expect":
			v.expect = fsck.Verdict(value)
		case "size":
			v.size, err = strconv.ParseInt(value, 10, 64)
		case "root":
			v.root = value
		case "chain":
			v.chain = value
		case "vkey":
			v.vkey = value
		case "head":
			v.head = value == "yes"
		case "link":
			v.link = value
		case "base":
			v.base = value
		case "gone":
			gone = append(gone, value)
		case "finding":
			p := place{file: value, from: -1, to: -1}
			if file, at, found := strings.Cut(value, " offset "); found {
				p.file = file
				_, err = fmt.Sscanf(at, "%d-%d", &p.from, &p.to)
			}
			v.places = append(v.places, p)
		default:
			err = errors.New("unknown name")
		}
		if err != nil {
			return nil, nil, fmt.Errorf("line %q: %w", line, err)
		}
	}
	if got := v.text(gone); got != text {
		return nil, nil, fmt.Errorf("the header reads back as %q", got)
	}
	return v, gone, nil
}

// readVectors reads all committed vectors.
func readVectors(t testing.TB) []*vector {
	t.Helper()
	all := map[string]*vector{}
	gone := map[string][]string{}
	names, err := os.ReadDir(vectorDir)
	must(t, err)
	for _, n := range names {
		if !n.IsDir() {
			continue
		}
		files := readTree(t, filepath.Join(vectorDir, n.Name()))
		v, without, err := parseVector(string(files[vectorHeader]))
		if err != nil {
			t.Fatalf("%s/%s: %v", n.Name(), vectorHeader, err)
		}
		delete(files, vectorHeader)
		v.name, v.files = n.Name(), files
		all[v.name], gone[v.name] = v, without
	}
	if len(all) < 150 {
		t.Fatalf("%d vectors in %s; there were more", len(all), vectorDir)
	}
	var list []*vector
	for _, name := range slices.Sorted(maps.Keys(all)) {
		v := all[name]
		list = append(list, v)
		if v.base == "" {
			continue
		}
		base := all[v.base]
		if base == nil || base.base != "" {
			t.Fatalf("%s: no vector %s that stands alone", name, v.base)
		}
		for file, data := range base.files {
			if _, found := v.files[file]; !found && !slices.Contains(gone[name], file) {
				v.files[file] = data
			}
		}
	}
	return list
}

// readTree is every file below dir, by slashed path.
func readTree(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	must(t, filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(name)
		rel, relErr := filepath.Rel(dir, name)
		out[filepath.ToSlash(rel)] = data
		return errors.Join(err, relErr)
	}))
	return out
}

// writeTree writes files below dir.
func writeTree(t testing.TB, dir string, files map[string][]byte) {
	t.Helper()
	for name, data := range files {
		to := filepath.Join(dir, filepath.FromSlash(name))
		must(t, os.MkdirAll(filepath.Dir(to), 0o700))
		must(t, os.WriteFile(to, data, 0o600))
	}
}

// place lays a vector out as it was on a host: what git does not keep (empty directories, hard links) is made again.
func (v *vector) place(t testing.TB) (dir string, cfg *Config) {
	t.Helper()
	base := t.TempDir()
	dir, cfg = filepath.Join(base, "log"), &Config{StateDir: filepath.Join(base, "state")}
	for _, sub := range []string{pendingDir, archiveDir, indexDir, quarantineDir, nextDir, "tree"} {
		must(t, os.MkdirAll(filepath.Join(dir, sub), 0o700))
	}
	files := maps.Clone(v.files)
	if head := files["head"]; head != nil {
		delete(files, "head")
		rel, err := filepath.Rel(base, identity.Dir(cfg.StateDir, vectorOriginOf(v.files)))
		must(t, err)
		files[path.Join(filepath.ToSlash(rel), identity.HeadName)] = head
	}
	writeTree(t, base, files)
	if v.link != "" {
		name, other, _ := strings.Cut(v.link, " ")
		must(t, os.Link(filepath.Join(dir, filepath.FromSlash(other)), filepath.Join(dir, filepath.FromSlash(name))))
	}
	return dir, cfg
}

// vectorOriginOf is the origin under which the vector's head stands: log.json's, or what one can make of it.
func vectorOriginOf(files map[string][]byte) string {
	if id, err := identity.ParseLog(files["log/log.json"]); err == nil {
		return id.Origin
	}
	return vectorOrigin
}

func (v *vector) options() VerifyOptions {
	o := VerifyOptions{NoHead: !v.head, Indexes: true}
	if v.vkey != "" {
		o.Keys = []string{v.vkey}
	}
	if kept := v.files["kept"]; kept != nil {
		o.Checkpoints = [][]byte{kept}
	}
	return o
}

// short is a finding's file as vectors name it.
func shortFile(name, stateDir string) string {
	switch {
	case strings.HasPrefix(name, stateDir):
		return "head"
	case strings.Contains(name, "given checkpoint"), path.Base(filepath.ToSlash(name)) == "kept":
		return "kept"
	}
	return name
}

func TestVectorsGetTheirVerdicts(t *testing.T) {
	for _, v := range readVectors(t) {
		t.Run(v.name, func(t *testing.T) {
			dir, cfg := v.place(t)
			rep, err := VerifyDir(context.Background(), dir, cfg, v.options())
			must(t, err)
			if rep.Verdict != v.expect || rep.Omitted > 0 {
				t.Fatalf("verdict %s, expected %s\nfindings %v\nnotes %v\nbasis %v", rep.Verdict, v.expect, rep.Findings, rep.Notes, rep.Basis)
			}
			if v.size >= 0 {
				checkReported(t, v, rep)
			}
			if v.expect == Refuted && !v.expects(shortFile(rep.Findings[0].File, cfg.StateDir), rep.Findings[0].Offset) {
				t.Errorf("the first finding is %v, expected one at one of %v", rep.Findings[0], v.places)
			}
		})
	}
}

// expects says whether a first finding may be there. A verifier need not name an offset (-1).
func (v *vector) expects(file string, offset int64) bool {
	return slices.ContainsFunc(v.places, func(p place) bool {
		return p.file == file && (p.from < 0 || offset < 0 || p.from <= offset && offset <= p.to)
	})
}

func checkReported(t *testing.T, v *vector, rep *Report) {
	t.Helper()
	if rep.Size != uint64(v.size) || rep.Root.Base64() != v.root || rep.Chain.String() != v.chain {
		t.Errorf("size %d, root %s, chain %s; expected %d, %s, %s", rep.Size, rep.Root.Base64(), rep.Chain, v.size, v.root, v.chain)
	}
}

// What is served from a vector is what its verdict promises; what is refuted may be refused, and never changes hands
// with other bytes than were hashed.
func TestVectorsAreReadAsTheyAre(t *testing.T) {
	for _, v := range readVectors(t) {
		t.Run(v.name, func(t *testing.T) {
			dir, cfg := v.place(t)
			before := readTree(t, dir)
			cfg.ReadOnly = true
			l, err := Open(dir, cfg)
			if err != nil {
				if v.expect != Refuted {
					t.Fatal(err)
				}
				return
			}
			leaves, err := leavesOf(l)
			root, size := l.Root()
			must(t, l.Close())
			if v.expect != Refuted {
				must(t, err)
				if int64(size) != v.size || root.Base64() != v.root || proof.Root(leaves) != root || len(leaves) != int(size) {
					t.Errorf("%d of %d entries with root %s read, expected %d with %s", len(leaves), size, root.Base64(), v.size, v.root)
				}
			} else if err == nil && proof.Root(leaves) != root {
				t.Errorf("%d entries were served, and their root is not the log's", len(leaves))
			}
			if after := readTree(t, dir); !maps.EqualFunc(before, after, bytes.Equal) {
				t.Error("reading changed the directory")
			}
		})
	}
}

// A log that an earlier program wrote is one that the present program goes on with: it recovers, appends, closes and
// proves itself, and every earlier entry stands.
func TestVectorsCanBeContinued(t *testing.T) {
	for _, v := range readVectors(t) {
		if v.expect == Refuted {
			continue
		}
		t.Run(v.name, func(t *testing.T) {
			dir, cfg := v.place(t)
			origin := vectorOriginOf(v.files)
			name := filepath.Join(identity.Dir(cfg.StateDir, origin), keysDir, "ed25519")
			must(t, os.MkdirAll(filepath.Dir(name), 0o700))
			must(t, os.WriteFile(name, vectorKey(t, origin), 0o600))
			for _, n := range v.epochKeys(t) {
				must(t, os.WriteFile(filepath.Join(filepath.Dir(name), fmt.Sprintf("epoch-%d", n)), vectorEpoch(t, origin, n), 0o600))
			}
			l, err := Open(dir, cfg)
			if !v.head || v.name == "copy" {
				var refused *RefusedError
				if !errors.As(err, &refused) {
					t.Fatalf("opened a log that this host does not know: %v", err)
				}
				return
			}
			must(t, err)
			_, err = l.Info(context.Background(), "one more", nil)
			must(t, err)
			leaves, err := leavesOf(l)
			must(t, errors.Join(err, l.Close()))
			if got := proof.Root(leaves[:v.size]).Base64(); got != v.root {
				t.Errorf("the first %d entries have root %s, expected %s", v.size, got, v.root)
			}
			rep, err := VerifyDir(context.Background(), dir, cfg, VerifyOptions{Indexes: true})
			must(t, err)
			if rep.Verdict != Proven {
				t.Errorf("afterwards %s: %v, %v", rep.Verdict, rep.Findings, rep.Notes)
			}
		})
	}
}

// epochKeys are the epochs whose private keys the writer of the vector has: the one with which epochs ends, and the next
// where its entry waits for its closing checkpoint or its line.
func (v *vector) epochKeys(t *testing.T) []uint64 {
	links, err := proof.ParseEpochLinks(v.files["log/"+epochsName])
	must(t, err)
	n := uint64(len(links))
	id, err := identity.ParseLog(v.files["log/log.json"])
	must(t, err)
	var out []uint64
	if n > 0 || len(id.VKeys) > 1 {
		out = append(out, n)
	}
	if entries := bytes.Count(v.files["log/"+openName], epochMark); uint64(entries) > n {
		out = append(out, n+1)
	}
	return out
}

// sums is the manifest of what is committed.
func sums(files map[string][]byte) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if name != vectorSums && name != vectorReadme {
			fmt.Fprintf(&b, "%x  %s\n", sha256.Sum256(files[name]), name)
		}
	}
	return b.String()
}

func TestVectorsNeverChange(t *testing.T) {
	files := readTree(t, vectorDir)
	if got, want := sums(files), string(files[vectorSums]); got != want {
		diff := map[string]int{}
		for line := range strings.SplitSeq(got, "\n") {
			diff[line]++
		}
		for line := range strings.SplitSeq(want, "\n") {
			diff[line]--
		}
		shown := 0
		for line, n := range diff {
			if n == 0 || shown == 10 {
				continue
			}
			shown++
			t.Errorf("is %s: %s", map[bool]string{true: "there, and not in " + vectorSums, false: "in " + vectorSums + ", and not there"}[n > 0], line)
		}
		t.Fatalf("%s does not fit the files: a vector was changed, added or taken away", vectorSums)
	}
	total := 0
	for _, data := range files {
		total += len(data)
	}
	const limit = 768 << 10
	if total > limit {
		t.Errorf("the vectors take %d bytes, at most %d", total, limit)
	}
}

// The writer of today makes the committed vectors again, byte for byte. Only what an encoder of zstd chose may differ,
// and with it the seals: then the lines in the archives are compared.
//
// IMMUTABLE_UPDATE_VECTORS=1 adds vectors that are not there yet. It never changes one.
func TestVectorsAreMadeAgainByteForByte(t *testing.T) {
	update := os.Getenv("IMMUTABLE_UPDATE_VECTORS") == "1"
	made := map[string]*vector{}
	for _, v := range makeVectors(t) {
		made[v.name] = v
	}
	sealed := map[string][]byte{}
	if _, err := os.Stat(filepath.Join(vectorDir, "sealed")); err == nil || !update {
		sealed = readTree(t, filepath.Join(vectorDir, "sealed"))
	}
	otherEncoder := false
	for name, data := range sealed {
		if now := made["sealed"].files[name]; strings.HasSuffix(name, segment.ArchiveSuffix) && !bytes.Equal(now, data) {
			otherEncoder = true
			if !bytes.Equal(archiveLines(t, now), archiveLines(t, data)) {
				t.Errorf("sealed/%s: made anew it holds other lines", name)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(made)) {
		v := made[name]
		files, gone := v.own(made[v.base])
		files = maps.Clone(files)
		files[vectorHeader] = []byte(v.text(gone))
		dir := filepath.Join(vectorDir, v.name)
		if _, err := os.Stat(dir); err != nil && update {
			writeTree(t, dir, files)
			t.Logf("added %s", v.name)
			continue
		}
		committed := readTree(t, dir)
		for _, name := range slices.Sorted(maps.Keys(files)) {
			if otherEncoder && (strings.HasSuffix(name, segment.ArchiveSuffix) || strings.HasSuffix(name, segment.SealSuffix)) {
				continue
			}
			if !bytes.Equal(files[name], committed[name]) {
				t.Errorf("%s/%s: made anew it has %d bytes and differs from the %d that are committed", v.name, name, len(files[name]), len(committed[name]))
			}
		}
		if len(files) != len(committed) {
			t.Errorf("%s: made of %d files, %d are committed", v.name, len(files), len(committed))
		}
	}
	if update {
		must(t, os.WriteFile(filepath.Join(vectorDir, vectorSums), []byte(sums(readTree(t, vectorDir))), 0o600))
	}
}
