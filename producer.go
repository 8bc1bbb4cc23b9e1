package immutable

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/producer"
	"github.com/tree-of-life-system/immutable/internal/vfs"
)

// ProducerSignature is a source's signature of its event, as Event.Producer carries it.
type ProducerSignature = entry.Producer

// The algorithms of a producer's key.
const (
	ProducerEd25519 = producer.Ed25519
	ProducerMLDSA44 = producer.MLDSA44 // FIPS 204
)

// ErrUnregistered is wrapped by AppendSigned where the log does not count the producer's key: register it first.
var ErrUnregistered = errors.New("the producer's key is not registered in this log")

// Producer signs the events of one source and numbers them without gaps, so that a verifier can name what never came. It
// has a key file, and beside it one file of counters for each log: keep them together, and never copy them to a second
// host, which would use numbers again. Its methods may be called from any number of goroutines.
type Producer struct {
	fs   vfs.FS
	file string
	key  *producer.PrivateKey
	lock io.Closer

	mu    sync.Mutex // guards what follows
	lines map[string]*producerLine
	ended bool
	work  sync.WaitGroup // appends whose caller may have stopped waiting
}

// producerLine is a producer's part in one log.
type producerLine struct {
	journal *producer.Journal
	settle  sync.Mutex // one settles, the others wait
	settled bool       // guarded by settle: what an earlier session left open was looked up
	changes uint64     // guarded by settle: the changes of Log.producers when the key was last seen to be registered

	mu       sync.Mutex // guards what follows
	inFlight map[uint64]bool
	doubt    bool // an append ended and nobody knows how: look again
}

// NewProducer makes a key for a source called name and writes it to keyFile, which must not exist, with mode 0600.
func NewProducer(keyFile, name, algorithm string) (*Producer, error) {
	var seed [32]byte
	_, _ = rand.Read(seed[:]) // never fails, crypto/rand says
	key, err := producer.NewKey(name, algorithm, seed)
	if err != nil {
		return nil, err
	}
	if err := producer.CreateKeyFile(vfs.OS(), keyFile, key); err != nil {
		return nil, err
	}
	return OpenProducer(keyFile)
}

// OpenProducer takes a key file that NewProducer made. One process at a time has it; another gets an error.
func OpenProducer(keyFile string) (*Producer, error) { return openProducer(vfs.OS(), keyFile) }

func openProducer(fsys vfs.FS, keyFile string) (*Producer, error) {
	key, err := producer.LoadKeyFile(fsys, keyFile)
	if err != nil {
		return nil, err
	}
	lock, err := fsys.Lock(keyFile+".lock", fmt.Appendf(nil, "process %d", os.Getpid()))
	if err != nil {
		return nil, fmt.Errorf("take the producer's key: %w", err)
	}
	return &Producer{fs: fsys, file: keyFile, key: key, lock: lock, lines: map[string]*producerLine{}}, nil
}

// Key is the public key, for Log.RegisterProducer.
func (p *Producer) Key() string { return p.key.Key().String() }

// ID is what entries carry of the key: 16 hex digits.
func (p *Producer) ID() string { return p.key.Key().ID() }

// Close waits for appends that are under way and lets go of the key.
func (p *Producer) Close() error {
	p.mu.Lock()
	if p.ended {
		p.mu.Unlock()
		return ErrClosed
	}
	p.ended = true
	p.mu.Unlock()
	p.work.Wait()
	var errs []error
	for _, line := range p.lines {
		errs = append(errs, line.journal.Close())
	}
	return errors.Join(append(errs, p.lock.Close())...)
}

// line opens the counters for a log.
func (p *Producer) line(origin string) (*producerLine, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return nil, ErrClosed
	}
	if l := p.lines[origin]; l != nil {
		return l, nil
	}
	sum := sha256.Sum256([]byte(origin))
	j, err := producer.OpenJournal(p.fs, p.file+"."+hex.EncodeToString(sum[:8]), p.ID(), origin)
	if err != nil {
		return nil, err
	}
	p.lines[origin] = &producerLine{journal: j, inFlight: map[uint64]bool{}}
	return p.lines[origin], nil
}

