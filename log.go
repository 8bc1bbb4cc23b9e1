package immutable

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tree-of-life-system/immutable/internal/identity"
	"github.com/tree-of-life-system/immutable/internal/keys"
	"github.com/tree-of-life-system/immutable/internal/segment"
	"github.com/tree-of-life-system/immutable/internal/tree"
	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

// Names in a log's directory. They are part of the format.
const (
	openName        = "immutable.log"
	lockName        = "lock"
	pendingDir      = "pending"
	archiveDir      = "archive"
	indexDir        = "index"
	quarantineDir   = "quarantine"
	nextDir         = "next"
	checkpointName  = "checkpoint"
	checkpointsName = "checkpoints"
	reserveName     = "reserve"
	keysDir         = "keys" // under the log's state directory
	verifiedName    = "verified"
)

// Log is one log in one directory. Its methods may be called from any number of goroutines.
type Log struct {
	cfg      Config
	fs       vfs.FS
	dir      string
	state    string // this host's directory for this log, under StateDir
	id       *identity.Log
	chain    atomic.Pointer[proof.Chain] // the verifier keys of every epoch; replaced, never changed in place
	hostname string
	pid      uint32
	logger   *slog.Logger
	locks    []io.Closer

	signer *keys.Signer // the log key; nil in a log without signatures and when read-only
	w      *writer      // nil when read-only
	damage error        // read-only: what ends the readable part of the log

	// Of recovery.
	tail       segment.Tail // what follows the last commit of immutable.log
	rebuilt    bool         // the tree was already made again from the entries
	recomputed bool         // loadFull ran: the tree in memory may differ from its files
	recovered  []byte       // the control entry that is owed for an incomplete batch moved aside
	owed       atomic.Bool  // it is not written yet, and nothing may be written before it
	owedMu     sync.Mutex   // one writes it, the others wait
	sightings  []sighting   // entries that begin an epoch of keys, of the segments that were read

	// Of the current epoch of keys, as the directory and the state directory have it at open.
	epochKeys    *keys.Epoch // nil in a log with one key that was never rotated
	closedEpochs []uint64    // whose private keys a crash left
	rotating     sync.Mutex  // one rotation of keys begins at a time; never taken with publisher.mu held

	publisher  publisher
	sealer     sealer
	stamping   *stamping             // one of outsiders; nil without Config.TimeAuthorities and when read-only
	producers  producers             // registrations of this session
	retention  retention             // holds and retired segments
	stampMu    sync.Mutex            // one stamp gets its name in evidence/ at a time
	outsiders  []outsider            // guarded by publisher.mu; set once, by startWitnessing and startOutsiders
	witnessing *witnessing           // nil without Config.Policy and when read-only
	rearranged atomic.Uint64         // odd while the writer replaces immutable.log, or writes tree/ and chain again; see Guard
	condemned  atomic.Pointer[error] // why nothing may be signed or acknowledged any more; see condemn
	seen       keyTable
	lines      sync.Pool // of *[]byte: lines of requests
	buffers    sync.Pool // of *[]byte: batches on their way to the disk; given back to the collector when idle
	reserve    int64     // bytes allocated in the reserve file; owned by land

	clockHeld      atomic.Int64 // how far the clock was behind the last timestamp, nanoseconds
	committedBytes atomic.Int64 // written to segments in this session

	commits  atomic.Int64 // batches made durable in this session
	lastSync atomic.Int64 // how long the last sync of a batch took, nanoseconds

	store *tree.Store

	mu       sync.RWMutex // guards what follows: one committed state, seen whole
	edge     edge         // size, root, chain, tail, time, length of immutable.log
	root     Hash         // of edge.frontier
	segments []*segmentFile
	open     *segmentFile // the last of segments
	changed  chan struct{}
	view     *tree.View // over a size up to edge's; renewed when a reader needs more
	closed   bool
	next     *nextEpoch // committed, and the epoch before it is not closed
	used     bool       // entries other than the log's own were committed in this session and epoch

	epochBegan time.Time // the newest epoch in the file epochs; a writer's publisher knows better
	epochFrom  uint64    // the index after its entry

	opened   opened    // of segments
	sweepers sync.Pool // of *sweeper: buffers of searches
	founds   sync.Pool // of *[]Entry, each cleared: what searches found in a group
	searches atomic.Int64

	refreshMu sync.Mutex // read-only: one follower of the files at a time
}

