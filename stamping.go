package immutable

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/timestamp"
	"github.com/tree-of-life-system/immutable/internal/vfs"
)

const (
	defaultTimeInterval = time.Hour
	authorityTimeout    = 15 * time.Second // of one question, from dialling to the last byte
	firstStampRetry     = time.Minute      // after an authority failed; doubled each time, up to TimeInterval
	clockTolerance      = time.Minute      // beyond which a stamp that differs from this host's clock is warned about
	maxAuthorities      = 16
)

// stamping asks time-stamping authorities for their word on checkpoints, off the append path. One goroutine, run, owns all
// but what mu guards. An authority is asked when TimeInterval has passed since its last stamp and something but our own
// anchors has been appended since.
//
// Order, so that a crash leaves nothing that verification refutes: the checkpoint is kept in the history, the stamp is
// durable in evidence/, the anchor entry that names it is appended. A crash between leaves a stamp that no entry names.
type stamping struct {
	l        *Log
	client   *http.Client
	interval time.Duration
	retry    time.Duration // tests: firstStampRetry

	ctx    context.Context // ends what is under way
	cancel context.CancelFunc
	wake   chan struct{} // capacity 1: newest changed
	ended  chan struct{}
	own    map[uint64]bool // indexes of anchors that no authority's tail has passed

	mu          sync.Mutex // guards what follows
	newest      uint64     // size of the newest checkpoint
	authorities []*authority
}

// authority is one time-stamping authority.
type authority struct {
	url   string
	tail  uint64    // below it everything is stamped, or is an anchor
	next  time.Time // when it may be asked again
	fails int
	size  uint64 // of its newest stamp in this session
	time  time.Time
	err   error // of the last try
}

// TimeStamp is what an authority said: it saw the checkpoint of Size before Time, give or take Accuracy.
type TimeStamp struct {
	Authority string        // its URL; empty where it was read from the directory
	Name      string        // subject of its certificate, which nobody has checked yet
	Size      uint64        // of the checkpoint
	Time      time.Time     // UTC
	Accuracy  time.Duration // 0 where the authority does not say
	File      string        // in the log's directory
	Anchor    uint64        // index of the entry that names the file; 0 where it was read from the directory
}

// Stamping is how the authorities of Config.TimeAuthorities do.
type Stamping struct {
	Size        uint64            `json:"size"`           // of the newest checkpoint with a stamp
	Time        *time.Time        `json:"time,omitempty"` // of that stamp
	Authorities []AuthorityStatus `json:"authorities"`    // of this session; none when reading only
}

// AuthorityStatus is one time-stamping authority.
type AuthorityStatus struct {
	URL   string     `json:"url"`
	Size  uint64     `json:"size"`           // of the checkpoint that it stamped last in this session
	Time  *time.Time `json:"time,omitempty"` // of that stamp
	Error string     `json:"error,omitempty"`
}

// newStamping checks the configuration. It returns nil where there are no authorities.
func newStamping(l *Log) (*stamping, error) {
	urls := l.cfg.TimeAuthorities
	if len(urls) == 0 {
		return nil, nil
	}
	if len(urls) > maxAuthorities {
		return nil, fmt.Errorf("%d time authorities, at most %d", len(urls), maxAuthorities)
	}
	s := &stamping{
		l: l, client: newAuthorityClient(), interval: l.cfg.TimeInterval, retry: firstStampRetry,
		wake: make(chan struct{}, 1), ended: make(chan struct{}), own: map[uint64]bool{},
	}
	if s.interval <= 0 {
		s.interval = defaultTimeInterval
	}
	for _, u := range urls {
		if err := checkAuthorityURL(u); err != nil {
			return nil, err
		}
		s.authorities = append(s.authorities, &authority{url: u})
	}
	return s, nil
}

// start goes on from the stamps that are there. publisher.mu is held.
func (s *stamping) start() error {
	last, n, err := s.l.newestStamp()
	if err != nil {
		return err
	}
	for _, a := range s.authorities {
		if last != nil {
			a.tail, a.next = last.Size+n, last.Time.Add(s.interval)
		}
	}
	s.newest = s.l.publisher.size
	s.ctx, s.cancel = context.WithCancel(context.Background())
	go s.run()
	return nil
}

// published tells of a checkpoint that is durable.
func (s *stamping) published(_ []byte, size uint64) {
	s.mu.Lock()
	s.newest = size
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *stamping) stop() {
	s.cancel()
	<-s.ended
	s.client.CloseIdleConnections()
}

