package tenant

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
)

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func (c *clock) option(o *Options) { o.Now = c.now }

func kind(err error) string {
	if e, ok := errors.AsType[*AuthError](err); ok && errors.Is(err, ErrUnauthenticated) {
		return e.Kind
	}
	return ""
}

func defaultTenant(t *testing.T, in *Installation) *Tenant {
	t.Helper()
	x, err := in.Tenant(DefaultName)
	must(t, err)
	return x
}

func TestForgedTokensAreNobodys(t *testing.T) {
	in := open(t, t.TempDir())
	x := defaultTenant(t, in)
	good, k, err := x.CreateToken(t.Context(), Local("test"), TokenSpec{Name: "r", Role: Reader})
	must(t, err)
	if p, err := in.Authenticate(t.Context(), good); err != nil || p.ID != "token:"+k.ID || p.Tenant != DefaultName || p.Role != Reader {
		t.Fatalf("got %+v, %v", p, err)
	}
	flip := "0"
	if good[len(good)-1] == '0' {
		flip = "1"
	}
	wrong := good[:len(good)-1] + flip
	for token, want := range map[string]string{
		"":                                    "malformed",
		strings.Repeat("a", maxToken+1):       "malformed",
		wrong:                                 "forged",
		good + " ":                            "unknown",
		good[:len(good)-1]:                    "unknown",
		strings.ToUpper(good):                 "unknown",
		"imt_" + k.ID + "_":                   "unknown",
		k.ID:                                  "unknown",
		"imt_0000000000000000_" + good[21:]:   "unknown",
		strings.Replace(good, "imt_", "", 1):  "unknown",
		"imt_" + strings.Repeat("f", 16+1+64): "unknown",
	} {
		p, err := in.Authenticate(t.Context(), token)
		if p != nil || kind(err) != want {
			t.Errorf("%.40q: got %v, %v, want %s", token, p, err, want)
		}
	}
	_, e1 := in.Authenticate(t.Context(), wrong)
	_, e2 := in.Authenticate(t.Context(), "imt_0000000000000000_"+good[21:])
	if e1.Error() != e2.Error() {
		t.Errorf("a wrong secret says %q, an unknown id %q: that tells which ids exist", e1, e2)
	}
}

func TestRevokedTokenIsNobodysAtOnceAndAfterRestart(t *testing.T) {
	dir := t.TempDir()
	in := open(t, dir)
	x := defaultTenant(t, in)
	good, k, err := x.CreateToken(t.Context(), Local("test"), TokenSpec{Name: "r", Role: Reader})
	must(t, err)
	p, err := in.Authenticate(t.Context(), good)
	must(t, err)
	must(t, in.StillValid(p))
	must(t, x.RevokeToken(t.Context(), Local("test"), k.ID))
	if _, err := in.Authenticate(t.Context(), good); kind(err) != "revoked" {
		t.Errorf("got %v, want revoked", err)
	}
	if err := in.StillValid(p); kind(err) != "revoked" {
		t.Errorf("a stream of it: got %v, want revoked", err)
	}
	if err := x.RevokeToken(t.Context(), Local("test"), "0123456789abcdef"); !errors.Is(err, ErrNotFound) {
		t.Errorf("revoke of none: got %v", err)
	}
	must(t, in.Close(t.Context()))
	in = open(t, dir)
	if _, err := in.Authenticate(t.Context(), good); kind(err) != "revoked" {
		t.Errorf("after a restart: got %v, want revoked", err)
	}
}

func TestTokenExpiresToTheInstant(t *testing.T) {
	c := newClock()
	in := open(t, t.TempDir(), c.option)
	x := defaultTenant(t, in)
	if _, _, err := x.CreateToken(t.Context(), Local("test"), TokenSpec{Role: Reader, Expires: c.now()}); err == nil {
		t.Error("a token was made that has expired")
	}
	good, _, err := x.CreateToken(t.Context(), Local("test"), TokenSpec{Role: Reader, Expires: c.now().Add(time.Minute)})
	must(t, err)
	c.add(time.Minute - 1)
	p, err := in.Authenticate(t.Context(), good)
	must(t, err)
	c.add(1)
	if _, err := in.Authenticate(t.Context(), good); kind(err) != "expired" {
		t.Errorf("got %v, want expired", err)
	}
	if err := in.StillValid(p); kind(err) != "expired" {
		t.Errorf("a stream of it: got %v, want expired", err)
	}
}

