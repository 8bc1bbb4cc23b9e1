package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/client"
	"github.com/tree-of-life-system/immutable/internal/hooks"
)

const hooksUsage = `immutable hooks add KIND | list | rotate ID | token ID | remove ID | test ID | fill HOOK | body INDEX |
                job LEVEL MESSAGE [key=value …] | job-token

Webhooks that send to a log on a server, and jobs of GitHub Actions. KIND is github, stripe, linear, notion, standard (Standard
Webhooks) or hmac. docs/webhooks.md and docs/github-actions.md say what is kept and checked.

  immutable hooks add github --title "our organization"   prints the address, and the secret, this once
  immutable hooks add stripe --secret-file whsec.txt      the secret that Stripe shows
  immutable hooks add notion                              then: immutable hooks token ID, when Notion has sent it
  immutable hooks add hmac --header X-Signature --prefix sha256= --delivery X-Delivery --level security
  immutable hooks test 0123456789abcdef                   send a signed sample, and show the entry
  immutable hooks rotate 0123456789abcdef --overlap 24h   a new secret; the old ones end after this time
  immutable hooks fill repos/OWNER/REPO/hooks/1 --secret-file secret.txt   deliveries that GitHub could not make
  immutable hooks body 4711 > payload.json                the whole body of a delivery, also a large one
  immutable hooks job audit "deployed to production" version=1.4.2   in a workflow, with the job's OIDC token

  --title TEXT           what add calls the source
  --secret-file FILE     the secret: of add and rotate (default: one is made here), of fill (also IMMUTABLE_HOOK_SECRET)
  --overlap TIME         how long earlier secrets stay good beside a new one (default 24h)
  --header NAME          of kind hmac: the header that the signature is in
  --encoding NAME        hex or base64 (default hex)
  --prefix TEXT          what stands before the signature, such as sha256=
  --timestamp NAME       header with Unix seconds: then "seconds.body" is what is signed, and must be fresh
  --tolerance TIME       how far it may be off, both ways (default 5m)
  --delivery NAME        header with the id of the delivery
  --event NAME           header with the name of the event
  --level LEVEL          of the entries (default AUDIT)

  --since TIME           fill: how far back (default 72h, which is what GitHub keeps)
  --redeliver            fill: have GitHub send them again itself, instead of sending what its API shows
  --github-api URL       fill: GitHub's API (default https://api.github.com); its token is in GITHUB_TOKEN

  --audience NAME        job, job-token: for whom the token is (default "immutable")` + serverFlags + dirFlags + commonFlags

// hooksCall is one run of the command.
type hooksCall struct {
	*call
	title, secretFile string
	overlap           time.Duration
	scheme            hooks.Scheme
	tolerance         time.Duration
	since             time.Duration
	redeliver         bool
	api               string
	audience          string
	http              *http.Client
	token             string
}

func setupHooks(c *call) func() error {
	h := &hooksCall{call: c}
	c.dirFlags()
	c.flagsOfServer(true)
	c.set.StringVar(&h.title, "title", "", "")
	c.set.StringVar(&h.secretFile, "secret-file", "", "")
	c.set.DurationVar(&h.overlap, "overlap", 24*time.Hour, "")
	c.set.StringVar(&h.scheme.Header, "header", "", "")
	c.set.StringVar(&h.scheme.Encoding, "encoding", "", "")
	c.set.StringVar(&h.scheme.Prefix, "prefix", "", "")
	c.set.StringVar(&h.scheme.Timestamp, "timestamp", "", "")
	c.set.DurationVar(&h.tolerance, "tolerance", 0, "")
	c.set.StringVar(&h.scheme.Delivery, "delivery", "", "")
	c.set.StringVar(&h.scheme.Event, "event", "", "")
	c.set.StringVar(&h.scheme.Level, "level", "", "")
	c.set.DurationVar(&h.since, "since", 72*time.Hour, "")
	c.set.BoolVar(&h.redeliver, "redeliver", false, "")
	c.set.StringVar(&h.api, "github-api", "https://api.github.com", "")
	c.set.StringVar(&h.audience, "audience", "immutable", "")
	return h.run
}