// Sign signs an event for the log of the given origin, for a caller who brings it there by a way of their own: it sets
// Event.Producer, Hostname and PID where they are empty, and RawMetadata, and nothing of the event may be changed after. The
// counter is durable before Sign returns. The caller owes the log this very event, as often as it takes: give it an
// idempotency key, and call Sent once it is appended, or Unsent if it certainly never will be. Signing a signed event again,
// or another with an idempotency key that was signed and not yet settled, takes no second counter.
func (p *Producer) Sign(origin string, e *Event) error {
	line, err := p.line(origin)
	if err != nil {
		return err
	}
	if e.Hostname == "" {
		if e.Hostname, err = hostname(""); err != nil {
			return err
		}
	}
	if e.PID == 0 {
		e.PID = uint32(os.Getpid())
	}
	content, err := fixContent(e)
	if err != nil {
		return err
	}
	if e.Producer != nil && p.key.Key().Verify(origin, *e.Producer, content) {
		return nil
	}
	key := ""
	if e.IdempotencyKey != "" {
		sum := sha256.Sum256([]byte(e.IdempotencyKey))
		key = hex.EncodeToString(sum[:16])
	}
	counter, err := line.journal.GiveOut(key)
	if err != nil {
		return err
	}
	sig, err := p.key.Sign(origin, counter, content)
	if err != nil {
		return err
	}
	e.Producer = &sig
	return nil
}

// Sent says of events that Sign signed that the log has them.
func (p *Producer) Sent(origin string, events ...Event) error {
	return p.settle(origin, events, func(j *producer.Journal, list []uint64) error { return j.Settle(list, nil) })
}

// Unsent says of events that Sign signed that the log does not have them, and that nobody will bring them there: their
// counters are used for others.
func (p *Producer) Unsent(origin string, events ...Event) error {
	return p.settle(origin, events, func(j *producer.Journal, list []uint64) error { return j.Settle(nil, list) })
}

func (p *Producer) settle(origin string, events []Event, with func(*producer.Journal, []uint64) error) error {
	line, err := p.line(origin)
	if err != nil {
		return err
	}
	var list []uint64
	for i := range events {
		if s := events[i].Producer; s != nil && s.Key == p.ID() {
			list = append(list, s.Counter)
		}
	}
	return with(line.journal, list)
}

// fixContent makes the event's spelling final, and returns what a producer signs of it.
func fixContent(e *Event) ([]byte, error) {
	unsigned := *e
	unsigned.Producer = nil
	line, err := entry.Append(nil, &unsigned)
	if err != nil {
		return nil, err
	}
	var d entry.Line
	if err := entry.Decode(line, &d); err != nil {
		return nil, err
	}
	if d.Log != nil {
		return nil, errors.New("a control entry carries no producer's signature")
	}
	e.RawMetadata = d.Metadata
	return d.AppendSigned(nil), nil
}

// AppendSigned signs events, numbers them, and appends them as Append does. Repeats of idempotency keys take no number. The next
// events use the numbers of events that certainly did not come into the log, because it refused them, or its disk was full, or
// it crashed: so none stays missing. Whoever stops waiting gets ErrUncertain; the append goes on, and Producer.Close waits for it. The events need
// no Producer, and one that they have is replaced.
func (l *Log) AppendSigned(ctx context.Context, p *Producer, events ...Event) ([]Receipt, error) {
	if l.w == nil {
		return nil, l.refusal()
	}
	if len(events) == 0 {
		return nil, nil
	}
	if len(events) > MaxBatchEntries {
		return nil, fmt.Errorf("%w: %d events, at most %d fit one append; split it", ErrTooLarge, len(events), MaxBatchEntries)
	}
	line, err := p.line(l.id.Origin)
	if err != nil {
		return nil, err
	}
	if err := line.catchUp(ctx, l, p); err != nil {
		return nil, err
	}
	unsigned := slices.Clone(events)
	for i := range unsigned {
		if unsigned[i].Log != nil {
			return nil, fmt.Errorf("event %d: control entries are written by the log only", i)
		}
		unsigned[i].Producer = nil
	}
	return line.append(ctx, l, p, unsigned)
}

// sign numbers and signs the lines of a request, which nobody else has. The counters are in flight then.
func (line *producerLine) sign(l *Log, p *Producer, req *request) ([]uint64, error) {
	room := p.signatureRoom()
	for i := range req.ends {
		if n := len(req.line(i)); n+room > entry.MaxLine {
			return nil, &FieldError{Offset: -1, Msg: fmt.Sprintf("the entry takes %d bytes, and its signature up to %d: at most %d together; shorten it or split it", n, room, entry.MaxLine)}
		}
	}
	if n := len(req.lines) + len(req.ends)*room; n > maxBatchLines {
		return nil, fmt.Errorf("%w: with their signatures the events take up to %d bytes, at most %d; split it", ErrTooLarge, n, maxBatchLines)
	}
	counters, err := line.reserve(len(req.ends), l.Size())
	if err != nil {
		return nil, err
	}
	lines := make([]byte, 0, len(req.lines)+len(req.ends)*room)
	ends := make([]int32, 0, len(req.ends))
	for i, counter := range counters {
		own := req.line(i)
		sig, err := p.key.Sign(l.id.Origin, counter, entry.SignedContent(own))
		if err == nil {
			lines, err = entry.AppendProducer(append(lines, own[:len(own)-1]...), &sig)
		}
		if err != nil {
			return nil, errors.Join(err, line.end(nil, counters, false))
		}
		lines = append(lines, "}\n"...)
		ends = append(ends, int32(len(lines)))
	}
	req.lines, req.ends = lines, ends
	return counters, nil
}

