package tenant

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/vfs"
)

// A token is "imt_", an id of 16 hex digits, "_", and a secret of 64 hex digits: 256 random bits. Only its SHA-256 is kept.
const (
	tokenPrefix  = "imt_"
	tokenIDHex   = 16
	tokenHex     = 64
	minBootstrap = 16   // characters of a first token that the operator chose
	maxToken     = 4096 // bytes of anything that is taken for a token
	maxTokens    = 10_000
	maxTokenFile = 16 << 20
	keepEnded    = 90 * 24 * time.Hour // that an expired or revoked token stays in the list
)

// TokenSpec is what a token is made with.
type TokenSpec struct {
	Name    string    `json:"name"` // for people
	Role    Role      `json:"role"`
	Logs    []string  `json:"logs,omitempty"`   // none is every log
	Levels  Levels    `json:"levels,omitempty"` // none is every level
	Expires time.Time `json:"expires,omitzero"` // zero is never
}

// Token is what is known of a token, without its secret.
type Token struct {
	ID     string `json:"id"`
	Tenant string `json:"tenant,omitempty"` // empty is the installation
	TokenSpec
	Created   time.Time `json:"created"`
	CreatedBy string    `json:"createdBy"` // the principal's ID
	Revoked   time.Time `json:"revoked,omitzero"`
	RevokedBy string    `json:"revokedBy,omitempty"`
}

// live says whether the token still authenticates.
func (k *Token) live(now time.Time) bool { return k.Revoked.IsZero() && !expired(k.Expires, now) }

// ErrNotKept is wrapped where a token was revoked and the disk did not take it: it has to be revoked again.
var ErrNotKept = errors.New("the token is refused from now on, but would be valid after a restart")

// AuthError says why nobody was authenticated. It wraps ErrUnauthenticated; its text tells no more than the caller knows.
type AuthError struct {
	Kind   string // "missing", "malformed", "unknown", "forged", "expired", "revoked", "suspended"; of package access also others
	Tenant string // whose token it was, where that is known; not for the caller
	ID     string // of the token or principal, likewise
	Msg    string // for the caller
}

func (e *AuthError) Error() string { return ErrUnauthenticated.Error() + ": " + e.Msg }

// Unwrap returns ErrUnauthenticated.
func (e *AuthError) Unwrap() error { return ErrUnauthenticated }

// tokenStore is the tokens of one tenant, or of the installation, and the file they are in.
type tokenStore struct {
	in     *Installation
	tenant string
	file   string
	list   []*storedToken // guarded by tokenIndex.mu; a token is replaced, never changed in place
}

// storedToken is a token as its file has it.
type storedToken struct {
	Token
	Hash string `json:"hash"` // hex SHA-256 of the whole token

	sum [sha256.Size]byte
}

// tokensFile is a tokens.json.
type tokensFile struct {
	Format int            `json:"format"`
	Tokens []*storedToken `json:"tokens"`
}

// tokenIndex finds the tokens of all stores.
type tokenIndex struct {
	mu   sync.RWMutex
	byID map[string]*storedToken
	odd  map[[sha256.Size]byte]*storedToken // first tokens that an operator chose, which carry no id
}

func (in *Installation) openTokens(tenant, file string) (*tokenStore, error) {
	st := &tokenStore{in: in, tenant: tenant, file: file}
	data, err := vfs.ReadFile(in.fs, file, maxTokenFile)
	if errors.Is(err, fs.ErrNotExist) {
		return st, nil
	}
	if err != nil {
		return nil, err
	}
	var f tokensFile
	if err := decodeStrict(data, &f); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if f.Format != settingsFormat || len(f.Tokens) > maxTokens {
		return nil, fmt.Errorf("%s: format %d with %d tokens; this program knows %d, and at most %d", file, f.Format, len(f.Tokens), settingsFormat, maxTokens)
	}
	for i, k := range f.Tokens {
		if err := st.check(k); err != nil {
			return nil, fmt.Errorf("%s: token %d: %w", file, i, err)
		}
	}
	in.index.mu.Lock()
	defer in.index.mu.Unlock()
	for _, k := range f.Tokens {
		if in.index.byID[k.ID] != nil {
			return nil, fmt.Errorf("%s: the id %s is there twice", file, k.ID)
		}
		in.index.put(k)
	}
	st.list = f.Tokens
	return st, nil
}