func (h *hooksCall) run() error {
	what, rest := "", []string(nil)
	if len(h.args) > 0 {
		what, rest = h.args[0], h.args[1:]
	}
	if what == "body" && len(rest) == 1 {
		return h.withView(func(l view) error { return h.body(l, rest[0]) })
	}
	if what == "job-token" && len(rest) == 0 {
		return h.jobToken()
	}
	if !h.remote() {
		return h.usagef("it works on a server: give --server URL, or set IMMUTABLE_SERVER")
	}
	if err := h.connect(); err != nil {
		return err
	}
	switch {
	case what == "add" && len(rest) == 1:
		return h.add(rest[0])
	case what == "list" && len(rest) == 0:
		return h.list()
	case what == "rotate" && len(rest) == 1:
		return h.rotate(rest[0])
	case what == "token" && len(rest) == 1:
		return h.verification(rest[0])
	case what == "remove" && len(rest) == 1:
		return h.remove(rest[0])
	case what == "test" && len(rest) == 1:
		return h.test(rest[0])
	case what == "fill" && len(rest) == 1:
		return h.fill(rest[0])
	case what == "job" && len(rest) >= 2:
		return h.job(rest)
	}
	return h.usagef("want add KIND, list, rotate ID, token ID, remove ID, test ID, fill HOOK, body INDEX, job LEVEL MESSAGE or job-token")
}

// Limits of what is taken from a server.
const (
	maxHookAnswer = 64 << 20 // GitHub's deliveries have their payloads in them
	hookTimeout   = time.Minute
)

// connect prepares requests to the server.
func (h *hooksCall) connect() error {
	cfg, err := h.clientConfig(writeRetry)
	if err != nil {
		return err
	}
	h.token, h.http = cfg.Token, &http.Client{
		Timeout: hookTimeout,
		// A token must not follow a redirection to somewhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: cfg.TLS, ForceAttemptHTTP2: true},
	}
	return nil
}

// hookProblem is an answer of the server other than success.
type hookProblem struct {
	status       int
	code, detail string
}

func (p *hookProblem) Error() string {
	return fmt.Sprintf("the server says %d %s: %s", p.status, p.code, p.detail)
}

// exchange sends a request, and reads the answer into to, which may be nil.
func (h *hooksCall) exchange(ctx context.Context, method, address string, header http.Header, body []byte, to any) (http.Header, error) {
	req, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	maps.Copy(req.Header, header)
	resp, err := h.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxHookAnswer+1))
	if err == nil && len(data) > maxHookAnswer {
		err = fmt.Errorf("more than %d bytes", maxHookAnswer)
	}
	if err != nil {
		return nil, fmt.Errorf("read the answer of %s: %w", req.URL.Host, err)
	}
	if resp.StatusCode/100 != 2 {
		p := &hookProblem{status: resp.StatusCode}
		var m struct{ Code, Detail, Message string }
		if kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err == nil && strings.HasSuffix(kind, "json") && json.Unmarshal(data, &m) == nil {
			p.code, p.detail = m.Code, m.Detail+m.Message
		}
		return resp.Header, p
	}
	if to != nil {
		if err := json.Unmarshal(data, to); err != nil {
			return nil, fmt.Errorf("the answer of %s cannot be read: %w", req.URL.Host, err)
		}
	}
	return resp.Header, nil
}

// source asks for, or changes, the tenant's sources.
func (h *hooksCall) source(method, path string, body, to any) error {
	header := http.Header{"Authorization": {"Bearer " + h.token}}
	var data []byte
	if body != nil {
		var err error
		if data, err = marshal(body); err != nil {
			return err
		}
		header.Set("Content-Type", "application/json")
	}
	_, err := h.exchange(h.ctx, method, strings.TrimSuffix(h.server.url, "/")+"/api/v1/tenants/"+h.server.tenant+"/sources"+path, header, data, to)
	return h.hookError(err)
}

// hookError says what to do about an answer.
func (h *hooksCall) hookError(err error) error {
	if p, ok := errors.AsType[*hookProblem](err); ok {
		switch p.status {
		case http.StatusUnauthorized:
			return fmt.Errorf("%s: %w; give a token that is valid there: --token-file FILE or IMMUTABLE_TOKEN", h.server.url, err)
		case http.StatusForbidden:
			return fmt.Errorf("%s: %w; it takes an administrator's token", h.server.url, err)
		}
	}
	if _, ok := errors.AsType[*url.Error](err); ok {
		return fmt.Errorf("the server does not answer: %w", err)
	}
	return err
}

