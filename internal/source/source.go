// Package source knows what sends to the logs of a tenant: the webhooks that may, with their secrets, and how much came, or was
// refused, of every kind. docs/webhooks.md says how it is used.
package source

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/hooks"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// Limits of a tenant's sources. The first two bound how many signatures one request can make the service compute.
const (
	maxPerLog    = 8   // sources of one kind that send to one log
	maxSecrets   = 4   // of one source, those that have ended and are not swept yet included
	maxSources   = 100 // of one tenant
	maxTitle     = 200 // bytes
	minSecret    = 8   // bytes
	maxSecret    = 512 // bytes
	secretBytes  = 32  // random ones of a secret that is made here
	maxOverlap   = 30 * 24 * time.Hour
	pendingTime  = time.Hour // that Notion's handshake is waited for: until then it could be anybody's
	fileName     = "sources.json"
	fileFormat   = 1
	defaultAfter = 24 * time.Hour // that earlier secrets stay good beside a new one
)

// ErrSource is wrapped where what was asked for cannot be, because of how it was asked.
var ErrSource = errors.New("source")

func bad(where, format string, args ...any) error {
	return fmt.Errorf("%w: %s: %s", ErrSource, where, fmt.Sprintf(format, args...))
}

// Source is one webhook that may send to a log. It never holds a secret.
type Source struct {
	ID       string        `json:"id"`   // 16 hex digits
	Kind     string        `json:"kind"` // one of hooks.Kinds
	Log      string        `json:"log"`
	Title    string        `json:"title,omitempty"`
	Disabled bool          `json:"disabled,omitempty"`
	Created  time.Time     `json:"created"`
	By       string        `json:"by"` // the id of who made it
	Scheme   *hooks.Scheme `json:"scheme,omitempty"`
	Secrets  []Secret      `json:"secrets"`

	// PendingUntil is until when Notion's handshake is waited for. Unconfirmed is true from then until the first event that the
	// token signs: so long it can be shown.
	PendingUntil time.Time `json:"pendingUntil,omitzero"`
	Unconfirmed  bool      `json:"unconfirmed,omitempty"`
}

// Secret is what is told of one.
type Secret struct {
	ID       string    `json:"id"`
	Created  time.Time `json:"created"`
	NotAfter time.Time `json:"notAfter,omitzero"` // zero: no end
}

func (s *Secret) active(now time.Time) bool { return s.NotAfter.IsZero() || now.Before(s.NotAfter) }

// Spec is what a source is made of.
type Spec struct {
	Kind   string        `json:"kind"`
	Log    string        `json:"log"`
	Title  string        `json:"title,omitempty"`
	Secret string        `json:"secret,omitempty"` // empty has one made, where the provider takes one
	Scheme *hooks.Scheme `json:"scheme,omitempty"` // of kind hmac
}

// Change is what becomes of a source. What is nil stays.
type Change struct {
	Title    *string `json:"title,omitempty"`
	Log      *string `json:"log,omitempty"`
	Disabled *bool   `json:"disabled,omitempty"`

	NewSecret *string `json:"newSecret,omitempty"` // empty has one made
	Life      int64   `json:"life,omitempty"`      // seconds that the new secret is good for; 0 is no end
	Overlap   *int64  `json:"overlap,omitempty"`   // seconds that the earlier ones stay good; 86,400 unless the new one has a life
	EndSecret string  `json:"endSecret,omitempty"` // the id of one that ends now
}

// stored is a source in its file. Values are the secrets by their ids: an HMAC cannot be checked with less.
type stored struct {
	Source
	Values map[string]string `json:"values"`
}

type file struct {
	Format  int      `json:"format"`
	Sources []stored `json:"sources"`
}

// Options is what a Registry stands on.
type Options struct {
	Installation *tenant.Installation
	Logger       *slog.Logger     // nil is silent
	Now          func() time.Time // nil is time.Now
}

// Registry has the sources of all tenants. Its methods may be called from any number of goroutines.
type Registry struct {
	in     *tenant.Installation
	logger *slog.Logger
	now    func() time.Time

	mu    sync.RWMutex        // guards what follows; held across the durable write of a change, so that no two changes cross
	known map[string][]stored // by tenant, as far as they were read; a slice is replaced, never changed

	traffic traffic
}