func (st *tokenStore) check(k *storedToken) error {
	if k == nil {
		return errors.New("it is null")
	}
	sum, err := hex.DecodeString(k.Hash)
	if err != nil || len(sum) != sha256.Size {
		return errors.New("its hash is not 64 hex digits")
	}
	k.sum = [sha256.Size]byte(sum)
	if !isHex(k.ID, tokenIDHex) && k.ID != bootstrapID {
		return fmt.Errorf("its id %q is not 16 hex digits", k.ID)
	}
	if k.Tenant != st.tenant {
		return fmt.Errorf("it is of the tenant %q", k.Tenant)
	}
	return k.TokenSpec.check()
}

func (s *TokenSpec) check() error {
	if err := checkText("name", s.Name, maxTitle); err != nil {
		return err
	}
	return checkScope(s.Role, s.Logs, s.Levels)
}

// put makes a token known, in the place of what has its id. x.mu is held.
func (x *tokenIndex) put(k *storedToken) {
	if x.byID == nil {
		x.byID, x.odd = map[string]*storedToken{}, map[[sha256.Size]byte]*storedToken{}
	}
	x.byID[k.ID] = k
	if k.ID == bootstrapID {
		x.odd[k.sum] = k
	}
}

// drop forgets a token. x.mu is held.
func (x *tokenIndex) drop(k *storedToken) {
	delete(x.byID, k.ID)
	if x.odd[k.sum] == k {
		delete(x.odd, k.sum)
	}
}

// find looks a token up. known says that its id exists, so that a secret that does not fit is a forgery.
func (x *tokenIndex) find(token string) (k *storedToken, known *storedToken) {
	sum := sha256.Sum256([]byte(token))
	x.mu.RLock()
	defer x.mu.RUnlock()
	if id, ok := tokenID(token); ok {
		if known = x.byID[id]; known != nil && subtle.ConstantTimeCompare(known.sum[:], sum[:]) == 1 {
			return known, known
		}
	}
	return x.odd[sum], known
}

// tokenID takes the id out of a token.
func tokenID(token string) (string, bool) {
	rest, ok := strings.CutPrefix(token, tokenPrefix)
	id, secret, ok2 := strings.Cut(rest, "_")
	return id, ok && ok2 && isHex(id, tokenIDHex) && isHex(secret, tokenHex)
}

func isHex(s string, n int) bool { return len(s) == n && strings.Trim(s, "0123456789abcdef") == "" }

// Authenticate says whose API token it is. A revoked or expired one is nobody's from that moment on. The error is an
// *AuthError, which wraps ErrUnauthenticated.
func (in *Installation) Authenticate(_ context.Context, token string) (*Principal, error) {
	if token == "" || len(token) > maxToken {
		return nil, &AuthError{Kind: "malformed", Msg: "there is no token, or it is too long to be one"}
	}
	k, known := in.index.find(token)
	if k == nil && known != nil {
		return nil, &AuthError{Kind: "forged", Tenant: known.Tenant, ID: "token:" + known.ID, Msg: "the token is unknown"}
	}
	if k == nil {
		return nil, &AuthError{Kind: "unknown", Msg: "the token is unknown"}
	}
	if err := in.valid(k); err != nil {
		return nil, err
	}
	return &Principal{
		ID: "token:" + k.ID, Name: k.Name, Tenant: k.Tenant, Role: k.Role,
		Logs: slices.Clone(k.Logs), Levels: slices.Clone(k.Levels), Expires: k.Expires,
	}, nil
}

func (in *Installation) valid(k *storedToken) error {
	refuse := func(kind, msg string) error {
		return &AuthError{Kind: kind, Tenant: k.Tenant, ID: "token:" + k.ID, Msg: msg}
	}
	switch {
	case !k.Revoked.IsZero():
		return refuse("revoked", "the token was revoked")
	case expired(k.Expires, in.now()):
		return refuse("expired", "the token has expired")
	}
	return in.active(k.Tenant, "token:"+k.ID)
}

// active says whether the tenant of a principal lets its principals in.
func (in *Installation) active(tenant, id string) error {
	if tenant == "" {
		return nil
	}
	t, err := in.Tenant(tenant)
	switch {
	case err != nil:
		return &AuthError{Kind: "unknown", ID: id, Msg: "the tenant is gone"}
	case t.err != nil:
		return t.err
	case t.settings.Load().Suspended:
		return &AuthError{Kind: "suspended", Tenant: tenant, ID: id, Msg: ErrSuspended.Error()}
	}
	return nil
}

