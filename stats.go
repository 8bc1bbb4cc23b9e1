package immutable

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"time"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/index"
	"github.com/tree-of-life-system/immutable/internal/segment"
	"github.com/tree-of-life-system/immutable/internal/tree"
	"github.com/tree-of-life-system/immutable/internal/vfs"
)

// Stats is what the log holds and how it does. Sizes are bytes.
type Stats struct {
	Origin           string           `json:"origin"`
	TotalEntries     uint64           `json:"totalEntries"`
	FileSize         int64            `json:"fileSize"`         // of everything in the directory
	BlockchainLength uint64           `json:"blockchainLength"` // blocks in the hash chain: one an entry
	Levels           map[string]int64 `json:"levels"`           // entries of each level
	Verified         *Verified        `json:"verified"`         // the last completed verification; null if there was none
	OldestEntry      *time.Time       `json:"oldestEntry"`
	NewestEntry      *time.Time       `json:"newestEntry"`

	Root       string `json:"root"`  // base64, over all entries
	Chain      string `json:"chain"` // hex, the last block's hash
	Signed     bool   `json:"signed"`
	Segments   int    `json:"segments"`   // all of them, the open one too
	Pending    int    `json:"pending"`    // waiting to be sealed, at most four
	OpenSize   int64  `json:"openSize"`   // of immutable.log
	RotateSize int64  `json:"rotateSize"` // at which it is sealed
	Writable   bool   `json:"writable"`

	Epoch         uint64     `json:"epoch"`                   // of the keys that sign now
	EpochBegan    *time.Time `json:"epochBegan,omitempty"`    // null in a log without signatures
	RotationError string     `json:"rotationError,omitempty"` // why the last rotation of keys that was due failed

	CheckpointSize   uint64      `json:"checkpointSize"`             // entries that the newest checkpoint covers
	CheckpointError  string      `json:"checkpointError,omitempty"`  // why the last publication failed
	SealError        string      `json:"sealError,omitempty"`        // why the last sealing failed
	Witnessing       *Witnessing `json:"witnessing,omitempty"`       // how the witnesses do; null without a policy
	WaitingEntries   int         `json:"waitingEntries"`             // admitted and not yet durable
	LastSyncSeconds  float64     `json:"lastSyncSeconds,omitempty"`  // of the last batch
	ClockHeldSeconds float64     `json:"clockHeldSeconds,omitempty"` // how far the clock was behind the last entry when a batch last asked
	ReserveBytes     int64       `json:"reserveBytes"`
	Quarantined      int         `json:"quarantined"`    // files that recovery moved aside
	RetiredEntries   uint64      `json:"retiredEntries"` // of TotalEntries: those whose segments are retired; Levels and OldestEntry leave them out
	RetiredBytes     int64       `json:"retiredBytes"`   // of their archives, when they were retired
	Holds            int         `json:"holds"`          // legal holds that are active
	Damage           string      `json:"damage,omitempty"`

	TimeStamping *Stamping `json:"timeStamping,omitempty"` // null without authorities and stamps
}

// Verified is the outcome of the last verification that this host completed.
type Verified struct {
	Verdict string    `json:"verdict"`
	Size    uint64    `json:"size"`
	Time    time.Time `json:"time"`
}

// Stats counts. The counts of sealed segments come from their indexes, where those are sealed, and are kept.
func (l *Log) Stats(ctx context.Context) (*Stats, error) {
	if err := l.refresh(); err != nil {
		return nil, err
	}
	at, parts, err := l.countedState()
	if err != nil {
		return nil, err
	}
	s := &Stats{
		Origin: l.id.Origin, TotalEntries: at.size(), BlockchainLength: at.size(), Signed: l.signed(),
		Root: at.frontier.Root().Base64(), Chain: at.chain.String(), OpenSize: at.offset, RotateSize: l.cfg.RotateSize, Writable: l.Writable() == nil,
		ClockHeldSeconds: time.Duration(l.clockHeld.Load()).Seconds(), LastSyncSeconds: time.Duration(l.lastSync.Load()).Seconds(),
	}
	if damage := l.damaged(); damage != nil {
		s.Damage = damage.Error()
	}
	levels, err := l.countLevels(ctx, parts, &at)
	if err != nil {
		return nil, err
	}
	s.Levels = map[string]int64{}
	for i, n := range levels {
		s.Levels[Level(i).String()] = int64(n)
	}
	if err := l.statEnds(ctx, s, &at); err != nil {
		return nil, err
	}
	if err := l.statRetention(ctx, s); err != nil {
		return nil, err
	}
	l.statEpoch(s)
	l.statWriter(s)
	s.Witnessing = l.Witnessing()
	if note, err := l.readCheckpoint(); err == nil {
		if c, err := l.openCheckpoint(note); err == nil {
			s.CheckpointSize = c.Size
		}
	}
	if s.TimeStamping, err = l.Stamping(); err != nil {
		return nil, err
	}
	s.Verified = l.lastVerified()
	s.FileSize, err = l.dirSize(l.dir, 2, s)
	return s, err
}

