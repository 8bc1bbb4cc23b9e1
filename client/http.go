package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"mime"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable"
)

// Limits of what is taken from a server.
const (
	maxAnswer  = 64 << 20 // bytes of an answer: a page of MaxBatchEntries receipts, or 10,000 entries of usual size
	maxProblem = 64 << 10 // bytes of a problem
	maxHeader  = 64 << 10

	firstPause = 100 * time.Millisecond
	maxPause   = 5 * time.Second
)

func newHTTP(t *tls.Config) *http.Client {
	if t != nil {
		t = t.Clone()
	}
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			TLSClientConfig:        t,
			TLSHandshakeTimeout:    10 * time.Second,
			ForceAttemptHTTP2:      true,
			MaxIdleConns:           64,
			MaxIdleConnsPerHost:    64,
			IdleConnTimeout:        90 * time.Second,
			MaxResponseHeaderBytes: maxHeader,
			ExpectContinueTimeout:  time.Second,
		},
		// A token must not follow a redirection to somewhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Problem is an answer other than success (RFC 9457). errors.Is finds the library's errors in it: immutable.ErrNotFound,
// ErrTooLarge, ErrNoSpace, ErrUncertain, ErrReadOnly; errors.As finds *immutable.FieldError, *immutable.KeyConflictError and
// *immutable.QueryError. docs/http-api.md lists the codes.
type Problem struct {
	Status int    // of HTTP
	Code   string // such as "quota"; empty where something other than an Immutable server has answered
	Title  string
	Detail string

	// Retry is what Retry-After said; zero where it said nothing.
	Retry time.Duration
	// Event is the number of the event in the append that it is about, -1 where there is none.
	Event int

	field  string
	offset int
	index  uint64
	query  string
}

func (p *Problem) Error() string {
	what := p.Title
	if what == "" {
		what = http.StatusText(p.Status)
	}
	if p.Detail != "" {
		what += ": " + p.Detail
	}
	if p.Code != "" {
		return fmt.Sprintf("the server says %s (%d %s)", what, p.Status, p.Code)
	}
	return fmt.Sprintf("the server says %s (%d)", what, p.Status)
}

// Unwrap is the library's error for the same thing, if there is one.
func (p *Problem) Unwrap() error {
	switch p.Code {
	case "not-found":
		return immutable.ErrNotFound
	case "too-large", "expands-too-much":
		return immutable.ErrTooLarge
	case "no-space":
		return immutable.ErrNoSpace
	case "uncertain":
		return immutable.ErrUncertain
	case "log-unavailable":
		return immutable.ErrReadOnly
	case "key-conflict":
		return &immutable.KeyConflictError{Event: max(p.Event, 0), Index: p.index}
	case "bad-event":
		return &immutable.FieldError{Field: p.field, Offset: p.offset, Msg: p.Detail}
	case "bad-query":
		return &immutable.QueryError{Query: p.query, Offset: max(p.offset, 0), Msg: p.Detail}
	}
	return nil
}

// passing says whether the same request may succeed a little later.
func (p *Problem) passing() bool {
	switch p.Status {
	case http.StatusRequestTimeout, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	case http.StatusTooManyRequests:
		return p.Code == "" || p.Retry > 0 // a quota that waiting does not help says no time
	case http.StatusInternalServerError:
		return p.Code == "" || p.Code == "internal"
	}
	return false
}

// untouched says that nothing of the request is in the log: the server decided so before it wrote.
func (p *Problem) untouched() bool {
	switch p.Code {
	case "", "internal", "uncertain", "timeout", "bad-body":
		return p.Status < 500 && p.Status != http.StatusRequestTimeout
	}
	return true
}

// A call is one request, which may take several attempts.
type call struct {
	method, url string
	body        []byte
	kind        string // of body
	accept      string
	lastID      string // Last-Event-ID
	limit       int64
	repeatable  bool // sending it twice does no harm
	once        bool // it is not repeated all the same
	writes      bool // whether an attempt reached the log is said by the error
}

func (c *Client) get(ctx context.Context, url string) ([]byte, error) {
	return c.do(ctx, &call{method: http.MethodGet, url: url, limit: maxAnswer, repeatable: true})
}

// getJSON decodes an answer that may have members that this client does not know.
func (c *Client) getJSON(ctx context.Context, url string, to any) error {
	data, err := c.get(ctx, url)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, to); err != nil {
		return fmt.Errorf("the server's answer cannot be read: %w", err)
	}
	return nil
}