// signatureRoom is how many bytes the member with a signature takes at most.
func (p *Producer) signatureRoom() int {
	size := entry.Ed25519Signature
	if p.key.Key().Algorithm() == ProducerMLDSA44 {
		size = entry.MLDSA44Signature
	}
	return len(`,"producer":{"key":"0123456789abcdef","counter":9223372036854775807,"signature":""}`) + base64.StdEncoding.EncodedLen(size)
}

// reserve takes counters. They are in flight at once: whoever catches up must not take them for left over.
func (line *producerLine) reserve(n int, from uint64) ([]uint64, error) {
	line.mu.Lock()
	defer line.mu.Unlock()
	counters, err := line.journal.Reserve(n, from)
	if err != nil {
		return nil, err
	}
	for _, c := range counters {
		line.inFlight[c] = true
	}
	return counters, nil
}

// end settles counters whose append is over. With doubt, what is in neither list stays open, to be looked up.
func (line *producerLine) end(done, free []uint64, doubt bool) error {
	err := line.journal.Settle(done, free)
	line.mu.Lock()
	defer line.mu.Unlock()
	for _, list := range [][]uint64{done, free} {
		for _, c := range list {
			delete(line.inFlight, c)
		}
	}
	line.doubt = line.doubt || doubt
	return err
}

// append appends events that it signs, and settles their counters whether or not the caller waits.
func (line *producerLine) append(ctx context.Context, l *Log, p *Producer, events []Event) ([]Receipt, error) {
	p.mu.Lock()
	if p.ended {
		p.mu.Unlock()
		return nil, ErrClosed
	}
	p.work.Add(1)
	p.mu.Unlock()
	type outcome struct {
		receipts []Receipt
		err      error
	}
	ended := make(chan outcome, 1)
	go func() {
		defer p.work.Done()
		var counters []uint64
		rs, err := l.appendBy(context.WithoutCancel(ctx), events, func(req *request) (err error) {
			counters, err = line.sign(l, p, req)
			return err
		})
		if serr := line.outcome(counters, err); serr != nil {
			l.logger.Error("a producer's counters could not be settled; they are looked up when it is opened again", "producer", p.ID(), "error", serr)
		}
		ended <- outcome{rs, err}
	}()
	select {
	case o := <-ended:
		return o.receipts, o.err
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: stopped waiting: %w", ErrUncertain, context.Cause(ctx))
	}
}

// outcome settles the counters of an append by what came of it.
func (line *producerLine) outcome(counters []uint64, failed error) error {
	switch {
	case failed == nil:
		return line.end(counters, nil, false)
	case nothingWritten(failed):
		return line.end(nil, counters, false)
	}
	line.mu.Lock()
	defer line.mu.Unlock()
	for _, c := range counters {
		delete(line.inFlight, c)
	}
	line.doubt = true
	return nil
}

// nothingWritten says of an append's error that nothing of it is in the log or can come into it.
func nothingWritten(err error) bool {
	var field *FieldError
	var conflict *KeyConflictError
	return errors.As(err, &field) || errors.As(err, &conflict) || errors.Is(err, ErrTooLarge) || errors.Is(err, ErrNoSpace) || errors.Is(err, ErrReadOnly)
}

// catchUp looks up in the log what earlier appends left open, once a session and after each append whose outcome is not
// known. The writer of this log is this process, so what is not there and not under way never comes.
func (line *producerLine) catchUp(ctx context.Context, l *Log, p *Producer) error {
	line.settle.Lock()
	defer line.settle.Unlock()
	line.mu.Lock()
	changes := l.producers.changes.Load()
	need := !line.settled || line.doubt || line.changes != changes
	line.doubt = false
	open := map[uint64]bool{}
	from := l.Size()
	for _, r := range line.journal.Open() {
		if !r.Out && !line.inFlight[r.Counter] {
			open[r.Counter] = true
			from = min(from, r.From)
		}
	}
	line.mu.Unlock()
	if !need {
		return nil
	}
	err := line.lookUp(ctx, l, p, open, from)
	if err != nil {
		line.mu.Lock()
		line.doubt = true
		line.mu.Unlock()
		return fmt.Errorf("look up what an earlier append of this producer left open: %w", err)
	}
	line.settled, line.changes = true, changes
	return nil
}