func (l *Log) statEnds(ctx context.Context, s *Stats, at *edge) error {
	l.mu.RLock()
	s.Segments = len(l.segments)
	for _, seg := range l.segments {
		if seg.waits() {
			s.Pending++
		}
	}
	l.mu.RUnlock()
	if at.size() == 0 {
		return nil
	}
	oldest, err := l.Entry(ctx, l.retiredEnd())
	if err != nil {
		return err
	}
	newest := timeOf(at.time)
	s.OldestEntry, s.NewestEntry = &oldest.Timestamp, &newest
	return nil
}

func (l *Log) statRetention(ctx context.Context, s *Stats) error {
	if damage := l.damaged(); damage != nil {
		return nil //nolint:nilerr // Stats.Damage says that not all can be read
	}
	f, err := l.retained(ctx)
	if err != nil {
		return err
	}
	s.RetiredEntries, s.Holds = f.retiredEnd(), len(f.holds)
	for i := range f.retired {
		s.RetiredBytes += f.retired[i].Bytes
	}
	return nil
}

func (l *Log) statEpoch(s *Stats) {
	if !l.signed() {
		return
	}
	l.mu.RLock()
	began := l.epochBegan
	l.mu.RUnlock()
	if l.w != nil {
		l.publisher.mu.Lock()
		began = l.publisher.epochBegan
		if l.publisher.rotationErr != nil {
			s.RotationError = l.publisher.rotationErr.Error()
		}
		l.publisher.mu.Unlock()
	}
	s.Epoch, s.EpochBegan = l.Epoch(), &began
}

func (l *Log) statWriter(s *Stats) {
	if l.w == nil {
		return
	}
	s.WaitingEntries, _ = l.w.pool.waiting()
	l.publisher.mu.Lock()
	if l.publisher.err != nil {
		s.CheckpointError = l.publisher.err.Error()
	}
	l.publisher.mu.Unlock()
	l.sealer.mu.Lock()
	if l.sealer.err != nil {
		s.SealError = l.sealer.err.Error()
	}
	l.sealer.mu.Unlock()
}

// dirSize adds up the files of the log's directory and of the directories in it.
func (l *Log) dirSize(dir string, depth int, s *Stats) (int64, error) {
	names, err := l.fs.ReadDir(dir)
	if err != nil {
		return 0, fmt.Errorf("list %s: %w", dir, err)
	}
	var total int64
	for _, name := range names {
		path := dir + "/" + name
		info, err := l.fs.Stat(path)
		if err != nil {
			if notExist(err) {
				continue // rotated or sealed meanwhile
			}
			return 0, err
		}
		switch {
		case info.Dir && depth > 1:
			n, err := l.dirSize(path, depth-1, s)
			if err != nil {
				return 0, err
			}
			total += n
		case !info.Dir && depth == 2 && name == reserveName:
			s.ReserveBytes = info.Size
		case !info.Dir:
			total += info.Size
		}
		if name == quarantineDir && depth == 2 {
			if files, err := l.fs.ReadDir(path); err == nil {
				s.Quarantined = len(files)
			}
		}
	}
	return total, nil
}

// countedPart is what was counted of a segment at one moment.
type countedPart struct {
	s       *segmentFile
	kind    segmentKind
	counted bool // levels are all there is
	levels  [NumLevels]uint64
	end     uint64
}

// countedState is the committed state with what is counted of it: both of one moment, whatever is appended or rotated
// while the rest is counted.
func (l *Log) countedState() (edge, []countedPart, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return edge{}, nil, ErrClosed
	}
	parts := make([]countedPart, 0, len(l.segments))
	for _, s := range l.segments {
		p := countedPart{s: s, kind: s.kind, counted: s.counted, levels: s.levels, end: s.end}
		if s.kind == open {
			p.counted, p.end = s.from == s.first/tree.GroupSize, l.edge.size() // every entry was counted as it came
		}
		parts = append(parts, p)
	}
	return l.edge, parts, nil
}

