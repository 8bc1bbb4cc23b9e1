package immutable

import (
	"context"
	"crypto/sha256"
	"errors"
	"hash/maphash"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tree-of-life-system/immutable/internal/identity"
	"github.com/tree-of-life-system/immutable/internal/segment"
	"github.com/tree-of-life-system/immutable/internal/tree"
)

// Guard compares the files of a log that this process writes, one by one, with what this process knows of them: what it has
// committed, signed and sealed. It is for whoever is told at once that a file has changed; what it knows of entries that
// were there before the log was opened is what opening proved. A verification reads more, and knows nothing of this process.
//
// A file may be in the middle of a change that the log itself makes. So a fault counts only if it is still there when it is
// looked for again, a quarter of a second later.
type Guard struct {
	l      *Log
	seed   maphash.Seed
	settle time.Duration

	mu       sync.Mutex // one look at a time; guards what follows
	seen     map[string]fs.FileInfo
	digests  map[string][sha256.Size]byte // of files that never change
	archives map[uint64][sha256.Size]byte // of sealed segments, as their seals said at first
	restored map[uint64]int               // how often a segment had been restored when its files were looked at
	trails   map[string]*trail            // of files that only grow
	raw      map[uint64]*rawMark          // of the open and the pending segments, by first index
	signed   uint64                       // size of the newest checkpoint that was seen
}

// StatePrefix begins the names that a Guard gives to files of this host's state directory.
const StatePrefix = "state/"

// Guard begins to guard the files as they are. A log that is open for reading has nothing to compare them with: ErrReadOnly.
func (l *Log) Guard(ctx context.Context) (*Guard, error) {
	if l.w == nil {
		return nil, l.refusal()
	}
	g := &Guard{
		l: l, seed: maphash.MakeSeed(), settle: settleTime, seen: map[string]fs.FileInfo{}, digests: map[string][sha256.Size]byte{},
		archives: map[uint64][sha256.Size]byte{}, restored: map[uint64]int{}, trails: map[string]*trail{}, raw: map[uint64]*rawMark{},
	}
	for _, name := range g.Names() {
		first, _, sealed := sealedName(name)
		if _, kept := leavesName(name); sealed || kept {
			if info, err := os.Lstat(g.path(name)); err == nil {
				g.seen[name] = info
				continue // its bytes are read when its turn comes
			} else if strings.HasSuffix(name, segment.SearchSuffix) && g.hasNoSearch(first) {
				continue
			}
		}
		if _, err := g.settled(ctx, name); err != nil {
			return g, err
		}
	}
	return g, nil
}

// guardedDirs are those of the log's directory whose files are looked at.
var guardedDirs = []string{archiveDir, indexDir, pendingDir, retiredDir, "tree", evidenceDir, quarantineDir}

// Dirs are the directories whose changes matter.
func (g *Guard) Dirs() []string {
	dirs := []string{g.l.dir, g.l.state}
	for _, name := range guardedDirs {
		dirs = append(dirs, g.l.path(name))
	}
	dirs = append(dirs, g.l.statePath(keysDir))
	return slices.DeleteFunc(dirs, func(dir string) bool {
		info, err := os.Stat(dir)
		return err != nil || !info.IsDir()
	})
}

// Name is the name of a file of the log by its path, with slashes: relative to the log's directory, or after StatePrefix to
// this host's state of it. It is "" for what is none of the log's, or may be anything.
func (g *Guard) Name(path string) string {
	name, prefix := "", ""
	if rel, err := filepath.Rel(g.l.dir, path); err == nil && filepath.IsLocal(rel) {
		name = filepath.ToSlash(rel)
	} else if rel, err := filepath.Rel(g.l.state, path); err == nil && filepath.IsLocal(rel) {
		name, prefix = filepath.ToSlash(rel), StatePrefix
	}
	if name == "" || g.checkOf(prefix+name) == nil {
		return ""
	}
	return prefix + name
}

// Names are the files that must be there now.
func (g *Guard) Names() []string {
	l := g.l
	names := []string{identity.LogName, lockName, openName, checkpointName, checkpointsName, StatePrefix + identity.HeadName}
	l.mu.RLock()
	for _, s := range l.segments {
		switch {
		case s.kind == archived:
			names = append(names, archiveDir+"/"+segment.ArchiveName(s.first), indexDir+"/"+segment.IndexName(s.first),
				indexDir+"/"+segment.SearchName(s.first), indexDir+"/"+segment.SealName(s.first))
		case s.kind == pending:
			names = append(names, pendingDir+"/"+segment.PendingName(s.first))
		case s.kind == retired:
			names = append(names, retiredDir+"/"+segment.LeavesName(s.first))
		}
	}
	l.mu.RUnlock()
	for _, dir := range []string{"tree", evidenceDir, quarantineDir, StatePrefix + keysDir} {
		if found, err := os.ReadDir(g.path(dir)); err == nil {
			for _, f := range found {
				names = append(names, dir+"/"+f.Name())
			}
		}
	}
	for _, name := range []string{"chain", epochsName, cosignedName} {
		if _, err := os.Lstat(g.path(name)); err == nil {
			names = append(names, name)
		}
	}
	names = append(names, g.known()...)
	slices.Sort(names)
	names = slices.Compact(names)
	return slices.DeleteFunc(names, func(name string) bool { return g.checkOf(name) == nil })
}