func (line *producerLine) lookUp(ctx context.Context, l *Log, p *Producer, open map[uint64]bool, from uint64) error {
	registered := false
	keys, err := l.Producers(ctx)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if k.ID != p.ID() || k.Key != p.Key() || k.Ended {
			continue
		}
		registered = true
		if !line.journal.Begun() { // the file of counters is new, or was lost
			from = min(from, k.From)
		}
	}
	if !registered {
		return fmt.Errorf("%w: %s (%s); `immutable producer register` does that", ErrUnregistered, p.key.Key().Name(), p.ID())
	}
	var done, free []uint64
	high := uint64(0)
	if from < l.Size() {
		for e, err := range l.Entries(ctx, Query{From: from}) {
			if err != nil {
				return err
			}
			if e.Producer == nil || e.Producer.Key != p.ID() {
				continue
			}
			high = max(high, e.Producer.Counter)
			if open[e.Producer.Counter] {
				done = append(done, e.Producer.Counter)
				delete(open, e.Producer.Counter)
			}
		}
	}
	for c := range open {
		free = append(free, c)
	}
	if err := line.journal.Raise(high); err != nil {
		return err
	}
	return line.journal.Settle(done, free)
}

// producers is what a log remembers of registrations.
type producers struct {
	mu      sync.Mutex    // one at a time: the second sees the first
	changes atomic.Uint64 // registrations and ends in this session
}

// ProducerKey is a producer's key as the log knows it.
type ProducerKey struct {
	Name  string `json:"name"`
	ID    string `json:"id"`  // what entries carry: 16 hex digits
	Key   string `json:"key"` // <name>+<algorithm>+<base64 public key>
	From  uint64 `json:"from"`
	Ended bool   `json:"ended"`
	End   uint64 `json:"end,omitempty"` // index of the entry that ended it
}

// Producers lists the keys that were registered, in the order of their registration.
func (l *Log) Producers(ctx context.Context) ([]ProducerKey, error) {
	var list []ProducerKey
	err := l.controls(ctx, "control:producer OR control:producer-end", 0, func(e *Entry) error {
		if !strings.HasPrefix(string(e.Control), `{"type":"producer`) {
			return nil
		}
		var c struct{ Type, Key string }
		if err := json.Unmarshal(e.Control, &c); err != nil {
			return fmt.Errorf("entry %d: %w", e.Index, err)
		}
		k, err := producer.ParseKey(c.Key)
		if err != nil {
			return fmt.Errorf("entry %d: %w", e.Index, err)
		}
		at := -1
		for i := range list {
			if list[i].ID == k.ID() {
				at = i
			}
		}
		switch {
		case c.Type == "producer" && at < 0:
			list = append(list, ProducerKey{Name: k.Name(), ID: k.ID(), Key: c.Key, From: e.Index})
		case c.Type == "producer-end" && at >= 0 && list[at].Key == c.Key && !list[at].Ended:
			list[at].Ended, list[at].End = true, e.Index
		}
		return nil
	})
	return list, err
}

// RegisterProducer makes a producer's key count from here on: verification then reports which of its events are missing. The
// operator vouches by it that the key is the source's.
func (l *Log) RegisterProducer(ctx context.Context, key string) (Receipt, error) {
	k, err := producer.ParseKey(key)
	if err != nil {
		return Receipt{}, err
	}
	l.producers.mu.Lock()
	defer l.producers.mu.Unlock()
	known, err := l.Producers(ctx)
	if err != nil {
		return Receipt{}, err
	}
	for i := range known {
		switch {
		case known[i].ID != k.ID():
		case known[i].Ended:
			return Receipt{}, fmt.Errorf("the key %s of %s ended with entry %d and does not begin again: make a new one with `immutable producer new`", k.ID(), k.Name(), known[i].End)
		default:
			return Receipt{}, fmt.Errorf("the key %s is registered already, by entry %d for %s", k.ID(), known[i].From, known[i].Name)
		}
	}
	return l.producerRecord(ctx, "producer", "a producer's key counts from here on", k)
}

// EndProducer makes a producer's key count no more: entries from here on that it signs are bad.
func (l *Log) EndProducer(ctx context.Context, key string) (Receipt, error) {
	k, err := producer.ParseKey(key)
	if err != nil {
		return Receipt{}, err
	}
	l.producers.mu.Lock()
	defer l.producers.mu.Unlock()
	known, err := l.Producers(ctx)
	if err != nil {
		return Receipt{}, err
	}
	for i := range known {
		if known[i].Key == key && !known[i].Ended {
			return l.producerRecord(ctx, "producer-end", "a producer's key counts no more", k)
		}
	}
	return Receipt{}, fmt.Errorf("%w: the key %s of %s", ErrUnregistered, k.ID(), k.Name())
}

func (l *Log) producerRecord(ctx context.Context, kind, message string, k producer.Key) (Receipt, error) {
	if l.w == nil {
		return Receipt{}, l.refusal()
	}
	defer l.producers.changes.Add(1)
	// A name has no character that JSON escapes.
	return l.control(ctx, message, fmt.Appendf(nil, `{"type":"%s","name":"%s","key":"%s"}`, kind, k.Name(), k))
}
