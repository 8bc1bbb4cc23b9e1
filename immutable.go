// Package immutable is a tamper-evident, append-only log in one directory.
//
// Open a log, append events with one method per level, and read them back. Every entry is hashed into a chain and a
// Merkle tree (RFC 6962), the tree's root is signed as a C2SP checkpoint, and Verify reads the directory again and says
// what is refuted, consistent or proven. An append that returned without an error is on the disk.
//
//	l, err := immutable.Open("./logs", nil)
//	r, err := l.Audit(ctx, "GitHub commit created", immutable.Fields{"repo": "tree-of-life-system", "sha": "abc123"})
//
// docs/format.md in the repository specifies the files; docs/threat-model.md says what the log cannot prove.
package immutable

import (
	"context"
	"log/slog"
	"time"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

// Level says what kind of entry it is. The zero value is Info.
type Level = entry.Level

// The levels, in the order in which statistics list them.
const (
	Info     = entry.Info
	Warn     = entry.Warn
	Error    = entry.Error
	Critical = entry.Critical
	Audit    = entry.Audit
	Security = entry.Security
	Revenue  = entry.Revenue
	System   = entry.System
)

// NumLevels is the number of levels.
const NumLevels = entry.NumLevels

// DemoPrefix begins the origin of every log with a Config.DemoClock.
const DemoPrefix = "demo-"

// ParseLevel reads a level's name in any case.
func ParseLevel(name string) (Level, error) { return entry.ParseLevel(name) }

// Fields is an entry's metadata as Go values. It is written with its names sorted; use Event.RawMetadata to keep an
// order, a number's spelling or escapes.
type Fields = entry.Fields

// Event is what a caller appends. The log adds index, id and timestamp. Hostname and PID, when zero, become this
// process's. The whole entry may take at most MaxEntryBytes as JSON.
type Event = entry.Event

// FieldError says which field of an event was refused, at which byte, and why.
type FieldError = entry.FieldError

// Limits of one append. They are part of the on-disk format.
const (
	MaxEntryBytes   = entry.MaxLine // of one entry as JSON, without its newline
	MaxBatchEntries = 65536         // events in one Append
	MaxBatchBytes   = 16 << 20      // of one Append as JSON lines, with the commit line
)

// Hash is a SHA-256 digest; String is lower-case hex.
type Hash = proof.Hash

// Receipt says where an appended event stands. The entry was durable before the receipt was made.
type Receipt struct {
	Index     uint64    `json:"index"`     // from zero
	ID        ID        `json:"id"`        // UUIDv7
	Hash      Hash      `json:"hash"`      // the chain hash up to and including this entry: the block's hash
	Leaf      Hash      `json:"leaf"`      // the entry's RFC 6962 leaf hash
	Timestamp time.Time `json:"timestamp"` // UTC
	Repeated  bool      `json:"repeated,omitempty"`
}

// Config says how a log is opened. The zero value, and nil, are the defaults.
type Config struct {
	// Origin names a log when it is made: a schema-less URL such as "example.com/audit" that no other log has. Empty
	// makes one from the host's name and random digits. An existing log refuses another origin.
	Origin string

	// StateDir is where this host keeps each log's head and private key, outside the log's directory so that a backup of
	// the log carries neither. Empty is DefaultStateDir().
	StateDir string

	// RotateSize is the size in bytes of the open segment at which it is sealed. 0 is 100 MiB; at least 64 KiB.
	RotateSize int64

	// NoSignatures makes a new log without keys and checkpoints: its verification says "consistent, unsigned". Hash chain
	// and tree stay, because recovery stands on them. It has no effect on an existing log.
	NoSignatures bool

	// ReadOnly opens for reading beside a writer, which may be another process, and follows it. Nothing is written.
	ReadOnly bool

	// MustExist refuses to make a new log where there is none.
	MustExist bool

	// CheckpointInterval is the least time between two published checkpoints. 0 is one second.
	CheckpointInterval time.Duration

	// EpochDuration is how long keys sign before new ones take their place and they are destroyed; see Log.RotateKeys.
	// Idle logs keep theirs. 0 is 24 hours; a negative one never ends.
	EpochDuration time.Duration

	// EpochEntries is the number of entries after which keys are replaced, whatever their age. 0 is no limit.
	EpochEntries uint64

	// Policy names the witnesses that are asked to cosign each published checkpoint, and which of them are enough. It never
	// delays an append. A policy that is not satisfied is said in Stats and to Logger; a witness that proves that this log was
	// rolled back or forked ends it. See Log.Witnessing.
	Policy *proof.Policy

	// WitnessTimeout is how long one witness may take. 0 is five seconds.
	WitnessTimeout time.Duration

	// TimeAuthorities are URLs of time-stamping authorities (RFC 3161). Each is asked for its word on the newest checkpoint
	// when TimeInterval has passed since its last, off the append path, and each stamp is anchored by a control entry. One
	// that fails is asked again later, and shows in Stats; see also Log.StampTime.
	TimeAuthorities []string

	// TimeInterval is the least time between two stamps of one authority. 0 is one hour. Logs to which nothing is appended
	// are not stamped again.
	TimeInterval time.Duration

	// Hostname stands in entries whose event has none. Empty is the system's.
	Hostname string

	// Logger hears of what an operator must know and no caller is told: a clock that stepped back, a failed checkpoint.
	// Nil is silent. Entry contents and keys are never logged.
	Logger *slog.Logger

	// DemoClock is the clock of a log of demonstration data, whose entries are of a week that nobody lived. Such a log says so in
	// every checkpoint, bundle and receipt: its Origin must begin with DemoPrefix, or Open refuses. Nil is the system's clock.
	DemoClock func() time.Time

	fs      vfs.FS           // tests: a fake disk
	now     func() time.Time // tests: a fake clock
	session uint64           // tests: the 42 bits that a session's ids share; 0 is random
	pid     uint32           // tests: 0 is this process's
	vkeys   int              // tests: how many keys a new log gets, 1 or 3; 0 is newLogKeys

	noSearch bool // benchmarks: segments are sealed without a search index
}

const (
	defaultRotateSize         = 100 << 20
	minRotateSize             = 64 << 10
	defaultCheckpointInterval = time.Second
	defaultEpochDuration      = 24 * time.Hour
	newLogKeys                = 3                // verifier keys that a new log gets: the log key, or that and two of epoch 0
	keepInterval              = 10 * time.Minute // between two checkpoints kept in the history, unless close or seal asks
	idempotencyWindow         = 24 * time.Hour
	idempotencyKeys           = 1_000_000
)

// Info appends one event and returns once it is durable. So do the methods of the other levels. If ctx ends first the
// error wraps ErrUncertain: the event may be committed or not, and an append with the same idempotency key settles it.
func (l *Log) Info(ctx context.Context, message string, metadata Fields) (Receipt, error) {
	return l.one(ctx, Info, message, metadata)
}

// Warn appends one event at level WARN.
func (l *Log) Warn(ctx context.Context, message string, metadata Fields) (Receipt, error) {
	return l.one(ctx, Warn, message, metadata)
}

// Error appends one event at level ERROR.
func (l *Log) Error(ctx context.Context, message string, metadata Fields) (Receipt, error) {
	return l.one(ctx, Error, message, metadata)
}

// Critical appends one event at level CRITICAL.
func (l *Log) Critical(ctx context.Context, message string, metadata Fields) (Receipt, error) {
	return l.one(ctx, Critical, message, metadata)
}

// Audit appends one event at level AUDIT.
func (l *Log) Audit(ctx context.Context, message string, metadata Fields) (Receipt, error) {
	return l.one(ctx, Audit, message, metadata)
}

// Security appends one event at level SECURITY.
func (l *Log) Security(ctx context.Context, message string, metadata Fields) (Receipt, error) {
	return l.one(ctx, Security, message, metadata)
}

// Revenue appends one event at level REVENUE.
func (l *Log) Revenue(ctx context.Context, message string, metadata Fields) (Receipt, error) {
	return l.one(ctx, Revenue, message, metadata)
}

// System appends one event at level SYSTEM.
func (l *Log) System(ctx context.Context, message string, metadata Fields) (Receipt, error) {
	return l.one(ctx, System, message, metadata)
}

func (l *Log) one(ctx context.Context, level Level, message string, metadata Fields) (Receipt, error) {
	rs, err := l.append(ctx, []Event{{Level: level, Message: message, Metadata: metadata}})
	if err != nil {
		return Receipt{}, err
	}
	return rs[0], nil
}
