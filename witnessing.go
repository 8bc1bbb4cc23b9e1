package immutable

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/bits"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/internal/witness"
	"github.com/tree-of-life-system/immutable/proof"
)

// Names that are part of the format.
const (
	cosignedName  = "cosigned"
	evidenceDir   = "evidence"
	witnessesName = "witnesses" // under the log's state directory
)

const (
	defaultWitnessTimeout = 5 * time.Second
	closeTime             = 2 * time.Second // that Close gives the witnesses, twice at most: for what was there at open, and for the last checkpoint
	firstRetry            = time.Second     // after a witness failed; doubled each time
	lastRetry             = 5 * time.Minute
	quorumPatience        = time.Minute // after which a quorum that is not met is a warning

	maxCosignatures = proof.MaxSignatures - 3 // a log signs with three keys

	witnessesHeader = "immutable/witnesses/1"
	maxWitnesses    = 64 << 10 // of the file
)

// witnessing asks the witnesses of Config.Policy to cosign published checkpoints. One goroutine, run, owns the rounds: all
// witnesses are asked for the same checkpoint at the same time, and when everybody has answered, failed or let the timeout pass the
// newest checkpoint has its turn. Nothing here is waited for by an append.
//
// Before the first signature of a session every witness was shown the checkpoint that was there at open and has answered,
// failed, or let the timeout pass (await). A witness that answers with a checkpoint of this log that is not a part of it
// condemns the log.
type witnessing struct {
	l        *Log
	policy   *proof.Policy
	client   *witness.Client
	timeout  time.Duration // of one witness, with everything that it is asked in one turn
	retry    time.Duration // tests: firstRetry
	patience time.Duration // tests: quorumPatience

	ctx     context.Context // ends what is under way
	cancel  context.CancelFunc
	wake    chan struct{} // capacity 1: newest changed
	answers chan answer   // one a target at most
	closing chan struct{}
	ended   chan struct{}
	asked   chan struct{} // closed when every witness had its say about the state at open
	patient chan struct{} // closed when Close waits for asked no longer

	// Owned by run.
	targets   []*target
	round     *round
	first     bool      // the round at open is not over
	unmet     time.Time // since when the newest checkpoint lacks its quorum; zero when it has it
	warned    bool
	condemned bool

	saving sync.Mutex // one file of evidence at a time: several witnesses may show the same

	mu     sync.Mutex // guards what follows
	newest published
	state  Witnessing
	refuse error // the reason why the log was condemned
}

// published is a checkpoint that was published.
type published struct {
	note []byte
	size uint64
	kept bool // in the history
}

// target is a witness: all keys that the policy has for one URL.
type target struct {
	url     string
	names   []string // in the policy
	keys    []proof.Key
	size    uint64 // that it was last known to have
	busy    bool
	fails   int
	retryAt time.Time
}

// round is one checkpoint and what was signed under it.
type round struct {
	published
	lines     map[*target][]byte
	satisfied bool
	written   int // lines that are in the file
}

// answer is what came of asking a target.
type answer struct {
	t     *target
	note  []byte // that it was asked to sign
	lines []byte
	size  uint64 // that it is known to have now
	err   error
	fork  error // this log must not go on
}

// Witnessing is how the witnesses of Config.Policy do. A quorum that is not met never stops the log; it is said here, in
// receipts, and, after a minute, to Config.Logger.
type Witnessing struct {
	Satisfied    bool            `json:"satisfied"`              // the newest checkpoint has its quorum
	Quorum       string          `json:"quorum,omitempty"`       // what the quorum needs and what the newest checkpoint has, for people
	CosignedSize uint64          `json:"cosignedSize"`           // of the newest checkpoint that satisfied the policy
	CosignedTime *time.Time      `json:"cosignedTime,omitempty"` // the newest cosignature under it
	UnmetSince   *time.Time      `json:"unmetSince,omitempty"`   // since when checkpoints lack their quorum
	Witnesses    []WitnessStatus `json:"witnesses"`
}