func TestSecretsAreNotOnTheDisk(t *testing.T) {
	dir := t.TempDir()
	in := open(t, dir)
	first, _, err := in.Bootstrap(t.Context(), "chosen-by-the-operator")
	must(t, err)
	second, _, err := defaultTenant(t, in).CreateToken(t.Context(), Local("test"), TokenSpec{Role: Admin})
	must(t, err)
	must(t, in.Close(t.Context()))
	must(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		for _, secret := range []string{first, second, second[21:]} {
			if strings.Contains(string(data), secret) {
				t.Errorf("%s holds the secret", path)
			}
		}
		return err
	}))
}

func TestBootstrapMakesOneAdministrator(t *testing.T) {
	c := newClock()
	dir := t.TempDir()
	in := open(t, dir, c.option)
	for _, short := range []string{"short", "0123456789abcde", "with a space in between"} {
		if _, _, err := in.Bootstrap(t.Context(), short); err == nil {
			t.Errorf("%q was taken as a first token", short)
		}
	}
	const chosen = "chosen-by-the-operator"
	plain, made, err := in.Bootstrap(t.Context(), chosen)
	if plain != chosen || !made || err != nil {
		t.Fatalf("got %q, %v, %v", plain, made, err)
	}
	p, err := in.Authenticate(t.Context(), chosen)
	must(t, err)
	must(t, p.Allow(PermManageInstallation, "", ""))
	if _, made, err := in.Bootstrap(t.Context(), "another-one-of-theirs"); made || err != nil {
		t.Errorf("a second one: got %v, %v", made, err)
	}
	must(t, in.RevokeToken(t.Context(), p, in.Tokens()[0].ID))
	if _, err := in.Authenticate(t.Context(), chosen); kind(err) != "revoked" {
		t.Errorf("got %v, want revoked", err)
	}
	if _, made, err := in.Bootstrap(t.Context(), chosen); made || err == nil {
		t.Errorf("a revoked token came back: %v, %v", made, err)
	}
	must(t, in.Close(t.Context()))
	in = open(t, dir, c.option)
	if _, made, err := in.Bootstrap(t.Context(), chosen); made || err == nil {
		t.Errorf("a revoked token came back after a restart: %v, %v", made, err)
	}
	// Who has revoked the last administrator gets in again, from the host.
	plain, made, err = in.Bootstrap(t.Context(), "")
	if !made || err != nil {
		t.Fatalf("got %v, %v", made, err)
	}
	if _, err := in.Authenticate(t.Context(), plain); err != nil {
		t.Error(err)
	}
}

func TestSuspendedTenantsPrincipalsAreNobody(t *testing.T) {
	in := open(t, t.TempDir())
	x := defaultTenant(t, in)
	plain, _, err := x.CreateToken(t.Context(), Local("test"), TokenSpec{Role: Admin})
	must(t, err)
	p, err := in.Authenticate(t.Context(), plain)
	must(t, err)
	s := x.Settings()
	s.Suspended = true
	if err := x.Update(t.Context(), p, s); !errors.Is(err, ErrForbidden) {
		t.Errorf("a tenant suspends itself: got %v", err)
	}
	must(t, x.Update(t.Context(), Local("test"), s))
	if _, err := in.Authenticate(t.Context(), plain); kind(err) != "suspended" {
		t.Errorf("got %v, want suspended", err)
	}
	if err := in.StillValid(p); kind(err) != "suspended" {
		t.Errorf("a stream of it: got %v, want suspended", err)
	}
	l, err := x.Log(MainName)
	must(t, err)
	if _, err := l.AppendAs(t.Context(), p, immutable.Event{Message: "m"}); !errors.Is(err, ErrSuspended) {
		t.Errorf("append under way: got %v, want suspended", err)
	}
}