// known are the files that were seen and must stay, whether they are there or not.
func (g *Guard) known() (names []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for name := range g.seen {
		_, _, sealed := sealedName(name)
		if _, kept := leavesName(name); !sealed && !kept && !strings.HasPrefix(name, pendingDir+"/") {
			names = append(names, name)
		}
	}
	return names
}

// settleTime is what a change that the log itself makes may take between two of its steps.
const settleTime = 250 * time.Millisecond

// Check looks at one file, by the name that Name gives. Of a file that only grows, and has grown since the last look, it
// reads what is new; full asks for the rest too, and complete says that nothing is left to be read. An error is a
// *CorruptError where the file is not what it must be; ErrClosed ends the guard's work.
func (g *Guard) Check(ctx context.Context, name string, full bool) (complete bool, err error) {
	complete, err = g.once(ctx, name, full)
	if err == nil || errors.Is(err, ErrClosed) || ctx.Err() != nil {
		return complete, err
	}
	return g.settled(ctx, name)
}

// settled looks again where something is wrong.
func (g *Guard) settled(ctx context.Context, name string) (bool, error) {
	for try := 0; ; try++ {
		complete, err := g.once(ctx, name, true)
		if err == nil || try == 1 || errors.Is(err, ErrClosed) {
			return complete, err
		}
		select {
		case <-time.After(g.settle):
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}

func (g *Guard) once(ctx context.Context, name string, full bool) (bool, error) {
	check := g.checkOf(name)
	if check == nil {
		return true, nil
	}
	g.l.mu.RLock()
	closed := g.l.closed
	g.l.mu.RUnlock()
	if closed {
		return false, ErrClosed
	}
	if g.Sealed(name) {
		err := g.sealed(ctx, name, func(int) error { return nil })
		return err == nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	// While the writer rotates or rebuilds, what it knows and what the files are called do not fit together.
	moving := name == openName || name == "chain" || strings.HasPrefix(name, "tree/") || strings.HasPrefix(name, pendingDir+"/")
	before := g.l.rearranged.Load()
	if moving && before%2 == 1 {
		return false, nil
	}
	complete, err := check(ctx, name, full)
	if err != nil {
		if moving && g.l.rearranged.Load() != before {
			err = nil
		}
		return false, err
	}
	return complete, nil
}

// Sweep looks at every file whose length, time, mode or identity is not what it was at the last look, and returns what is
// wrong, by name. It finds what nobody reported.
func (g *Guard) Sweep(ctx context.Context) (map[string]error, error) {
	bad := map[string]error{}
	for _, name := range g.Names() {
		g.mu.Lock()
		was := g.seen[name]
		g.mu.Unlock()
		now, err := os.Lstat(g.path(name))
		if err == nil && was != nil && unchanged(was, now) {
			continue
		}
		if _, err := g.Check(ctx, name, true); err != nil {
			if errors.Is(err, ErrClosed) || ctx.Err() != nil {
				return bad, err
			}
			bad[name] = err
		}
	}
	return bad, nil
}

func unchanged(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.Mode() == b.Mode() && a.ModTime().Equal(b.ModTime())
}

// Segment reads one sealed segment whole: the digests of its files against their seal, and each entry against the tree. pace
// hears of the bytes as they are read, and may wait or return an error that ends it. It may be nil.
func (g *Guard) Segment(ctx context.Context, first uint64, pace func(bytes int) error) error {
	if pace == nil {
		pace = func(int) error { return nil }
	}
	for _, name := range []string{
		indexDir + "/" + segment.SealName(first), archiveDir + "/" + segment.ArchiveName(first),
		indexDir + "/" + segment.IndexName(first), indexDir + "/" + segment.SearchName(first),
	} {
		if err := g.sealed(ctx, name, pace); err != nil {
			return err
		}
	}
	end, ok := g.isSealed(first)
	at, err := g.l.committed()
	if err != nil || !ok {
		return err
	}
	var gr group
	for k := first / tree.GroupSize; k < end/tree.GroupSize; k++ {
		if err := g.l.readGroup(ctx, k, &at, &gr); err != nil {
			if _, ok := g.isSealed(first); !ok {
				return nil // it was retired meanwhile
			}
			return err
		}
		if err := pace(len(gr.buf)); err != nil {
			return err
		}
	}
	return nil
}

// path is where a file is, by its name.
func (g *Guard) path(name string) string {
	if rest, ok := strings.CutPrefix(name, StatePrefix); ok {
		return g.l.statePath(filepath.FromSlash(rest))
	}
	return g.l.path(filepath.FromSlash(name))
}

// Sealed says whether a name is that of a file of a sealed segment.
func (g *Guard) Sealed(name string) bool {
	_, _, ok := sealedName(name)
	return ok
}

// Parent says whether a path is, or would be, one of the directories that Dirs lists.
func (g *Guard) Parent(path string) bool {
	for _, name := range guardedDirs {
		if path == g.l.path(name) {
			return true
		}
	}
	return path == g.l.dir || path == g.l.state || path == g.l.statePath(keysDir)
}