func (s *stamping) run() {
	defer close(s.ended)
	for {
		due, wait := s.due(s.l.cfg.now())
		if len(due) > 0 {
			s.stamp(due)
			if s.ctx.Err() == nil {
				continue
			}
			return
		}
		timer := time.NewTimer(wait)
		select {
		case <-s.wake:
		case <-timer.C:
		case <-s.ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

// due lists the authorities to be asked now, or how long there is nobody to be asked unless a checkpoint is published.
func (s *stamping) due(now time.Time) (due []*authority, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wait = s.interval
	for _, a := range s.authorities {
		switch left := a.next.Sub(now); {
		case s.newest <= a.tail:
		case left <= 0:
			due = append(due, a)
		default:
			wait = min(wait, left)
		}
	}
	return due, wait
}

// stamp asks authorities, one after the other, about the newest state.
func (s *stamping) stamp(due []*authority) {
	note, size, err := s.l.publisher.keepNewest()
	for _, a := range due {
		var ts *TimeStamp
		failed := err
		if failed == nil {
			ts, failed = s.l.stampNote(s.ctx, s.client, a.url, note, size)
		}
		s.note(a, ts, failed)
		if s.ctx.Err() != nil {
			return
		}
		if failed != nil {
			s.l.logger.Warn("no time stamp; trying again later", "authority", a.url, "error", failed)
		}
	}
}

// note takes down what came of asking an authority.
func (s *stamping) note(a *authority, ts *TimeStamp, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a.err = err
	now := s.l.cfg.now()
	if err != nil {
		a.next = now.Add(min(s.retry<<min(a.fails, 16), s.interval))
		a.fails++
		return
	}
	a.fails, a.next = 0, now.Add(s.interval)
	a.size, a.time, a.tail = ts.Size, ts.Time, ts.Size
	s.own[ts.Anchor] = true
	least := uint64(math.MaxUint64)
	for _, other := range s.authorities {
		for s.own[other.tail] {
			other.tail++
		}
		least = min(least, other.tail)
	}
	for i := range s.own {
		if i < least {
			delete(s.own, i)
		}
	}
}

// keepNewest publishes what is committed, and puts it into the history.
func (p *publisher) keepNewest() (note []byte, size uint64, err error) {
	if err := p.publish(true); err != nil {
		return nil, 0, fmt.Errorf("keep a checkpoint to stamp: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.keptNote, p.kept, nil
}

// StampTime asks a time-stamping authority (RFC 3161, over HTTP) for its word on the newest state, keeps it in evidence/ and
// appends the entry that anchors it. It trusts nobody: whoever verifies the log says which authorities count.
func (l *Log) StampTime(ctx context.Context, authorityURL string) (*TimeStamp, error) {
	if l.w == nil {
		return nil, l.refusal()
	}
	if err := checkAuthorityURL(authorityURL); err != nil {
		return nil, err
	}
	note, size, err := l.publisher.keepNewest()
	if err != nil {
		return nil, err
	}
	client := newAuthorityClient()
	defer client.CloseIdleConnections()
	return l.stampNote(ctx, client, authorityURL, note, size)
}

// stampNote has a kept checkpoint stamped and anchored.
func (l *Log) stampNote(ctx context.Context, client *http.Client, authorityURL string, note []byte, size uint64) (*TimeStamp, error) {
	if size == 0 {
		return nil, errors.New("the log is empty: there is nothing to stamp")
	}
	text := note[:bytes.Index(note, []byte("\n\n"))+1] // the newline too
	der, stamp, err := askAuthority(ctx, client, authorityURL, sha256.Sum256(text))
	if err != nil {
		return nil, err
	}
	nano := stamp.Time.UnixNano()
	if stamp.Time.Before(time.Unix(0, 0)) || stamp.Time.After(time.Unix(0, entry.MaxTime)) {
		return nil, fmt.Errorf("%s stamps the year %d", authorityURL, stamp.Time.Year())
	}
	if off := l.cfg.now().Sub(stamp.Time).Abs(); off > clockTolerance+stamp.Accuracy {
		l.logger.Warn("this host's clock and the time authority's differ: verification will flag entries", "difference", off.Round(time.Second).String(), "authority", authorityURL)
	}
	ts := &TimeStamp{Authority: authorityURL, Name: stamp.Name, Size: size, Time: stamp.Time, Accuracy: stamp.Accuracy}
	if ts.File, err = l.keepStamp(size, der); err != nil {
		return nil, fmt.Errorf("keep the time stamp: %w", err)
	}
	sum := sha256.Sum256(der)
	record := fmt.Appendf(nil, `{"type":"anchor","size":%d,"time":"%s","file":"%s","sha256":"%s"}`, size, entry.FormatTime(nil, nano), ts.File, hex.EncodeToString(sum[:]))
	r, err := l.control(ctx, "a time-stamping authority has seen the log", record)
	if err != nil {
		return nil, fmt.Errorf("append the anchor of %s: %w", ts.File, err)
	}
	ts.Anchor = r.Index
	return ts, nil
}

// keepStamp writes evidence/<size>-<n>.tsr, n the first number that is free.
func (l *Log) keepStamp(size uint64, der []byte) (file string, err error) {
	l.stampMu.Lock()
	defer l.stampMu.Unlock()
	if err := vfs.MkdirAll(l.fs, l.path(evidenceDir), 0o700); err != nil {
		return "", err
	}
	for n := 0; ; n++ {
		name := fmt.Sprintf("%020d-%d.tsr", size, n)
		if _, err := l.fs.Stat(l.path(evidenceDir, name)); err == nil {
			continue
		} else if !notExist(err) {
			return "", err
		}
		return evidenceDir + "/" + name, vfs.WriteAtomic(l.fs, l.path(nextDir, name), l.path(evidenceDir, name), der, 0o600)
	}
}

// stampName reads the name of a stamp in evidence/.
func stampName(name string) (size uint64, ok bool) {
	base, isStamp := strings.CutSuffix(name, ".tsr")
	digits, n, cut := strings.Cut(base, "-")
	size, err := strconv.ParseUint(digits, 10, 63)
	number, err2 := strconv.ParseUint(n, 10, 63)
	return size, isStamp && cut && err == nil && err2 == nil && len(digits) == 20 && strconv.FormatUint(number, 10) == n
}

// newestStamp reads the stamp of the largest size in evidence/, and says how many of that size there are. It is nil where
// there is none that can be read: a damaged one is verification's affair.
func (l *Log) newestStamp() (last *TimeStamp, n uint64, err error) {
	names, err := l.fs.ReadDir(l.path(evidenceDir))
	if notExist(err) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("list the time stamps: %w", err)
	}
	file, most := "", uint64(0)
	for _, name := range names {
		size, ok := stampName(name)
		if ok && size > most {
			file, most, n = name, size, 0
		}
		if ok && size == most {
			n++
		}
	}
	if file == "" {
		return nil, 0, nil
	}
	der, err := vfs.ReadFile(l.fs, l.path(evidenceDir, file), timestamp.MaxSize)
	if err != nil {
		return nil, 0, nil //nolint:nilerr // see above
	}
	stamp, err := timestamp.Parse(der)
	if err != nil {
		return nil, 0, nil //nolint:nilerr // see above
	}
	return &TimeStamp{Name: stamp.Name, Size: most, Time: stamp.Time, Accuracy: stamp.Accuracy, File: evidenceDir + "/" + file}, n, nil
}

// Stamping is how time stamping does: the newest stamp in the directory and, where Config.TimeAuthorities is set, what came
// of asking them. It is nil where there is neither.
func (l *Log) Stamping() (*Stamping, error) {
	last, _, err := l.newestStamp()
	if err != nil || last == nil && l.stamping == nil {
		return nil, err
	}
	out := &Stamping{Authorities: []AuthorityStatus{}}
	if last != nil {
		out.Size, out.Time = last.Size, &last.Time
	}
	if l.stamping == nil {
		return out, nil
	}
	l.stamping.mu.Lock()
	defer l.stamping.mu.Unlock()
	for _, a := range l.stamping.authorities {
		status := AuthorityStatus{URL: a.url, Size: a.size}
		if !a.time.IsZero() {
			at := a.time
			status.Time = &at
		}
		if a.err != nil {
			status.Error = a.err.Error()
		}
		out.Authorities = append(out.Authorities, status)
	}
	return out, nil
}

func checkAuthorityURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" || strings.TrimSpace(s) != s {
		return fmt.Errorf("time authority %s: want an http or https URL without user and fragment", strconv.Quote(s))
	}
	return nil
}

func newAuthorityClient() *http.Client {
	return &http.Client{
		Timeout: authorityTimeout,
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: authorityTimeout}).DialContext,
			MaxResponseHeaderBytes: 64 << 10, DisableKeepAlives: true, ForceAttemptHTTP2: true,
		},
		// An authority is named by the operator, and by nobody else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// askAuthority gets one stamp over a digest: RFC 3161, section 3.4. The answer is bounded in size and time, and is to this
// question: digest and nonce are compared.
func askAuthority(ctx context.Context, client *http.Client, authorityURL string, digest [32]byte) ([]byte, *timestamp.Stamp, error) {
	fail := func(err error) ([]byte, *timestamp.Stamp, error) {
		return nil, nil, fmt.Errorf("ask %s: %w", authorityURL, err)
	}
	q, err := timestamp.NewQuery(digest)
	if err != nil {
		return nil, nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, authorityURL, bytes.NewReader(q.DER))
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Content-Type", "application/timestamp-query")
	req.Header.Set("Accept", "application/timestamp-reply")
	resp, err := client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) { // it repeats method and URL
			err = u.Err
		}
		return fail(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fail(fmt.Errorf("status %d", resp.StatusCode))
	}
	kind, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	if kind := strings.TrimSpace(kind); !strings.EqualFold(kind, "application/timestamp-reply") {
		return fail(fmt.Errorf("an answer of type %.100q, want application/timestamp-reply", kind))
	}
	der, err := io.ReadAll(io.LimitReader(resp.Body, timestamp.MaxSize+1))
	if err != nil {
		return fail(err)
	}
	stamp, err := q.Check(der)
	if err != nil {
		return fail(err)
	}
	return der, stamp, nil
}