// do sends a request until it has an answer, RetryFor is over or ctx ends.
func (c *Client) do(ctx context.Context, a *call) ([]byte, error) {
	began := c.now()
	uncertain := false
	for attempt := 0; ; attempt++ {
		data, err := c.attempt(ctx, a)
		if err == nil {
			return data, nil
		}
		uncertain = uncertain || mayHaveReached(err)
		wait, again := c.again(err, attempt)
		if a.once || !a.repeatable && mayHaveReached(err) || c.now().Add(wait).Sub(began) > c.cfg.RetryFor {
			again = false
		}
		if again && ctx.Err() == nil {
			if c.pause(ctx, wait) == nil {
				continue
			}
		}
		if a.writes && uncertain && !errors.Is(err, immutable.ErrUncertain) {
			err = fmt.Errorf("%w: %w", immutable.ErrUncertain, err)
		}
		return nil, err
	}
}

// again says whether an attempt that failed so may be repeated, and after what time.
func (c *Client) again(err error, attempt int) (time.Duration, bool) {
	wait := min(firstPause<<min(attempt, 10), maxPause)
	wait = wait/2 + rand.N(wait/2+1) //nolint:gosec // spreads clients in time; nothing to guess
	if p, ok := errors.AsType[*Problem](err); ok {
		return max(wait, p.Retry), p.passing()
	}
	if refusedTLS(err) || errors.Is(err, errToken) {
		return 0, false
	}
	return wait, true
}

var errToken = errors.New("get a token")

// refusedTLS says that the server is not who it must be, or speaks no TLS: trying again changes nothing.
func refusedTLS(err error) bool {
	var verification *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var unknown x509.UnknownAuthorityError
	return errors.As(err, &verification) || errors.As(err, &record) || errors.As(err, &unknown)
}

// mayHaveReached says whether a request that failed so can have been carried out all the same.
func mayHaveReached(err error) bool {
	if p, ok := errors.AsType[*Problem](err); ok {
		return !p.untouched()
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return false
	}
	return !refusedTLS(err) && !errors.Is(err, errToken)
}

// attempt sends a request once and reads its answer.
func (c *Client) attempt(ctx context.Context, a *call) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	resp, err := c.exchange(ctx, a)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := readAll(resp.Body, a.limit)
	if err != nil {
		return nil, fmt.Errorf("read the server's answer: %w", err)
	}
	return data, nil
}

// exchange sends a request once. An answer other than success is an error, a *Problem.
func (c *Client) exchange(ctx context.Context, a *call) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, a.method, a.url, bytes.NewReader(a.body))
	if err != nil {
		return nil, err
	}
	if a.body == nil {
		req.Body, req.GetBody = http.NoBody, nil
	}
	if a.kind != "" {
		req.Header.Set("Content-Type", a.kind)
	}
	if a.accept != "" {
		req.Header.Set("Accept", a.accept)
	}
	if a.lastID != "" {
		req.Header.Set("Last-Event-ID", a.lastID)
	}
	token := c.cfg.Token
	if c.cfg.TokenSource != nil {
		if token, err = c.cfg.TokenSource(ctx); err != nil {
			return nil, fmt.Errorf("%w: %w", errToken, err)
		}
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, c.problem(resp)
}

// problem reads an answer other than success.
func (c *Client) problem(resp *http.Response) *Problem {
	p := &Problem{Status: resp.StatusCode, Retry: retryAfter(resp.Header.Get("Retry-After"), c.now()), Event: -1, offset: -1}
	if resp.StatusCode/100 == 3 {
		p.Detail = fmt.Sprintf("it redirects to %q, which is not followed: give the address of the log's own server", resp.Header.Get("Location"))
		return p
	}
	data, err := readAll(resp.Body, maxProblem)
	if kind, _, merr := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || merr != nil || kind != "application/problem+json" {
		if text := strings.ToValidUTF8(string(data), "\uFFFD"); len(text) > 0 {
			p.Detail = strconv.Quote(text[:min(len(text), 200)])
		}
		return p
	}
	var m struct {
		Code, Title, Detail string
		Event, Offset       *int
		Field               string
		Index               uint64
	}
	if json.Unmarshal(data, &m) != nil {
		return p
	}
	p.Code, p.Title, p.Detail, p.field, p.index = m.Code, m.Title, m.Detail, m.Field, m.Index
	if m.Event != nil {
		p.Event = *m.Event
	}
	if m.Offset != nil {
		p.offset = *m.Offset
	}
	if resp.Request != nil {
		p.query = resp.Request.URL.Query().Get("q")
	}
	return p
}

// retryAfter reads seconds or a date; what it cannot read is zero.
func retryAfter(value string, now time.Time) time.Duration {
	if s, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(s) * time.Second
	}
	if t, err := http.ParseTime(value); err == nil && t.After(now) {
		return t.Sub(now)
	}
	return 0
}
