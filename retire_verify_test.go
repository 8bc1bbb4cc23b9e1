package immutable

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/segment"
	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
)

const (
	archive0 = diskDir + "/archive/00000000000000000000.jsonl.zst"
	leaves0  = diskDir + "/retired/00000000000000000000.leaves"
	cold0    = coldDir + "/archive/00000000000000000000.jsonl.zst"
)

// forgeRetirement does by hand what Retire does, with what the forger wants in the tombstone: it has the log's keys.
func (a *aged) forgeRetirement(t *testing.T, change func(tombstone string) string) {
	t.Helper()
	s := a.l.firstSealed()
	leaves, err := a.l.writeLeaves(context.Background(), s)
	must(t, err)
	archive, n, err := a.l.fileDigest(a.l.path(archiveDir, segment.ArchiveName(s.first)))
	must(t, err)
	text := fmt.Sprintf(`{"type":"retire","first":%d,"end":%d,"archive":"%x","bytes":%d,"seal":"%x","leaves":"%x","cold":"","reason":"","by":""}`, s.first, s.end, archive, n, archive, leaves)
	a.forge(t, change(text))
}

// forge appends a control entry.
func (a *aged) forge(t *testing.T, control string) {
	t.Helper()
	_, err := a.l.control(context.Background(), "forged", []byte(control))
	must(t, err)
}

// removeSealed removes the files of a sealed segment.
func removeSealed(t *testing.T, d *vfstest.Disk, first uint64) {
	t.Helper()
	must(t, d.Remove(diskDir+"/archive/"+segment.ArchiveName(first)))
	for _, name := range []string{segment.IndexName(first), segment.SearchName(first), segment.SealName(first)} {
		must(t, d.Remove(diskDir+"/index/"+name))
	}
}

func edit(t *testing.T, d *vfstest.Disk, name string, change func([]byte) []byte) {
	t.Helper()
	data, err := d.ReadFileRaw(name)
	must(t, err)
	must(t, d.WriteFileRaw(name, change(bytes.Clone(data))))
}

func replaced(old, with string) func(string) string {
	return func(s string) string { return strings.Replace(s, old, with, 1) }
}

func same(s string) string { return s }

