package immutable

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// forgedFrame is a valid frame of as many bytes, whose lines are those of the frame in data but for one, and as long.
func forgedFrame(t *testing.T, frame []byte) []byte {
	t.Helper()
	d, err := zstd.NewReader(nil)
	must(t, err)
	defer d.Close()
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(1<<20), zstd.WithSingleSegment(true), zstd.WithEncoderCRC(true))
	must(t, err)
	lines, err := d.DecodeAll(frame, nil)
	must(t, err)
	for at := bytes.Index(lines, []byte(`"message":"`)) + len(`"message":"`); at < len(lines); at++ {
		if c := lines[at]; c < 'a' || c > 'z' {
			continue
		}
		for c := byte('a'); c <= 'z'; c++ {
			was := lines[at]
			lines[at] = c
			if out := e.EncodeAll(lines, nil); c != was && len(out) == len(frame) {
				return out
			}
			lines[at] = was
		}
	}
	t.Fatal("no forgery is as long as the frame")
	return nil
}

// TestGroupThatWasProvenIsHashedAgain: a search that has proven a group before notices when the archive holds another one now, though that
// one decodes, and is used again when the archive is as it was.
func TestGroupThatWasProvenIsHashedAgain(t *testing.T) {
	l, d := sealedLog(t)
	a, err := l.openArchive(l.segments[0])
	must(t, err)
	name := diskDir + "/" + segmentPath(l.segments[0])
	good, err := d.ReadFileRaw(name)
	must(t, err)
	good = bytes.Clone(good)
	frame, err := a.Frame(nil, 1)
	must(t, err)
	forged := bytes.Clone(good)
	copy(forged[a.Offset(1):], forgedFrame(t, frame))
	flipped := bytes.Clone(good)
	flipped[a.Offset(1)+int64(len(frame))/2] ^= 1

	all := func(verified bool) error {
		for _, err := range l.Search(context.Background(), Query{From: 511, Verified: verified}) {
			if err != nil {
				return err
			}
		}
		return nil
	}
	for _, before := range []bool{false, true} { // what the process remembers comes from either
		for _, verified := range []bool{false, true} {
			for what, now := range map[string][]byte{"a forged frame": forged, "a flipped bit": flipped} {
				what = fmt.Sprintf("%s, verified %v and before %v", what, verified, before)
				l.opened.forget()
				if err := all(before); err != nil {
					t.Fatalf("%s: before it: %v", what, err)
				}
				if n := len(l.segments[0].proven.groups); n == 0 {
					t.Fatalf("%s: no group is remembered", what)
				}
				must(t, d.WriteFileRaw(name, now))
				var c *CorruptError
				if err := all(verified); !errors.As(err, &c) || !strings.HasSuffix(name, c.File) {
					t.Errorf("%s: got %v, want an error that names %s", what, err, name)
				}
				must(t, d.WriteFileRaw(name, good))
				if err := all(verified); err != nil {
					t.Errorf("%s: after it: %v", what, err)
				}
			}
		}
	}
}

// TestVerifiedSearchHashesEachEntry: that a frame has the digest of one that was proven is not enough for it.
func TestVerifiedSearchHashesEachEntry(t *testing.T) {
	l, d := sealedLog(t)
	s := l.segments[0]
	a, err := l.openArchive(s)
	must(t, err)
	name := diskDir + "/" + segmentPath(s)
	data, err := d.ReadFileRaw(name)
	must(t, err)
	data = bytes.Clone(data)
	frame, err := a.Frame(nil, 1)
	must(t, err)
	forged := forgedFrame(t, frame)
	copy(data[a.Offset(1):], forged)
	must(t, d.WriteFileRaw(name, data))
	s.proven.keep(1, digests{frame: sha256.Sum256(forged)}) // as if it had been
	if found := searchAll(t, l, Query{From: 511, Limit: 3}); len(found) != 3 {
		t.Fatalf("a search finds %d entries of a frame that counts as proven", len(found))
	}
	var c *CorruptError
	if _, err := l.Count(context.Background(), Query{From: 511, Verified: true}); !errors.As(err, &c) {
		t.Errorf("a verified count of a forged frame: got %v, want an error", err)
	}
}

// TestProvenGroupsGiveTheirLeaves: entries of a group that is held to its frame's digest have the leaf hashes that they had.
func TestProvenGroupsGiveTheirLeaves(t *testing.T) {
	l, _ := sealedLog(t)
	first := searchAll(t, l, Query{Verified: true})
	for range 2 {
		for i, e := range searchAll(t, l, Query{}) {
			if want := first[i]; e.Leaf != want.Leaf || e.Leaf != leafHash(e.Line) || e.Message != want.Message {
				t.Fatalf("entry %d: leaf %s, want %s", e.Index, e.Leaf, want.Leaf)
			}
		}
	}
}

// TestFirstSearchOfAReaderRemembersNothing: a command searches once.
func TestFirstSearchOfAReaderRemembersNothing(t *testing.T) {
	l, d := sealedLog(t)
	must(t, l.Close())
	r, err := Open(diskDir, &Config{StateDir: l.cfg.StateDir, fs: d, ReadOnly: true})
	must(t, err)
	defer r.Close()
	for i, want := range []bool{false, true} {
		searchAll(t, r, Query{})
		if got := len(r.segments[0].proven.groups) > 0; got != want {
			t.Errorf("search %d: groups are remembered: %v, want %v", i+1, got, want)
		}
	}
}

func TestProvenGroupsAreBounded(t *testing.T) {
	var p proven
	for i := range maxProven + 1 {
		p.keep(i, digests{frame: Hash{1}})
	}
	if len(p.groups) != maxProven || p.of(maxProven) != (digests{}) || p.of(maxProven-1) == (digests{}) {
		t.Errorf("%d groups are remembered, want %d", len(p.groups), maxProven)
	}
	p.keep(3, digests{frame: Hash{2}})
	if p.of(3).frame != (Hash{2}) {
		t.Error("what is known of a group does not change at the limit")
	}
	p.forget()
	if p.of(3) != (digests{}) {
		t.Error("something is still remembered")
	}
}