// hookSource is a source as the server shows it.
type hookSource struct {
	ID       string         `json:"id"`
	Kind     string         `json:"kind"`
	Log      string         `json:"log"`
	Title    string         `json:"title"`
	Disabled bool           `json:"disabled"`
	Path     string         `json:"path"`
	Secret   string         `json:"secret"`
	Scheme   *hooks.Scheme  `json:"scheme"`
	Pending  time.Time      `json:"pendingUntil"`
	Secrets  []hookSecretID `json:"secrets"`
	Waiting  bool           `json:"unconfirmed"`
}

type hookSecretID struct {
	ID string `json:"id"`
}

// secret reads --secret-file; "" without one.
func (h *hooksCall) secret() (string, error) {
	if h.secretFile == "" {
		return "", nil
	}
	data, err := readFile(h.secretFile)
	if err != nil {
		return "", fmt.Errorf("--secret-file: %w", err)
	}
	text := strings.TrimRight(string(data), "\r\n")
	if text == "" {
		return "", fmt.Errorf("--secret-file: %s is empty", h.secretFile)
	}
	return text, nil
}

func (h *hooksCall) add(kind string) error {
	secret, err := h.secret()
	if err != nil {
		return err
	}
	spec := map[string]any{"kind": kind, "log": h.server.log}
	for name, value := range map[string]string{"title": h.title, "secret": secret} {
		if value != "" {
			spec[name] = value
		}
	}
	if kind == hooks.HMAC {
		h.scheme.Tolerance = int(h.tolerance / time.Second)
		spec["scheme"] = h.scheme
	}
	var raw json.RawMessage
	if err := h.source(http.MethodPost, "", spec, &raw); err != nil {
		return err
	}
	return h.show(raw)
}

// show prints a source, and the secret that was made for it.
func (h *hooksCall) show(raw json.RawMessage) error {
	if h.json {
		return h.answer(raw)
	}
	var s hookSource
	if err := json.Unmarshal(raw, &s); err != nil {
		return err
	}
	h.out.printf("source   %s  %s -> %s/%s\naddress  %s\n", s.ID, s.Kind, h.server.tenant, s.Log, strings.TrimSuffix(h.server.url, "/")+s.Path)
	if s.Secret != "" {
		h.out.printf("secret   %s\n", s.Secret)
		h.remark("the secret is not shown again; `immutable hooks rotate %s` makes another\n", s.ID)
	}
	if !s.Pending.IsZero() {
		h.remark("give Notion the address until %s; `immutable hooks token %s` then shows the token to confirm there\n", s.Pending.Format(time.RFC3339), s.ID)
	}
	return nil
}

func (h *hooksCall) list() error {
	var raw json.RawMessage
	if err := h.source(http.MethodGet, "", nil, &raw); err != nil {
		return err
	}
	if h.json {
		return h.answer(raw)
	}
	var all struct {
		Sources []hookSource
		Traffic []struct {
			Log, Kind, Name string
			Accepted        uint64
			Rejected        map[string]uint64
			LastSeen        time.Time
		}
	}
	if err := json.Unmarshal(raw, &all); err != nil {
		return err
	}
	if len(all.Sources) == 0 {
		h.out.printf("no webhook may send to logs of the tenant %s; `immutable hooks add KIND` lets one\n", h.server.tenant)
	}
	for _, s := range all.Sources {
		state := fmt.Sprintf("%d secrets", len(s.Secrets))
		switch {
		case s.Disabled:
			state = "disabled"
		case s.Waiting:
			state = "has a token to confirm: `immutable hooks token " + s.ID + "`"
		case !s.Pending.IsZero():
			state = "waits for Notion until " + s.Pending.Format(time.RFC3339)
		}
		h.out.printf("%s  %-8s -> %s  %s  %s\n", s.ID, s.Kind, s.Log, state, s.Title)
	}
	for _, x := range all.Traffic {
		refused := uint64(0)
		for _, n := range x.Rejected {
			refused += n
		}
		h.out.printf("since the start  %s %s -> %s: %d taken, %d refused\n", x.Kind, x.Name, x.Log, x.Accepted, refused)
	}
	return nil
}

