package tenant

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable"
)

var allRoles = []Role{Writer, Reader, Auditor, Admin}

// docTable reads the rows of the table in docs/tenants.md whose heading begins with the words.
func docTable(t *testing.T, heading string) [][]string {
	t.Helper()
	data, err := os.ReadFile("../../docs/tenants.md")
	must(t, err)
	_, rest, ok := strings.Cut(string(data), "\n| "+heading+" |")
	if !ok {
		t.Fatalf("docs/tenants.md has no table that begins with %q", heading)
	}
	var rows [][]string
	for i, line := range strings.Split(rest, "\n") {
		if i < 2 {
			continue
		}
		if !strings.HasPrefix(line, "|") {
			break
		}
		var cells []string
		for cell := range strings.SplitSeq(strings.Trim(line, "|"), "|") {
			cells = append(cells, strings.Trim(strings.TrimSpace(cell), "`"))
		}
		rows = append(rows, cells)
	}
	return rows
}

// TestPermissionsAreTheDocumentedTable walks every permission as every role, so that no row is there by accident.
func TestPermissionsAreTheDocumentedTable(t *testing.T) {
	rows := docTable(t, "permission")
	if len(rows) != len(rules) {
		t.Errorf("got %d documented permissions, want %d", len(rows), len(rules))
	}
	for _, row := range rows {
		perm := Permission(row[0])
		for i, role := range allRoles {
			p := &Principal{ID: "x", Tenant: "a", Role: role}
			tenant, log := "a", "main"
			switch row[1] {
			case "tenant":
				log = ""
			case "installation":
				p.Tenant, tenant, log = "", "", ""
			}
			err := p.Allow(perm, tenant, log)
			if got, want := err == nil, row[2+i] == "yes"; got != want {
				t.Errorf("%s as %s: got %v, documented as %q", perm, role, err, row[2+i])
			}
			if err != nil && !errors.Is(err, ErrForbidden) {
				t.Errorf("%s as %s: got %v, want forbidden", perm, role, err)
			}
		}
	}
}

// TestForeignAndMissingLookAlike asks for what is there and not there, of other tenants and outside the principal's logs:
// only the name that was asked for may differ in the answer.
func TestForeignAndMissingLookAlike(t *testing.T) {
	in := open(t, t.TempDir())
	admin := Local("test")
	other, err := in.CreateTenant(t.Context(), admin, TenantSettings{Name: "other"})
	must(t, err)
	_, err = other.CreateLog(t.Context(), admin, LogSettings{Name: "secret"})
	must(t, err)
	for _, role := range allRoles {
		for _, r := range rules {
			for _, logs := range [][]string{nil, {"main"}} {
				p := &Principal{ID: "x", Tenant: DefaultName, Role: role, Logs: logs}
				there, missing := p.Allow(r.perm, "other", "secret"), p.Allow(r.perm, "nobody", "secret")
				if r.scope == scopeInstallation {
					if !errors.Is(there, ErrForbidden) || !errors.Is(missing, ErrForbidden) {
						t.Errorf("%s as %s: got %v, %v, want forbidden", r.perm, role, there, missing)
					}
					continue
				}
				if !errors.Is(there, ErrNotFound) || strings.ReplaceAll(there.Error(), "other", "nobody") != missing.Error() {
					t.Errorf("%s as %s: got %v for a foreign tenant, %v for none", r.perm, role, there, missing)
				}
				_, none := in.Tenant("nobody")
				if none == nil || none.Error() != missing.Error() {
					t.Errorf("the missing tenant itself says %v, a foreign one %v", none, missing)
				}
				if r.scope == scopeLog && len(logs) > 0 {
					if err := p.Allow(r.perm, DefaultName, "unseen"); !errors.Is(err, ErrNotFound) {
						t.Errorf("%s as %s on a log outside its limits: got %v", r.perm, role, err)
					}
					if err := p.Allow(r.perm, DefaultName, SystemName); !errors.Is(err, ErrNotFound) {
						t.Errorf("%s as %s on the log of the log outside its limits: got %v", r.perm, role, err)
					}
				}
			}
		}
	}
}

func TestWriterCannotReadWhatItWrote(t *testing.T) {
	in := open(t, t.TempDir())
	def, err := in.Tenant(DefaultName)
	must(t, err)
	plain, _, err := def.CreateToken(t.Context(), Local("test"), TokenSpec{Name: "w", Role: Writer})
	must(t, err)
	p, err := in.Authenticate(t.Context(), plain)
	must(t, err)
	l, err := def.Log(MainName)
	must(t, err)
	_, err = l.AppendAs(t.Context(), p, immutable.Event{Message: "mine"})
	must(t, err)
	for _, r := range rules {
		err := p.Allow(r.perm, DefaultName, MainName)
		if (err == nil) != (r.perm == PermAppend) {
			t.Errorf("%s: got %v", r.perm, err)
		}
	}
}