// countLevels counts the entries of each level, of the state at.
func (l *Log) countLevels(ctx context.Context, parts []countedPart, at *edge) (total [NumLevels]uint64, err error) {
	for i := range parts {
		levels, err := l.segmentLevels(ctx, &parts[i], at)
		if err != nil {
			return total, err
		}
		for i, n := range levels {
			total[i] += n
		}
	}
	return total, nil
}

// segmentLevels counts one segment, from its index or its entries, and remembers what cannot change any more.
func (l *Log) segmentLevels(ctx context.Context, p *countedPart, at *edge) (levels [NumLevels]uint64, err error) {
	if p.counted || p.kind == retired {
		return p.levels, nil
	}
	if p.kind == archived {
		if x := l.indexFor(p.s.first / tree.GroupSize); x != nil {
			levels = levelsOf(x)
			l.keepLevels(p.s, levels)
			return levels, nil
		}
	}
	levels, err = l.scanLevels(ctx, p.s.first, p.end, at)
	if err == nil && p.kind != open {
		l.keepLevels(p.s, levels)
	}
	return levels, err
}

func (l *Log) keepLevels(s *segmentFile, levels [NumLevels]uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.levels, s.counted = levels, true
}

func (l *Log) scanLevels(ctx context.Context, first, end uint64, at *edge) (levels [NumLevels]uint64, err error) {
	var g group
	for k := first / tree.GroupSize; k*tree.GroupSize < end; k++ {
		if err := l.readGroup(ctx, k, at, &g); err != nil {
			return levels, err
		}
		for _, line := range g.lines {
			if _, level, ok := entry.Peek(line); ok {
				levels[level]++
			}
		}
	}
	return levels, nil
}

// indexFor returns the index of the sealed segment that holds group k, or nil where there is none with a valid seal:
// then the answer comes from the entries.
func (l *Log) indexFor(k uint64) *index.Index {
	l.mu.RLock()
	var s *segmentFile
	for lo, hi := 0, len(l.segments); lo < hi; {
		mid := (lo + hi) / 2
		if l.segments[mid].first/tree.GroupSize <= k {
			s, lo = l.segments[mid], mid+1
		} else {
			hi = mid
		}
	}
	sealed := s != nil && s.kind == archived
	l.mu.RUnlock()
	if !sealed {
		return nil
	}
	if _, err := l.openArchive(s); err != nil { // so that it is among those that are kept
		return nil
	}
	s.archiveMu.Lock()
	defer s.archiveMu.Unlock()
	if s.index == nil && !s.noIndex {
		x, err := l.readIndex(s.first)
		if err != nil {
			l.logger.Warn("index not used; answers come from the entries, more slowly. `immutable rebuild` makes it again", "first", s.first, "error", err)
			s.noIndex = true
			return nil
		}
		s.index = x
	}
	return s.index
}

// maxIndex bounds an index file: 2^24 groups and a key an entry would be more than any segment holds.
const maxIndex = 1 << 30

// readIndex reads an index and checks its seal.
func (l *Log) readIndex(first uint64) (*index.Index, error) {
	note, err := vfs.ReadFile(l.fs, l.path(indexDir, segment.SealName(first)), maxNote)
	if err != nil {
		return nil, err
	}
	text, err := l.openSeal(note)
	if err != nil {
		return nil, err
	}
	seal, err := index.ParseSeal(text)
	if err != nil {
		return nil, err
	}
	if seal.Origin != l.id.Origin || seal.First != first {
		return nil, fmt.Errorf("the seal is of %s from %d on", seal.Origin, seal.First)
	}
	data, err := vfs.ReadFile(l.fs, l.path(indexDir, segment.IndexName(first)), maxIndex)
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(data); sum != seal.Index || int64(len(data)) != seal.IndexLen {
		return nil, fmt.Errorf("the index has SHA-256 %x, its seal says %x", sum, seal.Index)
	}
	x, err := index.Decode(data)
	if err != nil {
		return nil, err
	}
	if x.First != first || x.End != seal.End {
		return nil, fmt.Errorf("the index is of entries %d to %d, the seal of %d to %d", x.First, x.End, first, seal.End)
	}
	return x, nil
}

// lastVerified is the outcome that the last Verify left in the state directory.
func (l *Log) lastVerified() *Verified {
	data, err := vfs.ReadFile(l.fs, l.statePath(verifiedName), identityLimit)
	if err != nil {
		return nil
	}
	var v Verified
	if json.Unmarshal(data, &v) != nil {
		return nil
	}
	return &v
}

const identityLimit = 64 << 10