// StillValid says whether a principal that was authenticated before would be now: what long streams ask every second.
// One that a claim or certificate rule made is not, once its tenant's rules have changed: it has to authenticate again.
func (in *Installation) StillValid(p *Principal) error {
	if p == nil {
		return ErrUnauthenticated
	}
	if id, ok := strings.CutPrefix(p.ID, "token:"); ok {
		in.index.mu.RLock()
		k := in.index.byID[id]
		in.index.mu.RUnlock()
		if k == nil {
			return &AuthError{Kind: "unknown", Tenant: p.Tenant, ID: p.ID, Msg: "the token is unknown"}
		}
		return in.valid(k)
	}
	if expired(p.Expires, in.now()) {
		return &AuthError{Kind: "expired", Tenant: p.Tenant, ID: p.ID, Msg: "the authentication has expired"}
	}
	if p.rules != 0 {
		owner := p.Tenant
		if owner == "" {
			owner = SystemName
		}
		if t, err := in.Tenant(owner); err != nil || t.rules.Load() != p.rules {
			return &AuthError{Kind: "changed", Tenant: p.Tenant, ID: p.ID, Msg: "the rules have changed; authenticate again"}
		}
	}
	return in.active(p.Tenant, p.ID)
}

// bootstrapID is the id of a first token that the operator chose; there is at most one.
const bootstrapID = "bootstrap"

// Bootstrap makes the first administrator's token of the installation, when no live administrator's token is there. token is
// the operator's own choice, of at least 16 characters; empty makes a random one. plain is it, where one was made.
func (in *Installation) Bootstrap(ctx context.Context, token string) (plain string, made bool, err error) {
	if token != "" && (len(token) < minBootstrap || len(token) > maxToken || strings.ContainsAny(token, " \t\r\n")) {
		return "", false, bad("bootstrap token", "%d characters; %d to %d, without spaces", len(token), minBootstrap, maxToken)
	}
	in.changes.Lock()
	defer in.changes.Unlock()
	now := in.now()
	for _, k := range in.Tokens() {
		if k.Role == Admin && len(k.Logs) == 0 && len(k.Levels) == 0 && k.live(now) {
			return "", false, nil
		}
	}
	k := &storedToken{Token: Token{ID: bootstrapID, TokenSpec: TokenSpec{Name: "first administrator", Role: Admin}, Created: now, CreatedBy: "local"}}
	if token == "" {
		k.ID, token = newToken()
	} else if old, _ := in.index.find(token); old != nil {
		return "", false, bad("bootstrap token", "it was revoked, or has expired, or is another's; choose another one")
	}
	k.setSecret(token)
	if err := in.tokens.add(ctx, in.system, Local("first start"), k); err != nil {
		return "", false, err
	}
	return token, true, nil
}

func newToken() (id, token string) {
	var bits [tokenIDHex/2 + tokenHex/2]byte
	_, _ = rand.Read(bits[:]) // never fails, crypto/rand says
	id = hex.EncodeToString(bits[:tokenIDHex/2])
	return id, tokenPrefix + id + "_" + hex.EncodeToString(bits[tokenIDHex/2:])
}

func (k *storedToken) setSecret(token string) {
	k.sum = sha256.Sum256([]byte(token))
	k.Hash = hex.EncodeToString(k.sum[:])
}

// CreateToken makes a token of the installation and returns it: it is not told again. by must be allowed
// PermManageInstallation.
func (in *Installation) CreateToken(ctx context.Context, by *Principal, s TokenSpec) (plain string, token Token, err error) {
	if err := by.Allow(PermManageInstallation, "", ""); err != nil {
		return "", Token{}, err
	}
	return in.tokens.create(ctx, in.system, by, s)
}

// Tokens are the installation's, the oldest first, revoked and expired ones too for some time.
func (in *Installation) Tokens() []Token { return in.tokens.tokens() }

// RevokeToken ends a token of the installation at once. by must be allowed PermManageInstallation.
func (in *Installation) RevokeToken(ctx context.Context, by *Principal, id string) error {
	if err := by.Allow(PermManageInstallation, "", ""); err != nil {
		return err
	}
	return in.tokens.revoke(ctx, in.system, by, id)
}

// CreateToken makes a token of the tenant and returns it: it is not told again. by must be allowed PermManageTenant.
func (t *Tenant) CreateToken(ctx context.Context, by *Principal, s TokenSpec) (plain string, token Token, err error) {
	if err := t.mayManage(by); err != nil {
		return "", Token{}, err
	}
	return t.tokens.create(ctx, t, by, s)
}

// Tokens are the tenant's, the oldest first, revoked and expired ones too for some time.
func (t *Tenant) Tokens() []Token {
	if t.tokens == nil {
		return nil
	}
	return t.tokens.tokens()
}