func TestTenantAdministratorCannotReachOutside(t *testing.T) {
	in := open(t, t.TempDir())
	other, err := in.CreateTenant(t.Context(), Local("test"), TenantSettings{Name: "other"})
	must(t, err)
	x := defaultTenant(t, in)
	p := &Principal{ID: "token:x", Tenant: DefaultName, Role: Admin}
	_, k, err := other.CreateToken(t.Context(), Local("test"), TokenSpec{Role: Reader})
	must(t, err)
	check := func(what string, err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", what, err, want)
		}
	}
	_, _, err = other.CreateToken(t.Context(), p, TokenSpec{Role: Admin})
	check("token of another tenant", err, ErrNotFound)
	check("revoke of another tenant's", other.RevokeToken(t.Context(), p, k.ID), ErrNotFound)
	check("revoke of another's token in the own tenant", x.RevokeToken(t.Context(), p, k.ID), ErrNotFound)
	check("settings of another tenant", other.Update(t.Context(), p, other.Settings()), ErrNotFound)
	_, err = other.CreateLog(t.Context(), p, LogSettings{Name: "mine"})
	check("log in another tenant", err, ErrNotFound)
	_, _, err = in.CreateToken(t.Context(), p, TokenSpec{Role: Admin})
	check("token of the installation", err, ErrForbidden)
	check("revoke of the installation's", in.RevokeToken(t.Context(), p, "bootstrap"), ErrForbidden)
	_, err = in.CreateTenant(t.Context(), p, TenantSettings{Name: "mine"})
	check("a tenant", err, ErrForbidden)
	s := x.Settings()
	s.Quota.EntriesPerSecond = 1 << 40
	check("the own quota", x.Update(t.Context(), p, s), ErrForbidden)
	for _, role := range []Role{Writer, Reader, Auditor} {
		_, _, err := x.CreateToken(t.Context(), &Principal{Tenant: DefaultName, Role: role}, TokenSpec{Role: Reader})
		check("token made by a "+string(role), err, ErrForbidden)
	}
	_, _, err = in.System().CreateToken(t.Context(), Local("test"), TokenSpec{Role: Admin})
	check("token of the installation's own tenant", err, ErrForbidden)
}

func TestDamagedTokenFilesAreRefusedWhole(t *testing.T) {
	dir := t.TempDir()
	in := open(t, dir)
	_, _, err := in.Bootstrap(t.Context(), "")
	must(t, err)
	must(t, in.Close(t.Context()))
	file := filepath.Join(dir, tokensName)
	good, err := os.ReadFile(file)
	must(t, err)
	var k tokensFile
	must(t, json.Unmarshal(good, &k))
	for what, bad := range map[string]string{
		"cut":            string(good[:len(good)/2]),
		"empty":          "",
		"other role":     strings.Replace(string(good), `"admin"`, `"root"`, 1),
		"unknown member": strings.Replace(string(good), `"role"`, `"nickname": "x", "role"`, 1),
		"doubled member": strings.Replace(string(good), `"role": "admin"`, `"role": "reader", "Role": "admin"`, 1),
		"other tenant":   strings.Replace(string(good), `"name"`, `"tenant": "x", "name"`, 1),
		"short hash":     strings.Replace(string(good), k.Tokens[0].Hash, k.Tokens[0].Hash[2:], 1),
		"other format":   strings.Replace(string(good), `"format": 1`, `"format": 2`, 1),
		"more behind":    string(good) + "{}",
		"null token":     `{"format":1,"tokens":[null]}`,
	} {
		if bad == string(good) {
			t.Errorf("%s: the file did not change", what)
		}
		must(t, os.WriteFile(file, []byte(bad), 0o600))
		if in, err := Open(t.Context(), Options{Dir: dir}); err == nil {
			t.Errorf("%s: it opened", what)
			must(t, in.Close(t.Context()))
		}
	}
	must(t, os.WriteFile(file, good, 0o600))
	open(t, dir)
}

func TestEndedTokensLeaveTheList(t *testing.T) {
	c := newClock()
	in := open(t, t.TempDir(), c.option)
	x := defaultTenant(t, in)
	old, k, err := x.CreateToken(t.Context(), Local("test"), TokenSpec{Role: Reader, Expires: c.now().Add(time.Hour)})
	must(t, err)
	c.add(keepEnded + time.Hour)
	_, _, err = x.CreateToken(t.Context(), Local("test"), TokenSpec{Role: Reader})
	must(t, err)
	if n := len(x.Tokens()); n != 2 {
		t.Errorf("at the limit: got %d tokens, want 2", n)
	}
	c.add(time.Second)
	_, _, err = x.CreateToken(t.Context(), Local("test"), TokenSpec{Role: Reader})
	must(t, err)
	if ts := x.Tokens(); len(ts) != 2 || ts[0].ID == k.ID {
		t.Errorf("past the limit: got %v", ts)
	}
	if _, err := in.Authenticate(t.Context(), old); kind(err) != "unknown" {
		t.Errorf("got %v, want unknown", err)
	}
}

func FuzzTokens(f *testing.F) {
	in, err := Open(f.Context(), Options{Dir: f.TempDir()})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = in.Close(f.Context()) })
	plain, _, err := in.Bootstrap(f.Context(), "")
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{plain, "imt_", "imt__", plain[:21], "bootstrap"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := in.Authenticate(t.Context(), s)
		if (p != nil) != (s == plain) || (err == nil) != (s == plain) {
			t.Errorf("%q: got %v, %v", s, p, err)
		}
	})
}
