package fsck

import (
	"bytes"
	"crypto/sha256"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/index"
	"github.com/tree-of-life-system/immutable/internal/segment"
)

// sealSearch gives the first segment a search index and a seal over it, which edit may change.
func (b *book) sealSearch(edit func(s *index.Seal)) {
	build := index.NewBuilder(0)
	for _, line := range b.lines[:512] {
		var l entry.Line
		must(b.t, entry.Decode(line, &l))
		must(b.t, build.Add(&l))
	}
	data, table := build.Finish()
	b.files["index/"+segment.SearchName(0)] = data
	b.sealOver(table, edit)
}

// sealOver signs the first segment's files as they are.
func (b *book) sealOver(table [sha256.Size]byte, edit func(s *index.Seal)) {
	search := b.files["index/"+segment.SearchName(0)]
	b.sealAs(func(s *index.Seal) {
		s.Search, s.SearchLen, s.Table = sha256.Sum256(search), int64(len(search)), table
		edit(s)
	})
}

// tableOf is the digest of the table at the end of a search index.
func tableOf(data []byte) [sha256.Size]byte {
	const page = 4096
	pages := (len(data) + page + sha256.Size - 1) / (page + sha256.Size)
	return sha256.Sum256(data[len(data)-pages*sha256.Size:])
}

func TestRulesOfSearchIndexes(t *testing.T) {
	name, seal := "index/"+segment.SearchName(0), "index/"+segment.SealName(0)
	whole := small(t, "example.com/log", true)
	whole.sealSearch(func(*index.Seal) {})
	for _, indexes := range []bool{false, true} {
		o := whole.options()
		o.Indexes = indexes
		want(t, verify(t, o), Proven)
	}
	same := func(*index.Seal) {}
	rules := []rule{
		{"one byte differs", func(n *book) {
			n.files[name] = bytes.Clone(n.files[name])
			n.files[name][len(n.files[name])/2] ^= 1
		}, name, "another SHA-256"},
		{"it is longer", func(n *book) { n.files[name] = append(bytes.Clone(n.files[name]), 0) }, name, "another length"},
		{"it is missing", func(n *book) { delete(n.files, name) }, name, "missing"},
		{"it is a directory", func(n *book) { delete(n.files, name); n.files[name+"/x"] = []byte("x") }, name, "is not a regular file"},
		{"the seal of another table", func(n *book) { n.sealOver(sha256.Sum256(nil), same) }, seal, "does not fit the search index"},
		{"a search index of another segment", func(n *book) {
			data := bytes.Clone(n.files[name])
			data[len("immutable/search/1\n")+1] = 2 // first 512
			sum := sha256.Sum256(data[:min(4096, len(data)-sha256.Size*pagesOf(data))])
			copy(data[len(data)-sha256.Size*pagesOf(data):], sum[:])
			n.files[name] = data
			n.sealOver(tableOf(data), same)
		}, name, "is of another segment"},
		{"a search index of no segment", func(n *book) { n.files["index/"+segment.SearchName(512)] = n.files[name] }, "index/" + segment.SearchName(512), "belongs to no sealed segment"},
	}
	checkRules(t, whole.clone, rules, nil)
	// An entry that is hidden from search: the seal is over the index as it is, and only making it again shows it.
	hidden := whole.clone()
	hidden.t = t
	build := index.NewBuilder(0)
	for i, line := range hidden.lines[:512] {
		var l entry.Line
		must(t, entry.Decode(line, &l))
		if i == 300 {
			l.Message = []byte(`"nothing to see"`)
		}
		must(t, build.Add(&l))
	}
	data, table := build.Finish()
	hidden.files[name] = data
	hidden.sealOver(table, same)
	want(t, verify(t, hidden.options()), Proven)
	o := hidden.options()
	o.Indexes = true
	refuted(t, o, name, "is not what the entries give")
	// A seal of version 1 claims no search index: one that a rebuild left behind is nobody's affair, unless it is asked for.
	old := whole.clone()
	old.t = t
	old.sealAs(same)
	want(t, verify(t, old.options()), Proven)
	delete(old.files, name)
	o = old.options()
	o.Indexes = true
	want(t, verify(t, o), Proven)
}

func pagesOf(data []byte) int {
	return (len(data) + 4096 + sha256.Size - 1) / (4096 + sha256.Size)
}
