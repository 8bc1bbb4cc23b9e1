package client

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

// Config says which log of which server. URL alone is enough for a server that asks for no token.
type Config struct {
	// URL is the server's address, such as https://logs.example.com; a path in it is kept, for servers behind a proxy.
	URL string

	// Tenant and Log name the log. Empty is "default" and "main".
	Tenant, Log string

	// Token is sent as Authorization: Bearer. TokenSource, where it is set, is asked for one before each request instead: for
	// tokens that are short-lived.
	Token       string
	TokenSource func(context.Context) (string, error)

	// TLS is for https: own roots, and the client certificate of mTLS. Nil is the system's roots.
	TLS *tls.Config

	// Keys are the verifier keys that the log began with, as `immutable key show` prints them, from a source other than the
	// server. With them every read is verified before it is returned, see the package comment. Without them reads are only
	// compared with what the server itself says.
	Keys []string

	// OneKeyLog says that the one key in Keys is the only one that the log has, as in logs that early versions made.
	OneKeyLog bool

	// Require says which keys of an epoch must have signed a checkpoint. The zero value is all of them.
	Require proof.Require

	// State is a file that remembers the newest checkpoint between runs, so that a server that rolls back or forks its log is
	// found out then too. One client at a time has it. Empty remembers as long as the client lives. It needs Keys.
	State string

	// Levels are those that the token may read, where it may not read all: entries of others are then missing from what the
	// server returns. With none, an index that is missing from a read without a filter is an error.
	Levels []immutable.Level

	// Timeout bounds one exchange with the server, but for streams. 0 is 60 seconds.
	Timeout time.Duration

	// RetryFor is how long a call goes on trying while the server cannot be reached, is busy, or says Retry-After. 0 is 30
	// seconds, negative tries once.
	RetryFor time.Duration

	// Hostname stands in events that have none. Empty is the system's.
	Hostname string
}

const (
	defaultTimeout  = 60 * time.Second
	defaultRetryFor = 30 * time.Second
)

// Client appends to one log of a server and reads it. Its methods may be called from any number of goroutines.
type Client struct {
	cfg  Config
	root string // of the server's addresses, without a slash at the end
	base string // of the log's
	tlog string // of its tiles
	http *http.Client
	fs   vfs.FS
	pid  uint32
	now  func() time.Time
	// pause waits between two attempts; an error is the context's.
	pause func(ctx context.Context, d time.Duration) error

	trust *trust         // nil: no keys are pinned
	local *immutable.Log // not nil: of a Writer to a log of this process, which talks to no server

	mu     sync.Mutex // guards closed
	closed bool
}

// New makes a client. It does not talk to the server yet.
func New(cfg Config) (*Client, error) {
	c := &Client{cfg: cfg, fs: vfs.OS(), now: time.Now, pause: pause}
	if err := c.configure(); err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	return c, nil
}