// DefaultStateDir is where a host keeps the heads and keys of its logs: $XDG_STATE_HOME/immutable or
// ~/.local/state/immutable, on macOS ~/Library/Application Support/immutable, on Windows %LocalAppData%\immutable.
func DefaultStateDir() (string, error) {
	if runtime.GOOS == "darwin" || runtime.GOOS == "windows" {
		dir := os.UserConfigDir
		if runtime.GOOS == "windows" {
			dir = os.UserCacheDir // %LocalAppData%
		}
		base, err := dir()
		if err != nil {
			return "", fmt.Errorf("find a state directory: %w (set --state-dir or IMMUTABLE_STATE_DIR)", err)
		}
		return filepath.Join(base, "immutable"), nil
	}
	if base := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(base) {
		return filepath.Join(base, "immutable"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find a state directory: %w (set --state-dir or IMMUTABLE_STATE_DIR)", err)
	}
	return filepath.Join(home, ".local", "state", "immutable"), nil
}

func (c *Config) withDefaults() (Config, error) {
	var out Config
	if c != nil {
		out = *c
	}
	if out.fs == nil {
		out.fs = vfs.OS()
	}
	if out.DemoClock != nil {
		if !strings.HasPrefix(out.Origin, DemoPrefix) {
			return out, fmt.Errorf("a log with DemoClock needs an origin that begins with %q, not %.80q: its name says that its times are made up", DemoPrefix, out.Origin)
		}
		out.now = out.DemoClock
	}
	if out.now == nil {
		out.now = time.Now
	}
	if out.pid == 0 {
		out.pid = uint32(os.Getpid())
	}
	if out.RotateSize == 0 {
		out.RotateSize = defaultRotateSize
	}
	if out.RotateSize < minRotateSize {
		return out, fmt.Errorf("rotate size is %d bytes, at least %d", out.RotateSize, minRotateSize)
	}
	if out.EpochDuration == 0 {
		out.EpochDuration = defaultEpochDuration
	}
	if out.vkeys == 0 {
		out.vkeys = newLogKeys
	}
	if out.CheckpointInterval == 0 {
		out.CheckpointInterval = defaultCheckpointInterval
	}
	if out.Logger == nil {
		out.Logger = slog.New(slog.DiscardHandler)
	}
	if out.StateDir == "" {
		dir, err := DefaultStateDir()
		if err != nil {
			return out, err
		}
		out.StateDir = dir
	}
	if out.Origin != "" {
		if err := proof.CheckOrigin(out.Origin); err != nil {
			return out, fmt.Errorf("origin: %w", err)
		}
	}
	return out, nil
}

// Open opens the log in dir for appending and reading, and makes it if there is none. A nil config means the defaults.
//
// It recovers from a crash first: everything that was acknowledged is there, and an incomplete last batch, never
// acknowledged, is moved to quarantine/ and named by a control entry. It refuses to write, with a *RefusedError, where
// that could contradict what this host has signed (a restored backup, a copy, a log from another host); with a
// *CorruptError where a file was damaged or changed; with a *LockedError while another writer has the log. Config.ReadOnly
// opens such a log for reading.
func Open(dir string, config *Config) (*Log, error) {
	cfg, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	name, err := hostname(cfg.Hostname)
	if err != nil {
		return nil, err
	}
	l := &Log{cfg: cfg, fs: cfg.fs, dir: dir, hostname: name, pid: cfg.pid, logger: cfg.Logger, changed: make(chan struct{})}
	if err := l.openDir(); err != nil {
		_ = l.release() // err is why
		return nil, err
	}
	return l, nil
}

func (l *Log) openDir() error {
	if l.cfg.ReadOnly {
		return l.openReadOnly()
	}
	if err := l.openLocked(); err != nil {
		return err
	}
	session := l.cfg.session
	if session == 0 {
		var bits [8]byte
		_, _ = rand.Read(bits[:]) // never fails, crypto/rand says
		session = binary.LittleEndian.Uint64(bits[:]) >> 22
	}
	l.w = newWriter(l, session, l.edge)
	if err := l.startWitnessing(); err != nil {
		return err
	}
	l.publisher.start()
	l.sealer.start(l)
	go l.w.run()
	err := l.afterRecovery()
	if err == nil {
		err = l.resumeRotation()
	}
	if err == nil {
		err = l.resumeRetirement(context.Background())
	}
	if err == nil {
		err = l.startOutsiders()
	}
	if err != nil {
		l.stopOutsiders()
		l.w.stop()
		return errors.Join(err, l.sealer.stop(), l.publisher.stop(false))
	}
	return nil
}

// Origin is the log's name: the first line of its checkpoints.
func (l *Log) Origin() string { return l.id.Origin }

// Dir is the log's directory.
func (l *Log) Dir() string { return l.dir }

// VerifierKeys are the keys, as signed-note vkeys, that the log began with. Give them to those who shall verify it.
func (l *Log) VerifierKeys() []string { return append([]string(nil), l.id.VKeys...) }

// Size is the number of entries that are committed.
func (l *Log) Size() uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.edge.size()
}