// New makes the registry of an installation.
func New(o Options) *Registry {
	r := &Registry{in: o.Installation, logger: o.Logger, now: o.Now, known: map[string][]stored{}}
	if r.logger == nil {
		r.logger = slog.New(slog.DiscardHandler)
	}
	if r.now == nil {
		r.now = time.Now
	}
	r.traffic.init(r)
	return r
}

// Candidate is a source that a request may be of, with its secrets that are good now, the newest first.
type Candidate struct {
	Source
	Keys [][]byte
}

// Candidates are the sources of a kind that may send to a log. There are none of a tenant that is not there.
func (r *Registry) Candidates(tenantName, logName, kind string) ([]Candidate, error) {
	all, err := r.load(tenantName)
	if err != nil {
		if errors.Is(err, tenant.ErrNotFound) {
			return nil, nil
		}
		return nil, err
	}
	now := r.now()
	var out []Candidate
	for i := range all {
		s := &all[i]
		if s.Kind != kind || s.Log != logName || s.Disabled {
			continue
		}
		c := Candidate{Source: s.view(now)}
		for _, secret := range slices.Backward(c.Secrets) {
			c.Keys = append(c.Keys, []byte(s.Values[secret.ID]))
		}
		out = append(out, c)
	}
	return out, nil
}

// view is what is told of a source: without the secrets that have ended.
func (s *stored) view(now time.Time) Source {
	out := s.Source
	out.Secrets = []Secret{}
	for _, secret := range s.Secrets {
		if secret.active(now) {
			out.Secrets = append(out.Secrets, secret)
		}
	}
	if s.Scheme != nil {
		scheme := *s.Scheme
		out.Scheme = &scheme
	}
	return out
}

// Sources are the tenant's, the oldest first.
func (r *Registry) Sources(tenantName string) ([]Source, error) {
	all, err := r.load(tenantName)
	if err != nil {
		return nil, err
	}
	out := make([]Source, len(all))
	for i := range all {
		out[i] = all[i].view(r.now())
	}
	return out, nil
}

// Source is one of them; tenant.ErrNotFound where there is none.
func (r *Registry) Source(tenantName, id string) (Source, error) {
	all, err := r.load(tenantName)
	if err != nil {
		return Source{}, err
	}
	if i := find(all, id); i >= 0 {
		return all[i].view(r.now()), nil
	}
	return Source{}, fmt.Errorf("%w: source %.40q", tenant.ErrNotFound, id)
}

func find(all []stored, id string) int {
	return slices.IndexFunc(all, func(s stored) bool { return s.ID == id })
}

// load reads the tenant's file when it is first asked for.
func (r *Registry) load(tenantName string) ([]stored, error) {
	r.mu.RLock()
	all, ok := r.known[tenantName]
	r.mu.RUnlock()
	if ok {
		return all, nil
	}
	t, err := r.in.Tenant(tenantName)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.read(t)
}

// read is load with the mutex held.
func (r *Registry) read(t *tenant.Tenant) ([]stored, error) {
	if all, ok := r.known[t.Name()]; ok {
		return all, nil
	}
	data, err := t.ReadFile(fileName)
	if errors.Is(err, fs.ErrNotExist) {
		data, err = []byte(`{"format":1,"sources":[]}`), nil
	}
	var f file
	if err == nil {
		err = decode(data, &f)
	}
	if err == nil && f.Format != fileFormat {
		err = fmt.Errorf("format %d; this program knows %d", f.Format, fileFormat)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s of tenant %s: %w", fileName, t.Name(), err)
	}
	r.known[t.Name()] = f.Sources
	return f.Sources, nil
}

func decode(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON value")
	}
	return nil
}

// change applies f to the tenant's sources, and makes that durable. record is written before, and without it nothing is changed.
func (r *Registry) change(ctx context.Context, by *tenant.Principal, tenantName string, f func([]stored) ([]stored, tenant.Action, immutable.Fields, error)) error {
	if by != nil { // nil is the service itself
		if err := by.Allow(tenant.PermManageTenant, tenantName, ""); err != nil {
			return err
		}
	}
	t, err := r.in.Tenant(tenantName)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	all, err := r.read(t)
	if err != nil {
		return err
	}
	after, action, fields, err := f(clone(all))
	if err != nil {
		return err
	}
	data, err := json.MarshalIndent(file{fileFormat, after}, "", "  ")
	if err != nil {
		return err
	}
	if action != "" {
		if err := t.Record(ctx, by, action, fields); err != nil {
			return err
		}
	}
	if err := t.WriteFile(fileName, append(data, '\n')); err != nil {
		return fmt.Errorf("write %s of tenant %s: %w", fileName, tenantName, err)
	}
	r.known[tenantName] = after
	return nil
}