// RevokeToken ends a token of the tenant at once. by must be allowed PermManageTenant.
func (t *Tenant) RevokeToken(ctx context.Context, by *Principal, id string) error {
	if err := t.mayManage(by); err != nil {
		return err
	}
	return t.tokens.revoke(ctx, t, by, id)
}

func (t *Tenant) mayManage(by *Principal) error {
	if err := by.Allow(PermManageTenant, t.name, ""); err != nil {
		return err
	}
	if t.name == SystemName {
		return fmt.Errorf("%w: the installation's own tenant has the installation's tokens", ErrForbidden)
	}
	return t.err
}

func (st *tokenStore) tokens() []Token {
	st.in.index.mu.RLock()
	defer st.in.index.mu.RUnlock()
	out := make([]Token, len(st.list))
	for i, k := range st.list {
		out[i] = k.Token
		out[i].Logs, out[i].Levels = slices.Clone(k.Logs), slices.Clone(k.Levels)
	}
	return out
}

func (st *tokenStore) create(ctx context.Context, t *Tenant, by *Principal, s TokenSpec) (string, Token, error) {
	if err := s.check(); err != nil {
		return "", Token{}, err
	}
	now := st.in.now()
	if expired(s.Expires, now) {
		return "", Token{}, bad("expires", "%s has passed", s.Expires.Format(time.RFC3339))
	}
	s.Logs, s.Levels, s.Expires = slices.Clone(s.Logs), slices.Clone(s.Levels), s.Expires.UTC()
	st.in.changes.Lock()
	defer st.in.changes.Unlock()
	k := &storedToken{Token: Token{Tenant: st.tenant, TokenSpec: s, Created: now, CreatedBy: by.ID}}
	var token string
	k.ID, token = newToken()
	k.setSecret(token)
	if err := st.add(ctx, t, by, k); err != nil {
		return "", Token{}, err
	}
	return token, k.Token, nil
}

// add records a token, stores it, and then lets it in. A crash in between leaves a record of a token that nobody has.
// in.changes is held.
func (st *tokenStore) add(ctx context.Context, t *Tenant, by *Principal, k *storedToken) error {
	list := slices.DeleteFunc(slices.Clone(st.list), func(o *storedToken) bool {
		ended := o.Revoked
		if ended.IsZero() {
			ended = o.Expires
		}
		return o.ID == k.ID || !ended.IsZero() && k.Created.Sub(ended) > keepEnded
	})
	if len(list) >= maxTokens {
		return bad("token", "there are %d, the most that one tenant has; revoke some", maxTokens)
	}
	if err := t.Record(ctx, by, TokenCreate, immutable.Fields{"token": plain(k.Token)}); err != nil {
		return err
	}
	list = append(list, k)
	if err := st.write(list); err != nil {
		return errors.Join(err, t.Record(ctx, by, TokenRevoke, immutable.Fields{"token": k.ID, "reason": "it could not be stored"}))
	}
	x := &st.in.index
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, o := range st.list {
		if !slices.Contains(list, o) {
			x.drop(o)
		}
	}
	st.list = list
	x.put(k)
	return nil
}

// revoke ends a token for this process first, then in the file, and then records it: nothing that fails may keep it alive.
func (st *tokenStore) revoke(ctx context.Context, t *Tenant, by *Principal, id string) error {
	st.in.changes.Lock()
	defer st.in.changes.Unlock()
	i := slices.IndexFunc(st.list, func(k *storedToken) bool { return k.ID == id })
	if i < 0 {
		return notFound("token", id)
	}
	if st.list[i].Revoked.IsZero() {
		k := *st.list[i]
		k.Revoked, k.RevokedBy = st.in.now(), by.ID
		list := slices.Clone(st.list)
		list[i] = &k
		x := &st.in.index
		x.mu.Lock()
		x.drop(st.list[i])
		st.list = list
		x.put(&k)
		x.mu.Unlock()
	}
	err := st.write(st.list) // again where an earlier try failed
	if err != nil {
		err = fmt.Errorf("%w: %w; revoke it again", ErrNotKept, err)
	}
	return errors.Join(err, t.Record(ctx, by, TokenRevoke, immutable.Fields{"token": id, "name": st.list[i].Name}))
}

func (st *tokenStore) write(list []*storedToken) error {
	return st.in.writeLimited(st.file, tokensFile{Format: settingsFormat, Tokens: list}, maxTokenFile)
}