// WitnessStatus is one witness of the policy.
type WitnessStatus struct {
	Name  string     `json:"name"` // in the policy
	URL   string     `json:"url,omitempty"`
	Size  uint64     `json:"size"`            // of the checkpoint that it cosigned last in this session, or that the file cosigned has of it
	Time  *time.Time `json:"time,omitempty"`  // of that cosignature, by the witness's clock
	Error string     `json:"error,omitempty"` // of the last try, if it failed
}

// newWitnessing checks the policy. It returns nil where there is none.
func newWitnessing(l *Log) (*witnessing, error) {
	p := l.cfg.Policy
	if p == nil {
		return nil, nil
	}
	if len(l.id.VKeys) == 0 {
		return nil, errors.New("a policy was given, and this log has no signatures that a witness could check: leave the policy out, or make a log with signatures")
	}
	listed := len(p.Logs()) == 0
	for _, pl := range p.Logs() {
		listed = listed || pl.Key.String() == l.id.VKeys[0]
	}
	if !listed {
		return nil, fmt.Errorf("the policy lists logs, and not this one: add the line `log %s`", l.id.VKeys[0])
	}
	w := &witnessing{
		l: l, policy: p, client: witness.NewClient(), timeout: l.cfg.WitnessTimeout, retry: firstRetry, patience: quorumPatience,
		wake: make(chan struct{}, 1), closing: make(chan struct{}), ended: make(chan struct{}),
		asked: make(chan struct{}), patient: make(chan struct{}), first: true,
	}
	if w.timeout <= 0 {
		w.timeout = defaultWitnessTimeout
	}
	byURL := map[string]*target{}
	for _, pw := range p.Witnesses() {
		w.state.Witnesses = append(w.state.Witnesses, WitnessStatus{Name: pw.Name, URL: pw.URL})
		if pw.URL == "" {
			w.state.Witnesses[len(w.state.Witnesses)-1].Error = "the policy has no URL to ask it at"
			continue
		}
		if err := witness.CheckURL(pw.URL); err != nil {
			return nil, fmt.Errorf("policy: URL of witness %s: %w", pw.Name, err)
		}
		t := byURL[pw.URL]
		if t == nil {
			t = &target{url: pw.URL}
			byURL[pw.URL] = t
			w.targets = append(w.targets, t)
		}
		t.names, t.keys = append(t.names, pw.Name), append(t.keys, pw.Key)
	}
	if n := len(p.Witnesses()); n > maxCosignatures {
		return nil, fmt.Errorf("the policy has %d witness keys, and a checkpoint has room for %d cosignatures", n, maxCosignatures)
	}
	w.answers = make(chan answer, len(w.targets))
	w.ctx, w.cancel = context.WithCancel(context.Background())
	return w, nil
}

// startWitnessing begins with the newest checkpoint of the directory, before the publisher runs.
func (l *Log) startWitnessing() error {
	w, err := newWitnessing(l)
	if w == nil || err != nil {
		return err
	}
	p := &l.publisher
	w.newest = published{bytes.Clone(p.note), p.size, p.kept == p.size}
	w.loadSizes()
	w.loadCosigned()
	l.witnessing, l.outsiders = w, append(l.outsiders, w)
	go w.run()
	return nil
}