// clone copies as deep as changes go.
func clone(all []stored) []stored {
	out := slices.Clone(all)
	for i := range out {
		out[i].Secrets = slices.Clone(out[i].Secrets)
		out[i].Values = maps.Clone(out[i].Values)
	}
	return out
}

// Create makes a source. secret is the one that was made here, for its only showing; empty where it was given, or comes from the
// provider.
func (r *Registry) Create(ctx context.Context, by *tenant.Principal, tenantName string, spec Spec) (s Source, secret string, err error) {
	err = r.change(ctx, by, tenantName, func(all []stored) ([]stored, tenant.Action, immutable.Fields, error) {
		if err := r.check(tenantName, spec, all); err != nil {
			return nil, "", nil, err
		}
		now := r.now().UTC().Truncate(time.Second)
		made := stored{Source: Source{
			ID: newID(), Kind: spec.Kind, Log: spec.Log, Title: spec.Title, Created: now, By: by.ID, Scheme: spec.Scheme, Secrets: []Secret{},
		}, Values: map[string]string{}}
		value := spec.Secret
		switch {
		case spec.Kind == hooks.Notion && value == "":
			made.PendingUntil = now.Add(pendingTime)
		case value == "":
			secret = newSecret(spec.Kind)
			value = secret
		}
		if value != "" {
			made.add(value, now, time.Time{})
		}
		s = made.view(now)
		return append(all, made), tenant.SourceCreate, immutable.Fields{"source": plain(s)}, nil
	})
	if err != nil {
		return Source{}, "", err
	}
	return s, secret, nil
}

func (r *Registry) check(tenantName string, spec Spec, all []stored) error {
	if !slices.Contains(hooks.Kinds(), spec.Kind) {
		return bad("kind", "%.80q; one of %s. Other protocols need no source: they show a token", spec.Kind, strings.Join(hooks.Kinds(), ", "))
	}
	if len(all) >= maxSources {
		return bad("kind", "the tenant has %d sources, the most there can be", maxSources)
	}
	if err := r.checkPlace(tenantName, spec.Log, spec.Kind, "", all); err != nil {
		return err
	}
	if err := checkTitle(spec.Title); err != nil {
		return err
	}
	if (spec.Scheme != nil) != (spec.Kind == hooks.HMAC) {
		return bad("scheme", "a source of kind %s has one, and no other has", hooks.HMAC)
	}
	if spec.Scheme != nil {
		if err := spec.Scheme.Check(); err != nil {
			return fmt.Errorf("%w: %w", ErrSource, err)
		}
	}
	if spec.Secret == "" && (spec.Kind == hooks.Stripe || spec.Kind == hooks.Linear) {
		return bad("secret", "%s makes the secret: give the one that it shows", spec.Kind)
	}
	return checkSecret(spec.Kind, spec.Secret)
}

// checkPlace says whether one more source of the kind may send to the log.
func (r *Registry) checkPlace(tenantName, logName, kind, except string, all []stored) error {
	t, err := r.in.Tenant(tenantName)
	if err != nil {
		return err
	}
	if _, err := t.Log(logName); err != nil || logName == tenant.SystemName {
		return bad("log", "the tenant has no log %.80q that sources could send to", logName)
	}
	n := 0
	for i := range all {
		if all[i].Kind == kind && all[i].Log == logName && all[i].ID != except {
			n++
		}
	}
	if n >= maxPerLog {
		return bad("log", "%d sources of kind %s send to this log, the most there can be", maxPerLog, kind)
	}
	return nil
}

func checkTitle(title string) error {
	if len(title) > maxTitle || strings.ContainsFunc(title, func(c rune) bool { return c < ' ' || c == 0x7f || c == '�' }) {
		return bad("title", "at most %d bytes, without control characters", maxTitle)
	}
	return nil
}

// checkSecret takes "", which is for whoever calls to mean something by.
func checkSecret(kind, value string) error {
	if value == "" {
		return nil
	}
	if len(value) < minSecret || len(value) > maxSecret || strings.ContainsFunc(value, func(c rune) bool { return c < ' ' || c > '~' }) {
		return bad("secret", "%d to %d characters of printable ASCII", minSecret, maxSecret)
	}
	if kind == hooks.Standard {
		if _, err := hooks.StandardSecret(value); err != nil {
			return bad("secret", "%s", err)
		}
	}
	return nil
}