// Root is the Merkle tree hash over the committed entries, and their number.
func (l *Log) Root() (Hash, uint64) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.root, l.edge.size()
}

// Writable is nil while the log takes appends, as far as it knows, and otherwise why not: ErrReadOnly, ErrClosed, or ErrWriterFailed,
// which only Close and another Open mend.
func (l *Log) Writable() error {
	if l.w == nil {
		return l.refusal()
	}
	return l.w.pool.refuses()
}

// advance takes on a new committed state and wakes the followers. l.mu is held.
func (l *Log) advance(to edge) {
	l.edge = to
	l.root = to.frontier.Root()
	close(l.changed)
	l.changed = make(chan struct{})
}

// refusal is why this log takes no appends.
func (l *Log) refusal() error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return ErrClosed
	}
	if l.damage != nil {
		return fmt.Errorf("%w: %w", ErrReadOnly, l.damage)
	}
	return ErrReadOnly
}

// Close commits what was admitted, finishes sealing, signs a last checkpoint, marks the head clean and lets go of the
// lock. Later calls return ErrClosed. An error means that the next Open recovers instead; nothing acknowledged is lost.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ErrClosed
	}
	l.closed = true
	close(l.changed)
	l.changed = make(chan struct{})
	l.mu.Unlock()
	var err error
	if l.w != nil {
		l.stopOutsiders()
		l.publisher.rotateIfDue() // for a log that is never open for longer than a moment
		l.w.stop()
		err = errors.Join(l.sealer.stop(), l.publisher.stop(l.w.failed == nil))
		if l.w.failed != nil {
			err = l.w.failed
		}
	}
	return errors.Join(err, l.release())
}

// release gives back files and locks.
func (l *Log) release() error {
	l.opened.close()
	errs := []error{l.finishWitnessing()}
	l.refreshMu.Lock() // read-only: a refresh under way has ended
	defer l.refreshMu.Unlock()
	l.mu.Lock()
	for _, s := range l.segments {
		s.close()
	}
	l.mu.Unlock()
	if l.store != nil {
		errs = append(errs, l.store.Close())
	}
	for _, lock := range l.locks {
		errs = append(errs, lock.Close())
	}
	l.locks = nil
	return errors.Join(errs...)
}

// stop admits nothing more and waits until everything admitted is committed or refused.
func (w *writer) stop() {
	w.pool.shut(ErrClosed)
	close(w.quit)
	<-w.ended
	for _, r := range w.pool.close(ErrClosed) {
		r.fail(ErrClosed)
	}
}

// call runs f in the writer, between two batches.
func (w *writer) call(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	select {
	case w.calls <- func() { done <- f() }:
		return <-done
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-w.ended:
		return ErrClosed
	}
}

func (l *Log) path(parts ...string) string {
	return filepath.Join(append([]string{l.dir}, parts...)...)
}

func (l *Log) statePath(parts ...string) string {
	return filepath.Join(append([]string{l.state}, parts...)...)
}

func notExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// ID is an entry's id, a UUIDv7. String is its usual form.
type ID [36]byte

func (id ID) String() string { return string(id[:]) }

// MarshalText gives the usual form.
func (id ID) MarshalText() ([]byte, error) { return id[:], nil }

// UnmarshalText reads the usual form. It looks at the length only: what an id means is checked with its entry.
func (id *ID) UnmarshalText(text []byte) error {
	if len(text) != len(id) {
		return fmt.Errorf("an id has %d characters, this one %d", len(id), len(text))
	}
	copy(id[:], text)
	return nil
}