// TestForgedRetirementIsRefuted names what is wrong with each way to make entries go that is not a retirement. Whoever does it
// has the log's keys.
func TestForgedRetirementIsRefuted(t *testing.T) {
	t.Parallel()
	zero := strings.Repeat("0", 64)
	retire := func(t *testing.T, a *aged) { a.retire(t, RetireOptions{ColdDir: coldDir}) }
	for name, c := range map[string]struct {
		do     func(*testing.T, *aged) // while the log is open
		after  func(*testing.T, *vfstest.Disk)
		cold   bool
		file   string
		what   string
		notes  bool // it is no finding, but said
		unsure bool
	}{
		"an archive without a tombstone": {
			do: func(t *testing.T, a *aged) {
				_, err := a.l.writeLeaves(context.Background(), a.l.firstSealed())
				must(t, err)
			},
			after: func(t *testing.T, d *vfstest.Disk) { removeSealed(t, d, 0) },
			file:  archive0, what: "no entry says that the segment was retired",
		},
		"no leaves": {do: retire, after: func(t *testing.T, d *vfstest.Disk) { must(t, d.Remove(leaves0)) }, file: leaves0, what: "is missing: entry"},
		"another leaf": {do: retire, after: func(t *testing.T, d *vfstest.Disk) {
			edit(t, d, leaves0, func(b []byte) []byte { b[200] ^= 1; return b })
		}, file: leaves0, what: "are not those that tree/1 and chain were made from"},
		"a control line more": {do: retire, after: func(t *testing.T, d *vfstest.Disk) {
			edit(t, d, leaves0, func(b []byte) []byte { return append(b, "3 {}\n"...) })
		}, file: leaves0, what: "a control line does not follow the format"},
		"leaves cut": {do: retire, after: func(t *testing.T, d *vfstest.Disk) {
			edit(t, d, leaves0, func(b []byte) []byte { return b[:len(b)-1] })
		}, file: leaves0, what: "ends within its hashes"},
		"leaves of another segment": {do: func(t *testing.T, a *aged) { retire(t, a); retire(t, a) }, after: func(t *testing.T, d *vfstest.Disk) {
			data, err := d.ReadFileRaw(diskDir + "/retired/" + segment.LeavesName(256))
			must(t, err)
			must(t, d.WriteFileRaw(leaves0, data))
		}, file: leaves0, what: "the leaves are of another segment than the name"},
		"a tombstone of other leaves": {
			do: func(t *testing.T, a *aged) {
				a.forgeRetirement(t, func(s string) string {
					i := strings.Index(s, `"leaves":"`) + len(`"leaves":"`)
					return s[:i] + zero + s[i+64:]
				})
			},
			after: func(t *testing.T, d *vfstest.Disk) { removeSealed(t, d, 0) },
			file:  leaves0, what: "is not the file that the tombstone",
		},
		"a tombstone of another end": {
			do:    func(t *testing.T, a *aged) { a.forgeRetirement(t, replaced(`"end":256`, `"end":512`)) },
			after: func(t *testing.T, d *vfstest.Disk) { removeSealed(t, d, 0) },
			file:  leaves0, what: "ends elsewhere than the tombstone",
		},
		"a tombstone of another archive": {
			do: func(t *testing.T, a *aged) {
				a.forgeRetirement(t, func(s string) string {
					i := strings.Index(s, `"archive":"`) + len(`"archive":"`)
					return s[:i] + zero + s[i+64:]
				})
			},
			file: archive0, what: "is not the archive that the tombstone",
		},
		"a tombstone during a hold": {
			do: func(t *testing.T, a *aged) {
				_, err := a.l.Hold(context.Background(), Hold{ID: "case"})
				must(t, err)
				a.forgeRetirement(t, same)
			},
			after: func(t *testing.T, d *vfstest.Disk) { removeSealed(t, d, 0) },
			file:  diskDir + "/immutable.log", what: "while the legal hold case is active",
		},
		"a tombstone in the middle": {
			do: func(t *testing.T, a *aged) {
				a.forgeRetirement(t, replaced(`"first":0,"end":256`, `"first":256,"end":512`))
			},
			file: diskDir + "/immutable.log", what: "the oldest that is there begins with 0",
		},
		"a tombstone of what comes later": {
			do:   func(t *testing.T, a *aged) { a.forgeRetirement(t, replaced(`"end":256`, `"end":1048576`)) },
			file: diskDir + "/immutable.log", what: "it retires entries 0 to before 1048576",
		},
		"a tombstone within a group": {
			do:   func(t *testing.T, a *aged) { a.forgeRetirement(t, replaced(`"end":256`, `"end":257`)) },
			file: diskDir + "/immutable.log", what: "it retires entries 0 to before 257",
		},
		"a tombstone with a member more": {
			do:   func(t *testing.T, a *aged) { a.forgeRetirement(t, replaced(`"by":""`, `"by":"","x":1`)) },
			file: diskDir + "/immutable.log", what: "a retire entry with other members",
		},
		"a reason that is no text": {
			do:   func(t *testing.T, a *aged) { a.forge(t, `{"type":"hold","id":"a","reason":1,"by":""}`) },
			file: diskDir + "/immutable.log", what: "reason is no string",
		},
		"a hold twice": {
			do: func(t *testing.T, a *aged) {
				a.forge(t, `{"type":"hold","id":"a","reason":"","by":""}`)
				a.forge(t, `{"type":"hold","id":"a","reason":"","by":""}`)
			},
			file: diskDir + "/immutable.log", what: "the hold a is active already",
		},
		"a hold without a name": {
			do:   func(t *testing.T, a *aged) { a.forge(t, `{"type":"hold","id":".a","reason":"","by":""}`) },
			file: diskDir + "/immutable.log", what: `id ".a" is none`,
		},
		"a release of nothing": {
			do:   func(t *testing.T, a *aged) { a.forge(t, `{"type":"release","id":"a","reason":"","by":""}`) },
			file: diskDir + "/immutable.log", what: "the hold a is not active",
		},
		"a restoration of nothing": {
			do:   func(t *testing.T, a *aged) { a.forge(t, `{"type":"restore","first":0,"entry":3,"reason":"","by":""}`) },
			file: diskDir + "/immutable.log", what: "not the newest tombstone in effect",
		},
		"a restoration of another tombstone": {
			do: func(t *testing.T, a *aged) {
				r := a.retire(t, RetireOptions{Delete: true})
				a.forge(t, fmt.Sprintf(`{"type":"restore","first":0,"entry":%d,"reason":"","by":""}`, r.Entry+1))
			},
			file: diskDir + "/immutable.log", what: "not the newest tombstone in effect",
		},
		"a restoration without the archive": {
			do: func(t *testing.T, a *aged) {
				r := a.retire(t, RetireOptions{Delete: true})
				a.forge(t, fmt.Sprintf(`{"type":"restore","first":0,"entry":%d,"reason":"","by":""}`, r.Entry))
			},
			file: archive0, what: "no entry says that the segment was retired",
		},
		"leaves that hide a control entry, with the cold copy": {
			do: func(t *testing.T, a *aged) {
				for range 2 {
					a.retire(t, RetireOptions{ColdDir: coldDir})
				}
				must(t, (&history{next: 9000}).append(a.l, 600))
				must(t, a.l.Rotate(context.Background()))
				a.retire(t, RetireOptions{ColdDir: coldDir})
				s := a.l.firstSealed() // it holds the tombstones
				must(t, a.l.copyCold(context.Background(), s, coldDir, mustDigest(t, a.l, s)))
				a.forgeRetirement(t, func(text string) string {
					name := diskDir + "/retired/" + segment.LeavesName(s.first)
					edit(t, a.d, name, func(b []byte) []byte {
						b = b[:len(b)-1]
						return b[:bytes.LastIndexByte(b, '\n')+1]
					})
					data, err := a.d.ReadFileRaw(name)
					must(t, err)
					i := strings.Index(text, `"leaves":"`) + len(`"leaves":"`)
					return text[:i] + fmt.Sprintf("%x", sha256.Sum256(data)) + text[i+64:]
				})
			},
			after: func(t *testing.T, d *vfstest.Disk) { removeSealed(t, d, 1024) },
			cold:  true, file: diskDir + "/retired/", what: "is not what the entries of",
		},
		"a name in retired/": {do: retire, after: func(t *testing.T, d *vfstest.Disk) { must(t, d.WriteFileRaw(diskDir+"/retired/x", []byte("x"))) }, file: diskDir + "/retired/x", what: "is a name that the format does not know"},
		"another archive, cold": {do: retire, cold: true, after: func(t *testing.T, d *vfstest.Disk) {
			edit(t, d, cold0, func(b []byte) []byte { return append(b[:len(b):len(b)], 0) })
		}, file: cold0, what: ""},
		"no cold copy": {do: retire, cold: true, after: func(t *testing.T, d *vfstest.Disk) { must(t, d.Remove(cold0)) }, file: cold0, what: "this copy of it could not be checked", notes: true, unsure: true},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAged(t)
			c.do(t, a)
			must(t, a.l.Close())
			if c.after != nil {
				c.after(t, a.d)
			}
			o := VerifyOptions{}
			if c.cold {
				o.Cold = coldDir
			}
			rep := a.verify(t, o)
			want := Refuted
			if c.unsure {
				want = Unknown
			}
			list := rep.Findings
			if c.notes {
				list = rep.Notes
			}
			for _, f := range list {
				if strings.HasPrefix(diskDir+"/"+f.File, c.file) && strings.Contains(f.What, c.what) || f.File == c.file && strings.Contains(f.What, c.what) {
					if rep.Verdict != want {
						t.Errorf("verdict %s, want %s", rep.Verdict, want)
					}
					return
				}
			}
			t.Errorf("%s: %v, notes %v", rep.Verdict, rep.Findings, rep.Notes)
		})
	}
}