func (s *stored) add(value string, now, end time.Time) Secret {
	secret := Secret{ID: newID(), Created: now, NotAfter: end}
	if s.Values == nil { // of a file that somebody else has written
		s.Values = map[string]string{}
	}
	s.Secrets = append(s.Secrets, secret)
	s.Values[secret.ID] = value
	return secret
}

// Update changes a source; secret is as of Create.
func (r *Registry) Update(ctx context.Context, by *tenant.Principal, tenantName, id string, c Change) (s Source, secret string, err error) {
	err = r.change(ctx, by, tenantName, func(all []stored) ([]stored, tenant.Action, immutable.Fields, error) {
		i := find(all, id)
		if i < 0 {
			return nil, "", nil, fmt.Errorf("%w: source %.40q", tenant.ErrNotFound, id)
		}
		now := r.now().UTC().Truncate(time.Second)
		at, before := &all[i], all[i].view(now)
		settings := c.Title != nil || c.Log != nil || c.Disabled != nil
		secrets := c.NewSecret != nil || c.EndSecret != ""
		switch {
		case settings == secrets:
			return nil, "", nil, bad("change", "title, log and disabled, or newSecret or endSecret: one of these kinds at a time")
		case !secrets && (c.Overlap != nil || c.Life != 0) || c.NewSecret != nil && c.EndSecret != "":
			return nil, "", nil, bad("change", "newSecret (with life and overlap) or endSecret, one of them")
		}
		if settings {
			if err := r.set(tenantName, at, c, all); err != nil {
				return nil, "", nil, err
			}
			s = at.view(now)
			return all, tenant.SourceUpdate, immutable.Fields{"before": plain(before), "after": plain(s)}, nil
		}
		about, err := at.turn(c, now, &secret)
		if err != nil {
			return nil, "", nil, err
		}
		s = at.view(now)
		fields := immutable.Fields{"source": id, "secret": about.ID}
		if !about.NotAfter.IsZero() {
			fields["notAfter"] = about.NotAfter.Format(time.RFC3339)
		}
		return all, tenant.SourceSecret, fields, nil
	})
	if err != nil {
		return Source{}, "", err
	}
	return s, secret, nil
}

func (r *Registry) set(tenantName string, s *stored, c Change, all []stored) error {
	if c.Title != nil {
		if err := checkTitle(*c.Title); err != nil {
			return err
		}
		s.Title = *c.Title
	}
	if c.Log != nil {
		if err := r.checkPlace(tenantName, *c.Log, s.Kind, s.ID, all); err != nil {
			return err
		}
		s.Log = *c.Log
	}
	if c.Disabled != nil {
		s.Disabled = *c.Disabled
	}
	return nil
}

// turn adds a secret, or ends one, and says which it was about.
func (s *stored) turn(c Change, now time.Time, made *string) (Secret, error) {
	s.sweep(now)
	if c.EndSecret != "" {
		for i := range s.Secrets {
			if s.Secrets[i].ID == c.EndSecret {
				ended := s.Secrets[i]
				ended.NotAfter = now
				s.Secrets = slices.Delete(s.Secrets, i, i+1)
				delete(s.Values, ended.ID)
				return ended, nil
			}
		}
		return Secret{}, fmt.Errorf("%w: secret %.40q", tenant.ErrNotFound, c.EndSecret)
	}
	value := *c.NewSecret
	if err := checkSecret(s.Kind, value); err != nil {
		return Secret{}, err
	}
	if len(s.Secrets) >= maxSecrets {
		return Secret{}, bad("newSecret", "%d secrets are good, the most there can be: end one first", maxSecrets)
	}
	life, overlap := time.Duration(c.Life)*time.Second, time.Duration(-1)
	if life == 0 {
		overlap = defaultAfter
	}
	if c.Overlap != nil {
		overlap = time.Duration(*c.Overlap) * time.Second
	}
	if c.Life < 0 || c.Life > int64(maxOverlap/time.Second) || c.Overlap != nil && (*c.Overlap < 0 || *c.Overlap > int64(maxOverlap/time.Second)) {
		return Secret{}, bad("newSecret", "life and overlap are 0 to %d seconds", int64(maxOverlap/time.Second))
	}
	if overlap >= 0 {
		for i := range s.Secrets {
			if end := now.Add(overlap); s.Secrets[i].NotAfter.IsZero() || end.Before(s.Secrets[i].NotAfter) {
				s.Secrets[i].NotAfter = end
			}
		}
	}
	if value == "" {
		value = newSecret(s.Kind)
		*made = value
	}
	var end time.Time
	if life > 0 {
		end = now.Add(life)
	}
	return s.add(value, now, end), nil
}