func (h *hooksCall) rotate(id string) error {
	secret, err := h.secret()
	if err != nil {
		return err
	}
	var raw json.RawMessage
	if err := h.source(http.MethodPatch, "/"+url.PathEscape(id), map[string]any{"newSecret": secret, "overlap": int64(h.overlap / time.Second)}, &raw); err != nil {
		return err
	}
	return h.show(raw)
}

func (h *hooksCall) verification(id string) error {
	var m struct{ VerificationToken string }
	if err := h.source(http.MethodPost, "/"+url.PathEscape(id)+"/verification", nil, &m); err != nil {
		return err
	}
	if h.json {
		return h.answer(map[string]string{"verificationToken": m.VerificationToken})
	}
	h.out.printf("%s\n", m.VerificationToken)
	h.remark("if Notion does not take it, somebody else was quicker: remove the source and add it again\n")
	return nil
}

func (h *hooksCall) remove(id string) error {
	if err := h.source(http.MethodDelete, "/"+url.PathEscape(id), nil, nil); err != nil {
		return err
	}
	if h.json {
		return h.answer(map[string]string{"removed": id})
	}
	h.out.printf("%s sends no more; what it has sent stays\n", id)
	return nil
}

// test signs a sample with a secret that is good for a minute, sends it as the provider would, and shows what became of it.
func (h *hooksCall) test(id string) (err error) {
	var s hookSource
	if err := h.source(http.MethodGet, "/"+url.PathEscape(id), nil, &s); err != nil {
		return err
	}
	if !s.Pending.IsZero() {
		return fmt.Errorf("source %s waits for Notion's verification token, and a test would take its place; have Notion send it first", s.ID)
	}
	before := s.Secrets
	var with hookSource
	if err := h.source(http.MethodPatch, "/"+s.ID, map[string]any{"newSecret": "", "life": 60}, &with); err != nil {
		return err
	}
	for _, x := range with.Secrets {
		if !slices.Contains(before, x) {
			defer func() {
				if e := h.source(http.MethodPatch, "/"+s.ID, map[string]any{"endSecret": x.ID}, nil); e != nil && err == nil {
					err = fmt.Errorf("end the secret of the test, which ends by itself in a minute: %w", e)
				}
			}()
		}
	}
	body, header, delivery, err := sampleOf(&s, with.Secret, time.Now())
	if err != nil {
		return err
	}
	var r receipt
	if _, err := h.exchange(h.ctx, http.MethodPost, strings.TrimSuffix(h.server.url, "/")+s.Path, header, body, &r); err != nil {
		return h.hookError(err)
	}
	h.remark("the delivery %s was taken as entry %d\n", delivery, r.Index)
	h.server.log = s.Log
	return h.withView(func(l view) error {
		e, err := l.Entry(h.ctx, r.Index)
		if err != nil {
			return err
		}
		h.out.bytes(append(bytes.Clone(e.Line), '\n'))
		return nil
	})
}

// sampleOf is a delivery as the provider would send it, which says that it is a test.
func sampleOf(s *hookSource, secret string, now time.Time) (body []byte, header http.Header, delivery string, err error) {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	delivery = "immutable-test-" + hex.EncodeToString(b[:])
	text := fmt.Sprintf(map[string]string{
		hooks.GitHub:   `{"zen":"This is a test.","hook_id":0,"sender":{"login":"immutable-hooks-test"}}`,
		hooks.Stripe:   `{"id":"%[1]s","object":"event","type":"immutable.test","livemode":false,"data":{"object":{}}}`,
		hooks.Linear:   `{"action":"create","type":"Test","data":{"id":"%[1]s","title":"This is a test"},"webhookTimestamp":%[2]d}`,
		hooks.Notion:   `{"id":"%[1]s","type":"immutable.test","entity":{"id":"%[1]s","type":"test"}}`,
		hooks.Standard: `{"type":"immutable.test","data":{"id":"%[1]s"}}`,
		hooks.HMAC:     `{"type":"immutable.test","id":"%[1]s"}`,
	}[s.Kind], delivery, now.UnixMilli())
	body = []byte(strings.SplitN(text, "%!(EXTRA", 2)[0])
	if header, err = hooks.Sign(s.Kind, s.Scheme, []byte(secret), body, delivery, now); err != nil {
		return nil, nil, "", err
	}
	header.Set("Content-Type", "application/json")
	header.Set("User-Agent", "immutable-hooks-test")
	if s.Kind == hooks.GitHub {
		header.Set("X-GitHub-Event", "ping")
	}
	return body, header, delivery, nil
}

