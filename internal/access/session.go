package access

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// Limits of sessions, which are what a browser has in place of a token. They live in this process: after a restart people
// sign in again.
const (
	sessionLife = 12 * time.Hour // from signing in
	sessionIdle = 2 * time.Hour  // without a request
	maxSessions = 10_000         // beyond it the one that was idle for longest ends
)

// SessionCookie is the name of the cookie that carries a session. Scripts cannot read it, and other sites cannot send it.
const SessionCookie = "immutable-session"

// sessions are those of people who have signed in, by the SHA-256 of what their cookie holds.
type sessions struct {
	cross http.CrossOriginProtection

	mu  sync.Mutex
	all map[[sha256.Size]byte]*session
}

type session struct {
	principal   *tenant.Principal
	begun, used time.Time
}

// SignIn checks a token as Principal does, and begins a session for whom it names. The value that it returns is known to
// nobody else and is not kept here.
func (a *Authenticator) SignIn(r *http.Request, token string) (*tenant.Principal, *http.Cookie, error) {
	p, err := a.byToken(r, token)
	if err != nil {
		a.refused.count(r, err)
		return nil, nil, err
	}
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // it never fails
	value := base64.RawURLEncoding.EncodeToString(secret[:])
	now := a.now()
	a.sessions.mu.Lock()
	defer a.sessions.mu.Unlock()
	a.sessions.clean(now)
	a.sessions.all[sha256.Sum256([]byte(value))] = &session{principal: p, begun: now, used: now}
	return p, sessionCookie(r, value, int(sessionLife/time.Second)), nil
}

// SignOut ends the request's session, if it has one, and returns the cookie that makes the browser forget it.
func (a *Authenticator) SignOut(r *http.Request) *http.Cookie {
	if value := sessionValue(r); value != "" {
		a.sessions.mu.Lock()
		delete(a.sessions.all, sha256.Sum256([]byte(value)))
		a.sessions.mu.Unlock()
	}
	return sessionCookie(r, "", -1)
}

// bySession finds the principal of the request's session, or nil where it has none that goes on. A request that another
// site's page may have caused has none.
func (a *Authenticator) bySession(r *http.Request) (*tenant.Principal, error) {
	value := sessionValue(r)
	if value == "" {
		return nil, nil
	}
	if err := a.sessions.cross.Check(r); err != nil || r.Header.Get("Sec-Fetch-Site") == "cross-site" {
		return nil, refuse("cross-site", "a page of another site has caused this request")
	}
	key, now := sha256.Sum256([]byte(value)), a.now()
	a.sessions.mu.Lock()
	s := a.sessions.all[key]
	if s != nil && s.over(now) {
		delete(a.sessions.all, key)
		s = nil
	}
	if s != nil {
		s.used = now
	}
	a.sessions.mu.Unlock()
	if s == nil {
		return nil, nil
	}
	return s.principal, a.in.StillValid(s.principal)
}

func (s *session) over(now time.Time) bool {
	return now.Sub(s.begun) >= sessionLife || now.Sub(s.used) >= sessionIdle
}

// clean makes room for one more. The caller holds mu.
func (s *sessions) clean(now time.Time) {
	if s.all == nil {
		s.all = map[[sha256.Size]byte]*session{}
	}
	if len(s.all) < maxSessions {
		return
	}
	var oldest [sha256.Size]byte
	var at time.Time
	for key, one := range s.all {
		if one.over(now) {
			delete(s.all, key)
		} else if at.IsZero() || one.used.Before(at) {
			oldest, at = key, one.used
		}
	}
	if len(s.all) >= maxSessions {
		delete(s.all, oldest)
	}
}

// sessionValue is what the request's one session cookie holds; two are as good as none.
func sessionValue(r *http.Request) string {
	found := r.CookiesNamed(SessionCookie)
	if len(found) != 1 {
		return ""
	}
	return found[0].Value
}

func sessionCookie(r *http.Request, value string, age int) *http.Cookie {
	// Behind a proxy that ends TLS the browser speaks https, and this process does not see it but by the Origin.
	secure := r.TLS != nil || strings.HasPrefix(r.Header.Get("Origin"), "https://")
	return &http.Cookie{Name: SessionCookie, Value: value, Path: "/", MaxAge: age, Secure: secure, HttpOnly: true, SameSite: http.SameSiteStrictMode}
}