func TestLogOfTheLogIsReadByAuditorsAndWrittenByNobody(t *testing.T) {
	in := open(t, t.TempDir())
	def, err := in.Tenant(DefaultName)
	must(t, err)
	l, err := def.Log(SystemName)
	must(t, err)
	size := l.Size()
	for _, role := range allRoles {
		p := &Principal{ID: "x", Tenant: DefaultName, Role: role}
		if _, err := l.AppendAs(t.Context(), p, immutable.Event{Message: "forged"}); !errors.Is(err, ErrForbidden) {
			t.Errorf("append as %s: got %v", role, err)
		}
		err := p.Allow(PermRead, DefaultName, SystemName)
		if got, want := err == nil, role == Auditor || role == Admin; got != want {
			t.Errorf("read as %s: got %v", role, err)
		}
	}
	if _, err := l.AppendAs(t.Context(), Local("host"), immutable.Event{Message: "forged"}); !errors.Is(err, ErrForbidden) {
		t.Errorf("append as the host's administrator: got %v", err)
	}
	if l.Size() != size {
		t.Errorf("the log of the log grew from %d to %d", size, l.Size())
	}
}

func TestLimitedPrincipalManagesNothing(t *testing.T) {
	for _, p := range []*Principal{
		{Tenant: "a", Role: Admin, Logs: []string{"main"}},
		{Tenant: "a", Role: Admin, Levels: Levels{immutable.Info}},
	} {
		for _, perm := range []Permission{PermManageTenant, PermAuditTenant} {
			if err := p.Allow(perm, "a", ""); !errors.Is(err, ErrForbidden) {
				t.Errorf("%s of %+v: got %v", perm, p, err)
			}
		}
	}
	p := &Principal{Tenant: "a", Role: Reader, Levels: Levels{immutable.Info}}
	if err := p.Allow(PermTiles, "a", "main"); !errors.Is(err, ErrForbidden) {
		t.Errorf("tiles for a principal of one level: got %v", err)
	}
	if err := (*Principal)(nil).Allow(PermRead, "a", "main"); !errors.Is(err, ErrUnauthenticated) {
		t.Errorf("nobody: got %v", err)
	}
	if err := (&Principal{Role: Admin}).Allow("nonsense", "a", "main"); !errors.Is(err, ErrForbidden) {
		t.Errorf("an unknown permission: got %v", err)
	}
	if err := (&Principal{Role: "root"}).Allow(PermRead, "a", "main"); !errors.Is(err, ErrForbidden) {
		t.Errorf("an unknown role: got %v", err)
	}
}

// TestLevelsLimitAppendsAndQueries compares what a limited principal reads with a plain filter over everything.
func TestLevelsLimitAppendsAndQueries(t *testing.T) {
	in := open(t, t.TempDir())
	def, err := in.Tenant(DefaultName)
	must(t, err)
	l, err := def.Log(MainName)
	must(t, err)
	for level := range immutable.Level(immutable.NumLevels) {
		_, err := l.AppendAs(t.Context(), Local("test"), immutable.Event{Level: level, Message: fmt.Sprint(level)})
		must(t, err)
	}
	p := &Principal{Tenant: DefaultName, Role: Admin, Levels: Levels{immutable.Audit, immutable.Warn}}
	if _, err := l.AppendAs(t.Context(), p, immutable.Event{Level: immutable.Audit, Message: "a"}, immutable.Event{Level: immutable.Info, Message: "b"}); !errors.Is(err, ErrForbidden) {
		t.Errorf("append of another level: got %v", err)
	}
	for _, q := range []immutable.Query{
		{},
		{Levels: []immutable.Level{immutable.Audit, immutable.Info}},
		{Levels: []immutable.Level{immutable.Info}},
		{Text: "level:INFO OR level:AUDIT"},
		{Text: "level:INFO"},
	} {
		var got, want []string
		for e, err := range l.Search(t.Context(), l.ReadQuery(p, q)) {
			must(t, err)
			got = append(got, e.Message)
		}
		for e, err := range l.Search(t.Context(), q) {
			must(t, err)
			if e.Level == immutable.Audit || e.Level == immutable.Warn {
				want = append(want, e.Message)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%+v: got %q, want %q", q, got, want)
		}
	}
}