func (c *Client) configure() error {
	u, err := url.Parse(c.cfg.URL)
	if err != nil {
		return fmt.Errorf("server address: %w", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return fmt.Errorf("server address %q: want http://HOST or https://HOST, perhaps with a path, without user and query", u.Redacted())
	}
	for _, s := range []struct {
		name string
		to   *string
		or   string
	}{{"tenant", &c.cfg.Tenant, "default"}, {"log", &c.cfg.Log, "main"}} {
		if *s.to == "" {
			*s.to = s.or
		}
		if strings.Trim(*s.to, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return fmt.Errorf("name of a %s %q: want a-z, 0-9 and - only", s.name, *s.to)
		}
	}
	if strings.ContainsAny(c.cfg.Token, "\r\n\x00 ") {
		return errors.New("the token has a space or line break in it: was it read from a file with its newline?")
	}
	c.root = strings.TrimSuffix(u.String(), "/")
	c.base = c.root + "/api/v1/tenants/" + c.cfg.Tenant + "/logs/" + c.cfg.Log
	c.tlog = c.root + "/tlog/" + c.cfg.Tenant + "/" + c.cfg.Log
	c.setDefaults()
	c.http = newHTTP(c.cfg.TLS)
	if len(c.cfg.Keys) == 0 {
		if c.cfg.State != "" {
			return errors.New("a state file without pinned keys would remember what nobody has signed: give the log's keys")
		}
		return nil
	}
	c.trust, err = newTrust(c)
	return err
}

func (c *Client) setDefaults() {
	c.pid = uint32(os.Getpid())
	if c.cfg.Timeout <= 0 {
		c.cfg.Timeout = defaultTimeout
	}
	if c.cfg.RetryFor == 0 {
		c.cfg.RetryFor = defaultRetryFor
	}
	if c.cfg.Hostname == "" {
		if name, err := os.Hostname(); err == nil && len(name) <= entry.MaxHostname {
			c.cfg.Hostname = name
		}
	}
}

// Close lets go of the state file and of idle connections. Calls that are under way end as they would have.
func (c *Client) Close() error {
	c.mu.Lock()
	closed := c.closed
	c.closed = true
	c.mu.Unlock()
	if closed {
		return nil
	}
	c.http.CloseIdleConnections()
	if c.trust == nil {
		return nil
	}
	return c.trust.close()
}

// Info appends one event and returns once the server has it on its disk. It is tried again while the server cannot be reached,
// and lands once. So do the methods of the other levels. An error that wraps immutable.ErrUncertain says that the event may
// be in the log or not: see Append.
func (c *Client) Info(ctx context.Context, message string, metadata immutable.Fields) (immutable.Receipt, error) {
	return c.one(ctx, immutable.Info, message, metadata)
}

// Warn appends one event at level WARN.
func (c *Client) Warn(ctx context.Context, message string, metadata immutable.Fields) (immutable.Receipt, error) {
	return c.one(ctx, immutable.Warn, message, metadata)
}

// Error appends one event at level ERROR.
func (c *Client) Error(ctx context.Context, message string, metadata immutable.Fields) (immutable.Receipt, error) {
	return c.one(ctx, immutable.Error, message, metadata)
}

// Critical appends one event at level CRITICAL.
func (c *Client) Critical(ctx context.Context, message string, metadata immutable.Fields) (immutable.Receipt, error) {
	return c.one(ctx, immutable.Critical, message, metadata)
}

// Audit appends one event at level AUDIT.
func (c *Client) Audit(ctx context.Context, message string, metadata immutable.Fields) (immutable.Receipt, error) {
	return c.one(ctx, immutable.Audit, message, metadata)
}

// Security appends one event at level SECURITY.
func (c *Client) Security(ctx context.Context, message string, metadata immutable.Fields) (immutable.Receipt, error) {
	return c.one(ctx, immutable.Security, message, metadata)
}

// Revenue appends one event at level REVENUE.
func (c *Client) Revenue(ctx context.Context, message string, metadata immutable.Fields) (immutable.Receipt, error) {
	return c.one(ctx, immutable.Revenue, message, metadata)
}

// System appends one event at level SYSTEM.
func (c *Client) System(ctx context.Context, message string, metadata immutable.Fields) (immutable.Receipt, error) {
	return c.one(ctx, immutable.System, message, metadata)
}

func (c *Client) one(ctx context.Context, level immutable.Level, message string, metadata immutable.Fields) (immutable.Receipt, error) {
	rs, err := c.Append(ctx, immutable.Event{Level: level, Message: message, Metadata: metadata})
	if err != nil {
		return immutable.Receipt{}, err
	}
	return rs[0], nil
}

// Append appends a batch, all or nothing, and returns a receipt each, in order. Each receipt's leaf hash was computed again
// here: it is of exactly the event that was given.
//
// Events without an idempotency key get one, so that an attempt whose answer was lost can be repeated. When all attempts have
// failed and one of them may have reached the log, the error wraps immutable.ErrUncertain; who wants to go on from there sets
// the keys himself, and appends the same events again within 24 hours.
func (c *Client) Append(ctx context.Context, events ...immutable.Event) ([]immutable.Receipt, error) {
	if len(events) == 0 {
		return nil, nil
	}
	drafts, err := c.draftAll(events)
	if err != nil {
		return nil, fmt.Errorf("append: %w", err)
	}
	rs, err := c.send(ctx, drafts, false)
	if err != nil {
		return nil, fmt.Errorf("append: %w", err)
	}
	return rs, nil
}

// draftAll encodes a batch, within the limits of an append.
func (c *Client) draftAll(events []immutable.Event) ([]draft, error) {
	if len(events) > immutable.MaxBatchEntries {
		return nil, fmt.Errorf("%w: %d events, at most %d", immutable.ErrTooLarge, len(events), immutable.MaxBatchEntries)
	}
	batch := rand.Text()
	drafts := make([]draft, len(events))
	total := 0
	for i, e := range events {
		if e.IdempotencyKey == "" && e.Producer == nil {
			e.IdempotencyKey = batchKey(batch, uint64(i))
		}
		var err error
		if drafts[i], err = c.draft(&e); err != nil {
			return nil, fmt.Errorf("event %d: %w", i, err)
		}
		if total += len(drafts[i].line) + 1; total > immutable.MaxBatchBytes {
			return nil, fmt.Errorf("%w: more than %d bytes in one append", immutable.ErrTooLarge, immutable.MaxBatchBytes)
		}
	}
	return drafts, nil
}

// batchKey is the idempotency key of an event that has none: unique, as batch is random.
func batchKey(batch string, i uint64) string { return batch + "-" + strconv.FormatUint(i, 10) }

// send appends drafts as one batch. All have idempotency keys, or the caller takes it upon himself: a signed event cannot be
// given one, and its counter does the same for whoever verifies. once says that the caller repeats it himself.
func (c *Client) send(ctx context.Context, drafts []draft, once bool) ([]immutable.Receipt, error) {
	if c.local != nil {
		return c.appendLocal(ctx, drafts)
	}
	body := make([]byte, 0, 64<<10)
	body = append(body, '[')
	keyed := true
	for i := range drafts {
		if i > 0 {
			body = append(body, ',')
		}
		body = drafts[i].appendJSON(body)
		keyed = keyed && drafts[i].keyed
	}
	body = append(body, ']')
	a := &call{method: http.MethodPost, url: c.base + "/entries", body: body, kind: "application/json", limit: maxAnswer, repeatable: keyed, once: once, writes: true}
	data, err := c.do(ctx, a)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Receipts []immutable.Receipt `json:"receipts"`
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return nil, fmt.Errorf("%w: the server's answer is no list of receipts: %w", immutable.ErrUncertain, err)
	}
	if len(answer.Receipts) != len(drafts) {
		return nil, &VerificationError{Index: -1, What: "the number of receipts is not that of the events", Got: fmt.Sprint(len(answer.Receipts)), Want: fmt.Sprint(len(drafts))}
	}
	for i := range drafts {
		if err := drafts[i].check(&answer.Receipts[i]); err != nil {
			return nil, err
		}
	}
	return answer.Receipts, nil
}