func mustDigest(t *testing.T, l *Log, s *segmentFile) [sha256.Size]byte {
	t.Helper()
	sum, _, err := l.fileDigest(l.path(archiveDir, segment.ArchiveName(s.first)))
	must(t, err)
	return sum
}

// TestTombstoneNeedsACheckpoint removes an archive as somebody without keys would: after writing a tombstone that nothing signed.
func TestTombstoneNeedsACheckpoint(t *testing.T) {
	t.Parallel()
	a := newAged(t)
	a.forgeRetirement(t, same)
	d := a.d.Clone() // killed
	removeSealed(t, d, 0)
	b := &aged{d: d, c: a.c}
	rep := b.verify(t, VerifyOptions{NoHead: true, Checkpoints: a.notes})
	if rep.Verdict != Refuted || !strings.Contains(rep.Findings[0].What, "no checkpoint is kept over this tombstone") {
		t.Errorf("%s %v", rep.Verdict, rep.Findings)
	}
}

// TestReportListsWhatIsRetired reads the report of a log with a moved and a deleted segment, with and without the copy.
func TestReportListsWhatIsRetired(t *testing.T) {
	t.Parallel()
	a := newAged(t)
	one := a.retire(t, RetireOptions{ColdDir: coldDir, Reason: "old", By: "ann"})
	two := a.retire(t, RetireOptions{Delete: true})
	must(t, a.l.Close())
	said := func(rep *Report, text string) bool {
		for _, n := range rep.Notes {
			if strings.Contains(n.What, text) {
				return true
			}
		}
		return false
	}
	rep := a.verify(t, VerifyOptions{Indexes: true})
	if rep.Verdict != Proven || rep.RetiredEntries != two.End || len(rep.Retired) != 2 || rep.Retired[0].Reason != "old" || rep.Retired[0].Read != "" || rep.Entries != rep.Size-two.End {
		t.Errorf("%s %v %+v: %d retired, %d read of %d", rep.Verdict, rep.Findings, rep.Retired, rep.RetiredEntries, rep.Entries, rep.Size)
	}
	if !said(rep, fmt.Sprintf("their content was not read; moved to cold by entry %d", one.Entry)) || !said(rep, fmt.Sprintf("their content was not read; deleted by entry %d", two.Entry)) {
		t.Errorf("notes %v", rep.Notes)
	}
	rep = a.verify(t, VerifyOptions{Indexes: true, Cold: coldDir})
	if rep.Verdict != Proven || rep.RetiredEntries != two.End-two.First || rep.Retired[0].Read != "cold" || rep.Retired[1].Read != "" {
		t.Errorf("with the copy: %s %v %+v", rep.Verdict, rep.Findings, rep.Retired)
	}
}

