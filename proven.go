package immutable

import (
	"context"
	"crypto/sha256"
	"sync"

	"github.com/tree-of-life-system/immutable/internal/tree"
)

// maxProven bounds how many groups of one segment are remembered as proven; about 100 bytes of memory each.
const maxProven = 1 << 16

// proven are the groups of an archive that this process has read and proven against the committed tree, as SHA-256 of what was proven.
// Whoever reads a group again hashes what the file holds now: if that is the same, it is the same bytes, and what was proven of them
// still is, since no committed entry changes. If not, it is proven anew, or refuted.
type proven struct {
	mu     sync.Mutex
	groups map[int]digests // by their place in the segment
}

// digests are what a proven group hashed to. The zero Hash, which nothing hashes to, is of what was not looked at.
type digests struct {
	frame  Hash // of the compressed bytes
	leaves Hash // of the leaf hashes, one after the other
}

func (p *proven) of(i int) digests {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.groups[i]
}

func (p *proven) keep(i int, d digests) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, known := p.groups[i]; !known && len(p.groups) >= maxProven {
		return
	}
	if p.groups == nil {
		p.groups = map[int]digests{}
	}
	p.groups[i] = d
}

func (p *proven) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.groups = nil
}

// asksAgain says that it is worth to remember something for the next search: this process writes, or has searched before.
func (l *Log) asksAgain() bool { return l.w != nil || l.searches.Load() > 1 }

// searchGroup is readGroup for searches, which come to the same groups again and again. A group that is proven already is held to its
// digest: to that of its frame, and then g has no leaves; or, of a verified search, each leaf is hashed again and only the nodes above are
// not. Whatever does not fit goes the whole way, through readGroup, whose errors name the place.
func (l *Log) searchGroup(ctx context.Context, k uint64, at *edge, g *group, verified bool) error {
	if ctx.Err() != nil || !l.asksAgain() || (k+1)*tree.GroupSize > at.size() {
		return l.readGroup(ctx, k, at, g)
	}
	p, err := l.place(k, at.size())
	if err != nil {
		return err
	}
	defer p.release()
	if p.archive == nil {
		return l.readGroup(ctx, k, at, g)
	}
	if g.frame, err = p.archive.Frame(g.frame, p.frame); err != nil {
		return l.readGroup(ctx, k, at, g)
	}
	if g.buf, g.lines, err = p.archive.Decode(g.buf, g.lines, g.frame, p.frame); err != nil {
		return l.readGroup(ctx, k, at, g)
	}
	g.number, g.leaves = k, g.leaves[:0]
	known, now := p.seg.proven.of(p.frame), digests{frame: sha256.Sum256(g.frame)}
	if !verified && now.frame == known.frame {
		return nil
	}
	g.hashLeaves()
	if now.leaves = g.hashOfLeaves(); now.leaves != known.leaves {
		if err := l.proveGroup(g, &p, at); err != nil {
			return err
		}
	}
	if now != known {
		p.seg.proven.keep(p.frame, now)
		l.opened.keep(p.seg)
	}
	return nil
}

// hashOfLeaves is SHA-256 of the group's leaf hashes.
func (g *group) hashOfLeaves() Hash {
	g.frame = g.frame[:0] // it is not needed any more
	for i := range g.leaves {
		g.frame = append(g.frame, g.leaves[i][:]...)
	}
	return sha256.Sum256(g.frame)
}

// leaf is the leaf hash of line i of the group, which begins at offset from of its bytes.
func (g *group) leaf(i, from int) Hash {
	if len(g.leaves) > 0 {
		return g.leaves[i]
	}
	return leafHashAt(g.buf, from, len(g.lines[i]))
}
