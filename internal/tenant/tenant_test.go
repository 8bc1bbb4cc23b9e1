package tenant

import (
	"context"
	"errors"
	"testing"

	"github.com/tree-of-life-system/immutable"
)

// signed makes logs with keys, which take their time to make.
func signed(o *Options) { o.Log.NoSignatures = false }

// open opens an installation in dir and closes it when the test ends. Its logs have no keys.
func open(t *testing.T, dir string, change ...func(*Options)) *Installation {
	t.Helper()
	o := Options{Dir: dir, OriginPrefix: "example.com/test", Log: immutable.Config{Hostname: "host", NoSignatures: true}}
	for _, f := range change {
		f(&o)
	}
	in, err := Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := in.Close(context.Background()); err != nil && !errors.Is(err, immutable.ErrClosed) {
			t.Errorf("close: %v", err)
		}
	})
	return in
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFirstStartMakesDefaultTenantAndAdministrator(t *testing.T) {
	dir := t.TempDir()
	in := open(t, dir, signed)
	plain, made, err := in.Bootstrap(t.Context(), "")
	must(t, err)
	if !made || plain == "" {
		t.Fatalf("got %q, %v", plain, made)
	}
	p, err := in.Authenticate(t.Context(), plain)
	must(t, err)
	def, err := in.Tenant(DefaultName)
	must(t, err)
	l, err := def.Log(MainName)
	must(t, err)
	rs, err := l.AppendAs(t.Context(), p, immutable.Event{Message: "a"}, immutable.Event{Message: "b"})
	must(t, err)
	if len(rs) != 2 || l.Origin() != "example.com/test/default/main" {
		t.Errorf("got %d receipts, origin %s", len(rs), l.Origin())
	}
	must(t, in.Close(t.Context()))

	in = open(t, dir, signed)
	if _, made, err := in.Bootstrap(t.Context(), ""); made || err != nil {
		t.Errorf("second start: got %v, %v, want no second administrator", made, err)
	}
	if _, err := in.Authenticate(t.Context(), plain); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	def, err = in.Tenant(DefaultName)
	must(t, err)
	l, err = def.Log(MainName)
	must(t, err)
	if l.Size() != 2 {
		t.Errorf("got %d entries, want 2", l.Size())
	}
}
