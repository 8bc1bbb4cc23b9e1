package fsck

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/tree-of-life-system/immutable/internal/index"
	"github.com/tree-of-life-system/immutable/internal/segment"
)

// checkSearch compares the search index with the seal. A seal of version 1 knows of none: then nothing is claimed, and nobody
// uses it.
func (u *unit) checkSearch(seal index.Seal, sealName string) {
	if seal.SearchLen == 0 {
		return
	}
	name := "index/" + segment.SearchName(u.s.first)
	file, size, err := u.s.c.open(name)
	if err != nil {
		u.faults = append(u.faults, fault{name, err, hintRebuild})
		return
	}
	defer file.Close()
	before := len(u.findings)
	u.compare(name, file, size, seal.Search, seal.SearchLen, hintRebuild)
	if len(u.findings) > before {
		return
	}
	// A query checks pages by the table alone, so the seal must be over this file's table.
	x, err := index.OpenSearch(file, size, seal.Table)
	if err != nil {
		u.find(sealName, "does not fit the search index that it is over: "+err.Error(), "", "")
		return
	}
	if end := x.First + uint64(x.Groups)*groupSize; x.First != seal.First || end != seal.End {
		u.find(name, "is of another segment", fmt.Sprintf("entries from %d to before %d", x.First, end), fmt.Sprintf("from %d to before %d", seal.First, seal.End))
	}
}

// compareSearch holds the search index, if there is one, against what the entries give.
func (u *unit) compareSearch(b *index.Builder) {
	name := "index/" + segment.SearchName(u.s.first)
	file, size, err := u.s.c.open(name)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			u.faults = append(u.faults, fault{name, err, hintRebuild})
		}
		return // where the seal asks for it, its absence is reported there
	}
	defer file.Close()
	data, _ := b.Finish()
	at, got, want, err := differs(file, size, data)
	switch {
	case err != nil:
		u.faults = append(u.faults, fault{name, err, hintRebuild})
	case at >= 0:
		u.find(name, "is not what the entries give", got, want)
		u.findings[len(u.findings)-1].Offset = at
	}
}