// sweep lets go of secrets that have ended.
func (s *stored) sweep(now time.Time) {
	s.Secrets = slices.DeleteFunc(s.Secrets, func(x Secret) bool {
		if x.active(now) {
			return false
		}
		delete(s.Values, x.ID)
		return true
	})
}

// Delete takes a source away. What it has sent stays.
func (r *Registry) Delete(ctx context.Context, by *tenant.Principal, tenantName, id string) error {
	return r.change(ctx, by, tenantName, func(all []stored) ([]stored, tenant.Action, immutable.Fields, error) {
		i := find(all, id)
		if i < 0 {
			return nil, "", nil, fmt.Errorf("%w: source %.40q", tenant.ErrNotFound, id)
		}
		was := all[i].view(r.now())
		return slices.Delete(all, i, i+1), tenant.SourceDelete, immutable.Fields{"source": plain(was)}, nil
	})
}

// Handshake gives the one source of Notion's that waits for its verification token what came as that. It says whether there was one:
// a token is taken once, within an hour, and never over another. from is where it came from.
func (r *Registry) Handshake(ctx context.Context, tenantName, logName, token, from string) (taken bool, err error) {
	all, err := r.load(tenantName)
	if err != nil || !slices.ContainsFunc(all, func(s stored) bool { return s.waits(logName, r.now()) }) {
		if errors.Is(err, tenant.ErrNotFound) {
			err = nil
		}
		return false, err
	}
	err = r.change(ctx, nil, tenantName, func(all []stored) ([]stored, tenant.Action, immutable.Fields, error) {
		i := slices.IndexFunc(all, func(s stored) bool { return s.waits(logName, r.now()) })
		if i < 0 || checkSecret(hooks.Notion, token) != nil {
			return nil, "", nil, errNotWaiting
		}
		all[i].PendingUntil, all[i].Unconfirmed = time.Time{}, true
		all[i].add(token, r.now().UTC().Truncate(time.Second), time.Time{})
		return all, tenant.SourceVerify, immutable.Fields{"source": all[i].ID, "from": from}, nil
	})
	if errors.Is(err, errNotWaiting) {
		return false, nil
	}
	return err == nil, err
}

var errNotWaiting = errors.New("no source waits for a verification token")

func (s *stored) waits(logName string, now time.Time) bool {
	return s.Kind == hooks.Notion && s.Log == logName && !s.Disabled && len(s.Secrets) == 0 && now.Before(s.PendingUntil)
}

// Reveal is Notion's verification token, for an administrator to confirm there, as long as no event was signed with it.
func (r *Registry) Reveal(ctx context.Context, by *tenant.Principal, tenantName, id string) (token string, err error) {
	err = r.change(ctx, by, tenantName, func(all []stored) ([]stored, tenant.Action, immutable.Fields, error) {
		i := find(all, id)
		if i < 0 {
			return nil, "", nil, fmt.Errorf("%w: source %.40q", tenant.ErrNotFound, id)
		}
		if !all[i].Unconfirmed || len(all[i].Secrets) == 0 {
			return nil, "", nil, bad("verification", "there is no token to show: either none has come yet, or events came that it signs")
		}
		token = all[i].Values[all[i].Secrets[0].ID]
		return all, tenant.SourceReveal, immutable.Fields{"source": id}, nil
	})
	return token, err
}

// Confirm says that an event came which Notion's token signs: from now on the token is not shown any more.
func (r *Registry) Confirm(ctx context.Context, tenantName, id string) error {
	return r.change(ctx, nil, tenantName, func(all []stored) ([]stored, tenant.Action, immutable.Fields, error) {
		if i := find(all, id); i >= 0 {
			all[i].Unconfirmed = false
		}
		return all, "", nil, nil
	})
}

func newID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

func newSecret(kind string) string {
	var b [secretBytes]byte
	_, _ = rand.Read(b[:]) // never fails
	if kind == hooks.Standard {
		return "whsec_" + base64.StdEncoding.EncodeToString(b[:])
	}
	return hex.EncodeToString(b[:])
}

func plain(v any) json.RawMessage {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // our own types
	}
	return data
}