// published tells of a checkpoint that is durable. publisher.mu is held.
func (w *witnessing) published(note []byte, size uint64) {
	w.mu.Lock()
	w.newest = published{bytes.Clone(note), size, w.l.publisher.kept == size}
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// awaitWitnesses returns nil when a new checkpoint may be signed: every witness has been asked about the one that was there
// at open, and none of them has condemned the log.
func (l *Log) awaitWitnesses() error {
	w := l.witnessing
	if w == nil {
		return nil
	}
	select {
	case <-w.asked:
	case <-w.patient:
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.refuse
}

// stop waits a bounded time for what the witnesses say about the state at open, before the last checkpoint is signed.
func (w *witnessing) stop() {
	t := time.NewTimer(min(w.timeout, closeTime))
	defer t.Stop()
	select {
	case <-w.asked:
	case <-t.C:
	}
	close(w.patient)
}

// finishWitnessing shows the last checkpoint to the witnesses for a bounded time, and ends. It returns why the log was
// condemned only now, after the writer has ended.
func (l *Log) finishWitnessing() error {
	w := l.witnessing
	if w == nil {
		return nil
	}
	close(w.closing)
	<-w.ended
	w.client.Close()
	if l.w.failed == nil { // otherwise it says so itself
		return w.refuse
	}
	return nil
}

func (w *witnessing) run() {
	defer close(w.ended)
	defer w.saveSizes()
	defer w.drain()
	closing, deadline := w.closing, (<-chan time.Time)(nil)
	for {
		wait := w.step(time.Now())
		if closing == nil && (w.settled() || w.condemned) {
			return
		}
		timer := time.NewTimer(wait)
		select {
		case <-w.wake:
		case a := <-w.answers:
			w.take(a)
		case <-timer.C:
		case <-closing:
			closing, deadline = nil, time.After(min(w.timeout, closeTime))
		case <-deadline:
			return
		}
		timer.Stop()
	}
}

// drain ends what is under way, and waits for it; the answers are taken all the same.
func (w *witnessing) drain() {
	w.cancel()
	for _, t := range w.targets {
		if t.busy {
			w.take(<-w.answers)
		}
	}
}

// settled says that nobody is being asked and nobody is to be asked about the newest checkpoint now.
func (w *witnessing) settled() bool {
	w.mu.Lock()
	newest := w.newest
	w.mu.Unlock()
	return w.idle() && w.round != nil && bytes.Equal(w.round.note, newest.note)
}

func (w *witnessing) idle() bool {
	for _, t := range w.targets {
		if t.busy {
			return false
		}
	}
	return true
}

// step begins the next round if its turn has come, asks whom it may ask, and returns how long there is nothing to do unless
// something happens.
func (w *witnessing) step(now time.Time) time.Duration {
	wait := w.patience
	if w.condemned {
		return wait
	}
	w.mu.Lock()
	newest := w.newest
	w.mu.Unlock()
	switch {
	case w.round == nil, !bytes.Equal(w.round.note, newest.note) && !w.first && w.idle():
		w.begin(newest, now)
	case bytes.Equal(w.round.note, newest.note):
		w.round.kept = newest.kept
	}
	for _, t := range w.targets {
		switch {
		case t.busy || w.round.lines[t] != nil:
		case !now.Before(t.retryAt):
			w.ask(t)
		default:
			wait = min(wait, t.retryAt.Sub(now))
		}
	}
	if w.first && w.idle() {
		w.first = false
		close(w.asked)
		if !bytes.Equal(w.round.note, newest.note) {
			return 0
		}
	}
	return w.watchQuorum(now, wait)
}

// begin starts the round of a checkpoint.
func (w *witnessing) begin(p published, now time.Time) {
	w.round = &round{published: p, lines: map[*target][]byte{}}
	w.judge()
	if !w.round.satisfied && w.unmet.IsZero() {
		w.unmet = now
	}
}

// watchQuorum warns once of a quorum that was not met for too long.
func (w *witnessing) watchQuorum(now time.Time, wait time.Duration) time.Duration {
	if w.round.satisfied {
		if w.warned {
			w.l.logger.Info("checkpoints have the quorum of witnesses again", "size", w.round.size)
		}
		w.unmet, w.warned = time.Time{}, false
	} else if left := w.unmet.Add(w.patience).Sub(now); left > 0 {
		wait = min(wait, left)
	} else if !w.warned {
		w.warned = true
		w.mu.Lock()
		quorum := w.state.Quorum
		w.mu.Unlock()
		w.l.logger.Warn("checkpoints lack the quorum of witnesses; `immutable stats` says which of them fail and why", "size", w.round.size, "quorum", quorum)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state.UnmetSince = nil
	if !w.unmet.IsZero() {
		since := w.unmet.UTC()
		w.state.UnmetSince = &since
	}
	return wait
}

// ask asks one witness for the round's checkpoint, in a goroutine that ends with the timeout.
func (w *witnessing) ask(t *target) {
	t.busy = true
	q := question{w: w, url: t.url, keys: t.keys, old: t.size, published: w.round.published}
	go func() {
		ctx, cancel := context.WithTimeout(w.ctx, w.timeout)
		defer cancel()
		a := q.ask(ctx)
		a.t, a.note = t, q.note
		w.answers <- a
	}()
}

// take takes an answer: signatures under the round's checkpoint are put with the others.
func (w *witnessing) take(a answer) {
	t := a.t
	t.busy = false
	t.size = a.size
	w.noteAnswer(t, &a)
	if a.fork != nil {
		w.condemn(a.fork)
		return
	}
	if a.err != nil {
		t.retryAt = time.Now().Add(min(w.retry<<min(t.fails, 16), lastRetry))
		t.fails++
		return
	}
	t.fails, t.retryAt = 0, time.Time{}
	if w.round != nil && bytes.Equal(a.note, w.round.note) {
		w.round.lines[t] = a.lines
		w.judge()
		w.write()
	}
}

func (w *witnessing) condemn(reason error) {
	if w.condemned {
		return
	}
	w.condemned = true
	w.mu.Lock()
	w.refuse = reason
	w.mu.Unlock()
	if w.first { // the publication that waits, and that the writer may wait for, is refused now
		w.first = false
		close(w.asked)
	}
	w.l.logger.Error("a witness has another history of this log: nothing more is appended or signed", "error", reason)
	w.l.condemn(reason)
}

// noteAnswer is for Stats.
func (w *witnessing) noteAnswer(t *target, a *answer) {
	times := map[string]time.Time{}
	if a.err == nil && a.fork == nil {
		n, err := proof.ParseNote(withLines(a.note, a.lines))
		if err == nil {
			signed, _ := n.Verify(t.keys) // the client has verified them
			for _, s := range signed {
				times[s.Key.String()] = s.Time
			}
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, pw := range w.policy.Witnesses() {
		if pw.URL != t.url {
			continue
		}
		s := &w.state.Witnesses[i]
		s.Error = ""
		at, signed := times[pw.Key.String()]
		switch {
		case signed:
			at = at.UTC()
			s.Size, s.Time = a.size, &at
		case a.fork != nil:
			s.Error = a.fork.Error()
		case a.err != nil:
			s.Error = a.err.Error()
		default:
			s.Error = "it answered without a signature by this key"
		}
	}
}

// withLines adds signature lines to a note.
func withLines(note, lines []byte) []byte {
	return append(append(make([]byte, 0, len(note)+len(lines)), note...), lines...)
}

// cosigned is the round's checkpoint with what was signed under it, in the policy's order.
func (w *witnessing) cosigned() []byte {
	note := w.round.note
	for _, t := range w.targets {
		note = withLines(note, w.round.lines[t])
	}
	return note
}

// judge asks the policy about the round.
func (w *witnessing) judge() {
	r := w.policy.Check(w.cosigned())
	w.round.satisfied = r.Satisfied
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state.Satisfied, w.state.Quorum = r.Satisfied, r.Quorum
	if r.Err != nil {
		w.state.Quorum = r.Err.Error()
	}
	if w.round.satisfied {
		w.remember(&r)
	}
}

// remember takes over the newest checkpoint that satisfies the policy. w.mu is held.
func (w *witnessing) remember(r *proof.PolicyResult) {
	w.state.CosignedSize, w.state.CosignedTime = r.Checkpoint.Size, nil
	for _, s := range r.Witnesses {
		if s.Signed && (w.state.CosignedTime == nil || s.Time.After(*w.state.CosignedTime)) {
			at := s.Time.UTC()
			w.state.CosignedTime = &at
		}
	}
}

// write makes DIR/cosigned the round's checkpoint once that satisfies the policy, and again for each further cosignature.
// A checkpoint that is in the history keeps its cosignatures in evidence/.
func (w *witnessing) write() {
	if !w.round.satisfied || len(w.round.lines) == w.round.written {
		return
	}
	l, note := w.l, w.cosigned()
	err := vfs.WriteAtomic(l.fs, l.path(nextDir, cosignedName), l.path(cosignedName), note, 0o600)
	if err == nil && w.isKept() {
		err = w.keepEvidence(note)
	}
	if err != nil {
		l.logger.Warn("cosigned checkpoint not written; the next one is", "size", w.round.size, "error", err)
		return
	}
	w.round.written = len(w.round.lines)
}

// isKept says whether the round's checkpoint is in the history.
func (w *witnessing) isKept() bool {
	p := &w.l.publisher
	p.mu.Lock()
	defer p.mu.Unlock()
	return w.round.kept || p.kept == w.round.size
}

func (w *witnessing) keepEvidence(note []byte) error {
	l := w.l
	if err := vfs.MkdirAll(l.fs, l.path(evidenceDir), 0o700); err != nil {
		return err
	}
	name := fmt.Sprintf("%020d.note", w.round.size)
	return vfs.WriteAtomic(l.fs, l.path(nextDir, name), l.path(evidenceDir, name), note, 0o600)
}

// loadCosigned takes over what an earlier session left, for Stats.
func (w *witnessing) loadCosigned() {
	note, err := w.l.readCosigned()
	if err != nil {
		if !notExist(err) {
			w.l.logger.Warn("cosigned checkpoint not used; `immutable verify` says what is wrong with it", "error", err)
		}
		return
	}
	r := w.policy.Check(note)
	if r.Err != nil {
		w.l.logger.Warn("cosigned checkpoint not used: a signature in it is bad", "error", r.Err)
		return
	}
	for i, s := range r.Witnesses {
		if s.Signed {
			at := s.Time.UTC()
			w.state.Witnesses[i].Size, w.state.Witnesses[i].Time = r.Checkpoint.Size, &at
		}
	}
	if r.Satisfied {
		w.remember(&r)
	}
}

// readCosigned returns the newest cosigned checkpoint of the directory, if the log itself has signed it.
func (l *Log) readCosigned() ([]byte, error) {
	note, err := vfs.ReadFile(l.fs, l.path(cosignedName), maxNote)
	if err != nil {
		return nil, err
	}
	if _, err := l.openCheckpoint(note); err != nil {
		return nil, &CorruptError{File: cosignedName, What: err.Error()}
	}
	return note, nil
}

// Cosigned is the newest checkpoint that satisfied Config.Policy, with its cosignatures: a C2SP note. The error wraps
// ErrNotFound where there is none.
func (l *Log) Cosigned() ([]byte, error) {
	note, err := l.readCosigned()
	if notExist(err) {
		return nil, fmt.Errorf("cosigned checkpoint: %w", ErrNotFound)
	}
	return note, err
}

// cosignedOver returns the cosigned checkpoint if it covers an entry, so that a receipt carries cosignatures wherever there
// are some.
func (l *Log) cosignedOver(index uint64) []byte {
	note, err := l.readCosigned()
	if err != nil {
		return nil // the newest checkpoint proves it without them
	}
	if c, err := l.openCheckpoint(note); err != nil || c.Size <= index {
		return nil
	}
	return note
}

// Witnessing is how the witnesses do; nil without Config.Policy. Of a log that is open for reading it is what the file
// cosigned says.
func (l *Log) Witnessing() *Witnessing {
	if l.cfg.Policy == nil {
		return nil
	}
	w := l.witnessing
	if w == nil {
		w = &witnessing{l: l, policy: l.cfg.Policy}
		for _, pw := range l.cfg.Policy.Witnesses() {
			w.state.Witnesses = append(w.state.Witnesses, WitnessStatus{Name: pw.Name, URL: pw.URL})
		}
		w.loadCosigned()
		w.state.Satisfied = w.state.CosignedSize > 0 && w.state.CosignedSize >= l.checkpointSize()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.state
	s.Witnesses = append([]WitnessStatus(nil), s.Witnesses...)
	return &s
}

func (l *Log) checkpointSize() uint64 {
	note, err := l.readCheckpoint()
	if err != nil {
		return 0
	}
	c, err := l.openCheckpoint(note)
	if err != nil {
		return 0
	}
	return c.Size
}

// loadSizes reads what each witness was last known to have. The file is a hint that a witness corrects; a damaged one costs
// a request.
func (w *witnessing) loadSizes() {
	data, err := vfs.ReadFile(w.l.fs, w.l.statePath(witnessesName), maxWitnesses)
	lines := strings.Split(string(data), "\n")
	if err != nil || lines[0] != witnessesHeader {
		return
	}
	for _, line := range lines[1:] {
		size, url, _ := strings.Cut(line, " ")
		for _, t := range w.targets {
			if n, err := strconv.ParseUint(size, 10, 63); err == nil && t.url == url {
				t.size = n
			}
		}
	}
}

func (w *witnessing) saveSizes() {
	data := []byte(witnessesHeader + "\n")
	for _, t := range w.targets {
		data = fmt.Appendf(data, "%d %s\n", t.size, t.url)
	}
	name := w.l.statePath(witnessesName)
	if err := vfs.WriteAtomic(w.l.fs, name+".new", name, data, 0o600); err != nil {
		w.l.logger.Warn("sizes of the witnesses not remembered; they are asked", "error", err)
	}
}

// question is one turn of one witness.
type question struct {
	w    *witnessing
	url  string
	keys []proof.Key
	old  uint64
	published
}

// ask asks for a cosignature, once more where the witness says that it has another size, and looks into it where the
// witness knows another history.
func (q *question) ask(ctx context.Context) answer {
	l := q.w.l
	old := min(q.old, q.size)
	for try := 0; ; try++ {
		hashes, err := l.consistency(ctx, old, q.size)
		if err != nil {
			return answer{size: old, err: fmt.Errorf("consistency proof from size %d to %d: %w", old, q.size, err)}
		}
		lines, err := q.w.client.AddCheckpoint(ctx, q.url, q.keys, &witness.Request{Old: old, Proof: hashes, Note: q.note})
		var other *witness.SizeError
		var status *witness.StatusError
		switch {
		case err == nil:
			return answer{size: q.size, lines: lines}
		case errors.As(err, &other) && other.Size <= q.size && try == 0:
			old = other.Size
		case errors.As(err, &other) && other.Size > q.size, errors.As(err, &status) && status.Status == http.StatusUnprocessableEntity:
			return q.examine(ctx, old, err)
		default:
			return answer{size: old, err: err}
		}
	}
}

// examine fetches the checkpoint of a witness that does not take ours. A checkpoint that this log's own keys have signed
// and that is no part of the log proves that the log was rolled back or forked. Anything else is the witness's affair.
func (q *question) examine(ctx context.Context, old uint64, refused error) answer {
	l := q.w.l
	note, err := q.w.client.Checkpoint(ctx, q.url, l.id.Origin)
	if err != nil {
		return answer{size: old, err: fmt.Errorf("%w; the checkpoint that it has cannot be fetched to look into that: %w", refused, err)}
	}
	c, err := proof.OpenCheckpoint(note, l.id.Origin, l.ownKeys())
	if err != nil {
		return answer{size: old, err: fmt.Errorf("%w; what it shows for that is not signed by this log: %w", refused, err)}
	}
	_, size := l.Root()
	if c.Size > size {
		return answer{size: old, fork: q.rolledBack(note, &c, size)}
	}
	root, err := l.rootAt(c.Size)
	if err != nil {
		return answer{size: old, err: fmt.Errorf("%w; the root at size %d cannot be read: %w", refused, c.Size, err)}
	}
	if root != c.Root {
		return answer{size: old, fork: q.forked(ctx, note, &c)}
	}
	return answer{size: c.Size, err: fmt.Errorf("%w; its checkpoint of size %d is part of this log, so the next try may go well", refused, c.Size)}
}

func (q *question) rolledBack(note []byte, c *proof.Checkpoint, size uint64) error {
	l := q.w.l
	next := "bring back the newer state; if it is lost, `immutable continue OLD NEW` begins a new log that anchors what is here"
	if name, err := l.saveEvidence("witnessed", c.Text(), note); err == nil {
		next = "the witness's checkpoint is kept in " + name + "; " + next
	}
	return &RefusedError{
		Dir: l.dir, Reason: fmt.Sprintf("the witness at %s has a checkpoint of %d entries that this log's key signed, and the log has %d: it was rolled back, or goes on elsewhere", q.url, c.Size, size),
		Ours: string(q.note), Known: string(note), Next: next,
	}
}

func (q *question) forked(ctx context.Context, note []byte, c *proof.Checkpoint) error {
	l := q.w.l
	e := &RefusedError{
		Dir: l.dir, Reason: fmt.Sprintf("the witness at %s has a checkpoint of %d entries that this log's key signed, and the first %d entries here are others: the log was forked", q.url, c.Size, c.Size),
		Ours: string(q.note), Known: string(note), Next: "find out which of the two is true: `immutable verify` with older checkpoints and receipts; then `immutable continue OLD NEW`",
	}
	name, err := q.misbehaviour(ctx, note, c)
	if err != nil {
		l.logger.Warn("no proof of misbehaviour could be made; both checkpoints are in the error", "error", err)
		return e
	}
	e.Next = "the proof is kept in " + name + ", `immutable verify` explains it; " + e.Next
	return e
}

// misbehaviour keeps the proof that the witness's checkpoint contradicts ours: this log's tree has another root at its size.
func (q *question) misbehaviour(ctx context.Context, note []byte, c *proof.Checkpoint) (string, error) {
	l := q.w.l
	if c.Size > q.size {
		return "", fmt.Errorf("the witness's checkpoint has %d entries, and the newest signed one here %d", c.Size, q.size)
	}
	m := proof.Misbehaviour{A: note, B: q.note}
	if c.Size < q.size {
		hashes, err := l.consistency(ctx, c.Size, q.size)
		if err != nil {
			return "", err
		}
		if bits.OnesCount64(c.Size) == 1 { // then a consistency proof leaves out the root that its reader knows, and ours is another
			root, err := l.rootAt(c.Size)
			if err != nil {
				return "", err
			}
			hashes = append([]Hash{root}, hashes...)
		}
		m.Proof = hashes
	}
	if _, err := m.Verify(l.ownKeys()); err != nil {
		return "", err
	}
	data, err := m.MarshalText()
	if err != nil {
		return "", err
	}
	return l.saveEvidence("misbehaviour", c.Text(), data)
}

// saveEvidence keeps data in this host's state of the log and returns the file's path. There is one file for one checkpoint that
// contradicts, whoever shows it how often.
func (l *Log) saveEvidence(kind, checkpoint string, data []byte) (string, error) {
	l.witnessing.saving.Lock()
	defer l.witnessing.saving.Unlock()
	sum := sha256.Sum256([]byte(checkpoint))
	name := l.statePath(kind + "-" + hex.EncodeToString(sum[:8]))
	if _, err := l.fs.Stat(name); err == nil {
		return name, nil
	}
	return name, vfs.WriteAtomic(l.fs, name+".new", name, data, 0o600)
}

// ownKeys are all keys that sign for this log, as far as it knows them.
func (l *Log) ownKeys() []proof.Key {
	chain := l.chain.Load()
	var keys []proof.Key
	for _, e := range chain.Epochs() {
		keys = append(keys, e.Keys...)
	}
	if k, ok := chain.LogKey(); ok && !slices.ContainsFunc(keys, func(o proof.Key) bool { return o.String() == k.String() }) {
		keys = append(keys, k)
	}
	return keys
}

// consistency is ConsistencyProof for the log's own use, also while it closes.
func (l *Log) consistency(ctx context.Context, a, b uint64) ([]Hash, error) {
	if a == 0 || a == b {
		return nil, nil
	}
	l.mu.RLock()
	at, root := l.edge, l.root
	l.mu.RUnlock()
	v, err := l.store.View(at.size(), root, at.tail)
	if err != nil {
		return nil, err
	}
	return v.Consistency(a, b, l.leavesAt(ctx, &at))
}