// body prints the whole body of a delivery, put together from its parts where it had no place in its entry.
func (h *hooksCall) body(l view, arg string) error {
	index, err := h.index(arg, "an entry's index")
	if err != nil {
		return err
	}
	e, err := l.Entry(h.ctx, index)
	if err != nil {
		return h.ofServer(err)
	}
	m, err := rawOf(&e)
	if err != nil {
		return err
	}
	whole, there, err := m.bytes()
	if err != nil {
		return err
	}
	if !there {
		if whole, err = h.assemble(l, m, index); err != nil {
			return h.ofServer(err)
		}
	}
	h.out.bytes(whole)
	return nil
}

// rawFields are the members of metadata that keep a body.
type rawFields struct {
	Raw, Raw64 *string
	RawSHA256  string
	RawParts   int
	RawPart    int
	RawFirst   uint64
}

func rawOf(e *immutable.Entry) (m rawFields, err error) {
	if len(e.Metadata) == 0 {
		return m, fmt.Errorf("entry %d keeps no body", e.Index)
	}
	if err := json.Unmarshal(e.Metadata, &m); err != nil {
		return m, fmt.Errorf("entry %d: %w", e.Index, err)
	}
	return m, nil
}

func (m *rawFields) bytes() (data []byte, there bool, err error) {
	switch {
	case m.Raw != nil:
		return []byte(*m.Raw), true, nil
	case m.Raw64 != nil:
		data, err = base64.StdEncoding.DecodeString(*m.Raw64)
		return data, true, err
	}
	return nil, false, nil
}

// assemble reads the parts of a body, which stand before its entry, and holds them to its digest.
func (h *hooksCall) assemble(l view, m rawFields, before uint64) ([]byte, error) {
	if m.RawParts == 0 || m.RawSHA256 == "" {
		return nil, fmt.Errorf("entry %d keeps no whole body", before)
	}
	var out []byte
	next := 1
	for e, err := range l.Entries(h.ctx, immutable.Query{From: m.RawFirst}) {
		if err != nil {
			return nil, err
		}
		if e.Index >= before || next > m.RawParts {
			break
		}
		part, err := rawOf(&e)
		if err != nil || part.RawSHA256 != m.RawSHA256 || part.RawPart != next {
			continue // somebody else's, in between
		}
		data, _, err := part.bytes()
		if err != nil {
			return nil, err
		}
		out, next = append(out, data...), next+1
	}
	sum := sha256.Sum256(out)
	if next <= m.RawParts || hex.EncodeToString(sum[:]) != m.RawSHA256 {
		return nil, &noError{fmt.Errorf("%d of the body's %d parts are there, and their digest is %x, not %s", next-1, m.RawParts, sum, m.RawSHA256)}
	}
	return out, nil
}

// hookSecret is the secret that a filled delivery is signed with.
func (h *hooksCall) hookSecret() (string, error) {
	secret, err := h.secret()
	if err == nil && secret == "" {
		secret = h.getenv("IMMUTABLE_HOOK_SECRET")
	}
	if err == nil && secret == "" {
		err = h.usagef("fill signs what it sends with the hook's secret: give --secret-file FILE or IMMUTABLE_HOOK_SECRET (or --redeliver, which has GitHub send)")
	}
	return secret, err
}

// known says whether the log has a delivery already. It needs a token that may read; without one the server's own memory of 24 hours
// decides.
func (h *hooksCall) known(c *client.Client, id string) (bool, error) {
	for _, err := range c.Search(h.ctx, immutable.Query{Text: "delivery.id:" + quote(id), Limit: 1}) {
		return err == nil, err
	}
	return false, nil
}

// needEnv is an environment variable of the workflow, for which there is no flag.
func (h *hooksCall) needEnv(name, where string) (string, error) {
	if v := h.getenv(name); v != "" {
		return v, nil
	}
	return "", fmt.Errorf("%s is not set: %s", name, where)
}