// A draft is an event as the line that the log will make of it, but for id and timestamp.
type draft struct {
	line  []byte
	keyed bool
}

// The places of a line's first members, which have a fixed width (docs/format.md, "Entry").
const (
	idAt   = len(`{"id":"`)
	timeAt = idAt + 36 + len(`","timestamp":"`)
	restAt = timeAt + 30 + len(`",`)
)

// draft encodes an event with the encoder of the log itself, so that what the format refuses is refused here, with the same
// error.
func (c *Client) draft(e *immutable.Event) (draft, error) {
	if e.Log != nil {
		return draft{}, &immutable.FieldError{Field: "log", Offset: -1, Msg: "is for the log itself"}
	}
	own := *e
	if own.Producer == nil { // a signed event's are under the signature
		if own.Hostname == "" {
			own.Hostname = c.cfg.Hostname
		}
		if own.PID == 0 {
			own.PID = c.pid
		}
	}
	line, err := entry.Append(make([]byte, 0, lineRoom+len(own.Message)+len(own.RawMetadata)), &own)
	return draft{line, own.IdempotencyKey != ""}, err
}

// lineRoom is what most lines take beside their message and raw metadata.
const lineRoom = 512

// takeJSON is appendJSON without a copy: the draft is of no use after it.
func (d *draft) takeJSON() []byte {
	d.line[restAt-1] = '{'
	return d.line[restAt-1:]
}

// appendJSON appends the event as the API takes it: the line without the two members that the log adds.
func (d *draft) appendJSON(dst []byte) []byte {
	return append(append(dst, '{'), d.line[restAt:]...)
}

// check recomputes the leaf hash of the entry that a receipt says the event became. A repeat may be of a line with another
// host name or process id.
func (d *draft) check(r *immutable.Receipt) error {
	if r.Repeated {
		return nil
	}
	if r.Timestamp.Before(time.Unix(0, 0)) || r.Timestamp.After(time.Unix(0, entry.MaxTime)) {
		return &VerificationError{Index: int64(r.Index), What: "the receipt's time is out of range", Got: r.Timestamp.String()}
	}
	copy(d.line[idAt:], r.ID[:])
	entry.FormatTime(d.line[timeAt:timeAt], r.Timestamp.UnixNano())
	if leaf := proof.LeafHash(d.line); leaf != r.Leaf {
		return &VerificationError{Index: int64(r.Index), What: "the receipt is not of the event that was sent", Got: r.Leaf.String(), Want: leaf.String()}
	}
	return nil
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// readAll reads at most limit bytes.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		return nil, fmt.Errorf("the answer is longer than %d bytes", limit)
	}
	return data, err
}

// placeholder begins a line whose id and timestamp are not known yet.
const placeholder = `{"id":"00000000-0000-7000-8000-000000000000","timestamp":"1970-01-01T00:00:00.000000000Z",`

// draftOf is the draft that appendJSON wrote.
func draftOf(event []byte) draft {
	return draft{line: append([]byte(placeholder), event[1:]...), keyed: true}
}
