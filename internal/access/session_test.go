package access

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// signedIn is an authenticator with a session of the first administrator.
func signedIn(t *testing.T) (*Authenticator, *tenant.Installation, *clock, *http.Cookie) {
	t.Helper()
	c := newClock()
	in, err := tenant.Open(t.Context(), tenant.Options{Dir: t.TempDir(), OriginPrefix: "log.example/session", Now: c.now})
	must(t, err)
	t.Cleanup(func() { _ = in.Close(t.Context()) })
	_, _, err = in.Bootstrap(t.Context(), "first-administrator-of-a-test")
	must(t, err)
	a, err := New(t.Context(), in, Config{Now: c.now})
	must(t, err)
	p, cookie, err := a.SignIn(httptest.NewRequest(http.MethodPost, "/api/v1/session", nil), "first-administrator-of-a-test")
	must(t, err)
	if p.Role != tenant.Admin || !cookie.HttpOnly || cookie.SameSite != http.SameSiteStrictMode || len(cookie.Value) < 40 {
		t.Fatalf("signed in as %v with %v", p, cookie)
	}
	return a, in, c, cookie
}

// asked is a request that a browser sends with the session's cookie.
func asked(method string, cookie *http.Cookie, header map[string]string) *http.Request {
	r := httptest.NewRequest(method, "http://log.example/api/v1/whoami", nil)
	r.AddCookie(cookie)
	for name, value := range header {
		r.Header.Set(name, value)
	}
	return r
}

func TestSessionStandsForItsToken(t *testing.T) {
	a, in, _, cookie := signedIn(t)
	p, err := a.Principal(asked(http.MethodGet, cookie, nil))
	must(t, err)
	if p.Role != tenant.Admin {
		t.Errorf("it is a session of %v", p)
	}
	spec := tenant.TokenSpec{Name: "short", Role: tenant.Admin}
	plain, token, err := in.CreateToken(t.Context(), p, spec)
	must(t, err)
	_, second, err := a.SignIn(httptest.NewRequest(http.MethodPost, "/", nil), plain)
	must(t, err)
	if _, err := a.Principal(asked(http.MethodGet, second, nil)); err != nil {
		t.Error(err)
	}
	must(t, in.RevokeToken(t.Context(), p, token.ID))
	if _, err := a.Principal(asked(http.MethodGet, second, nil)); !errors.Is(err, tenant.ErrUnauthenticated) {
		t.Errorf("after the token was revoked: %v", err)
	}
	if _, _, err := a.SignIn(httptest.NewRequest(http.MethodPost, "/", nil), plain); !errors.Is(err, tenant.ErrUnauthenticated) {
		t.Errorf("signing in with a revoked token: %v", err)
	}
}

func TestSessionEnds(t *testing.T) {
	refused := func(t *testing.T, a *Authenticator, r *http.Request) {
		t.Helper()
		if p, err := a.Principal(r); !errors.Is(err, tenant.ErrUnauthenticated) {
			t.Errorf("it goes on: %v, %v", p, err)
		}
	}
	t.Run("when its person signs out", func(t *testing.T) {
		a, _, _, cookie := signedIn(t)
		if gone := a.SignOut(asked(http.MethodDelete, cookie, nil)); gone.MaxAge >= 0 {
			t.Error("the browser keeps the cookie")
		}
		refused(t, a, asked(http.MethodGet, cookie, nil))
	})
	t.Run("without requests", func(t *testing.T) {
		a, _, c, cookie := signedIn(t)
		c.add(sessionIdle)
		refused(t, a, asked(http.MethodGet, cookie, nil))
	})
	t.Run("after its time", func(t *testing.T) {
		a, _, c, cookie := signedIn(t)
		for range sessionLife / time.Hour {
			if _, err := a.Principal(asked(http.MethodGet, cookie, nil)); err != nil {
				t.Fatal(err)
			}
			c.add(time.Hour)
		}
		refused(t, a, asked(http.MethodGet, cookie, nil))
	})
	t.Run("when there are too many", func(t *testing.T) {
		a, _, c, cookie := signedIn(t)
		for range maxSessions {
			c.add(time.Millisecond)
			_, _, err := a.SignIn(httptest.NewRequest(http.MethodPost, "/", nil), "first-administrator-of-a-test")
			must(t, err)
		}
		if len(a.sessions.all) > maxSessions {
			t.Errorf("%d sessions", len(a.sessions.all))
		}
		refused(t, a, asked(http.MethodGet, cookie, nil))
	})
	t.Run("for two cookies", func(t *testing.T) {
		a, _, _, cookie := signedIn(t)
		r := asked(http.MethodGet, cookie, nil)
		r.AddCookie(&http.Cookie{Name: SessionCookie, Value: "of-somebody-else"})
		refused(t, a, r)
	})
}

// TestOtherSitesCannotUseASession sends what a browser sends when another site's page is behind a request.
func TestOtherSitesCannotUseASession(t *testing.T) {
	a, _, _, cookie := signedIn(t)
	for name, r := range map[string]*http.Request{
		"form of another site":     asked(http.MethodPost, cookie, map[string]string{"Sec-Fetch-Site": "cross-site"}),
		"form of another port":     asked(http.MethodPost, cookie, map[string]string{"Sec-Fetch-Site": "same-site"}),
		"without Sec-Fetch-Site":   asked(http.MethodPost, cookie, map[string]string{"Origin": "https://evil.example"}),
		"origin of a sandbox":      asked(http.MethodDelete, cookie, map[string]string{"Origin": "null"}),
		"image of another site":    asked(http.MethodGet, cookie, map[string]string{"Sec-Fetch-Site": "cross-site"}),
		"stream into another site": asked(http.MethodGet, cookie, map[string]string{"Sec-Fetch-Site": "cross-site", "Accept": "text/event-stream"}),
	} {
		if p, err := a.Principal(r); !errors.Is(err, tenant.ErrUnauthenticated) {
			t.Errorf("%s: %v, %v", name, p, err)
		}
	}
	for name, r := range map[string]*http.Request{
		"our page":            asked(http.MethodPost, cookie, map[string]string{"Sec-Fetch-Site": "same-origin"}),
		"our page, by origin": asked(http.MethodPost, cookie, map[string]string{"Origin": "http://log.example"}),
		"the address bar":     asked(http.MethodGet, cookie, map[string]string{"Sec-Fetch-Site": "none"}),
	} {
		if _, err := a.Principal(r); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