// TestOpenHoldsRetirementToItsTombstone opens logs in which an archive is missing that no entry retired, and one in which what
// is kept was changed before the archive went.
func TestOpenHoldsRetirementToItsTombstone(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	a := newAged(t)
	_, err := a.l.writeLeaves(ctx, a.l.firstSealed())
	must(t, err)
	must(t, a.l.Close())
	removeSealed(t, a.d, 0)
	var corrupt *CorruptError
	if _, err := Open(diskDir, diskConfig(a.d, a.c)); !errors.As(err, &corrupt) || !strings.Contains(corrupt.What, "no entry says that the segment was retired") {
		t.Errorf("open for writing: %v", err)
	}
	cfg := diskConfig(a.d, a.c)
	cfg.ReadOnly = true
	l, err := Open(diskDir, cfg)
	must(t, err)
	if _, err := l.Entry(ctx, 3); !errors.As(err, &corrupt) || !strings.Contains(corrupt.What, "no entry says that the segment was retired") {
		t.Errorf("an entry: %v", err)
	}
	must(t, l.Close())

	a = newAged(t)
	a.d.SetFail(func(op vfstest.Op) error {
		if op.Kind == vfstest.OpRemove && strings.HasSuffix(op.Name, ".zst") {
			return errors.New("the disk says no")
		}
		return nil
	})
	if _, err := a.l.Retire(ctx, 0, RetireOptions{Delete: true}); err == nil {
		t.Fatal("nothing failed")
	}
	a.d.SetFail(nil)
	must(t, a.l.Close())
	edit(t, a.d, leaves0, func(b []byte) []byte { b[200] ^= 1; return b })
	a.open(t)
	if _, err := a.d.Stat(archive0); err != nil {
		t.Fatalf("the archive went although what was kept of it is damaged: %v", err)
	}
	if e, err := a.l.Entry(ctx, 3); err != nil || !bytes.Equal(e.Line, a.lines[3].Line) {
		t.Errorf("entry 3: %v", err)
	}
}
