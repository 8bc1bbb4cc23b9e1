package tenant

import (
	"errors"
	"io/fs"
	"testing"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
)

// onDisk opens an installation whose own files are on the disk that loses power; its logs, which have crash tests of their
// own, lie in dir.
func onDisk(t *testing.T, disk *vfstest.Disk, dir string) (*Installation, error) {
	t.Helper()
	return Open(t.Context(), Options{Dir: dir, OriginPrefix: "example.com/test", Log: immutable.Config{NoSignatures: true, Hostname: "host"}, fs: disk})
}

// abandon lets go of an installation as a crash does: nothing is recorded.
func (in *Installation) abandon() {
	close(in.stop)
	<-in.ended
	_ = in.release()
}

// history is what an administrator does, and what was acknowledged of it.
type history struct {
	tenant, log, token, revoked bool
	plain                       string
}

func (h *history) run(t *testing.T, in *Installation) error {
	admin := Local("test")
	x, err := in.CreateTenant(t.Context(), admin, TenantSettings{Name: "x"})
	if err != nil {
		return err
	}
	h.tenant = true
	l, err := x.CreateLog(t.Context(), admin, LogSettings{Name: "l"})
	if err != nil {
		return err
	}
	h.log = true
	plain, k, err := x.CreateToken(t.Context(), admin, TokenSpec{Name: "n", Role: Writer})
	if err != nil {
		return err
	}
	h.token, h.plain = true, plain
	p, err := in.Authenticate(t.Context(), plain)
	if err != nil {
		return err
	}
	if _, err := l.AppendAs(t.Context(), p, immutable.Event{Message: "m"}); err != nil {
		return err
	}
	if err := x.Update(t.Context(), admin, TenantSettings{Name: "x", Title: "new"}); err != nil {
		return err
	}
	if err := x.RevokeToken(t.Context(), admin, k.ID); err != nil {
		return err
	}
	h.revoked = true
	return nil
}

// check opens what a crash left, and goes on with it.
func (h *history) check(t *testing.T, disk *vfstest.Disk, dir string) {
	t.Helper()
	in, err := onDisk(t, disk, dir)
	if err != nil {
		t.Fatalf("open after the crash: %v", err)
	}
	defer in.abandon()
	for _, x := range in.Tenants() {
		if x.Err() != nil {
			t.Errorf("tenant %s: %v", x.Name(), x.Err())
		}
		for _, l := range x.Logs() {
			if l.Err() != nil {
				t.Errorf("log %s of %s: %v", l.Name(), x.Name(), l.Err())
			}
		}
	}
	admin := Local("test")
	x, err := in.Tenant("x")
	if err != nil {
		if h.tenant {
			t.Fatalf("the acknowledged tenant: %v", err)
		}
		if x, err = in.CreateTenant(t.Context(), admin, TenantSettings{Name: "x"}); err != nil {
			t.Fatalf("make the tenant again: %v", err)
		}
	}
	if _, err := x.Log("l"); err != nil {
		if h.log {
			t.Fatalf("the acknowledged log: %v", err)
		}
		if _, err = x.CreateLog(t.Context(), admin, LogSettings{Name: "l"}); err != nil {
			t.Fatalf("make the log again: %v", err)
		}
	}
	if h.token {
		_, err := in.Authenticate(t.Context(), h.plain)
		if h.revoked && kind(err) != "revoked" || !h.revoked && err != nil && kind(err) != "revoked" {
			t.Errorf("the token, revocation acknowledged: %v: got %v", h.revoked, err)
		}
	}
	plain, _, err := x.CreateToken(t.Context(), admin, TokenSpec{Role: Reader})
	if err != nil {
		t.Fatalf("make a token: %v", err)
	}
	if _, err := in.Authenticate(t.Context(), plain); err != nil {
		t.Error(err)
	}
}

// TestCrashWhileChangingLeavesWhatOpens cuts the power after every third operation on the disk, beginning with another one
// each time.
func TestCrashWhileChangingLeavesWhatOpens(t *testing.T) {
	t.Parallel()
	rng := vfstest.Rand(t)
	const step = 3
	for n := uint64(rng.IntN(step)); ; n += step {
		disk, dir := vfstest.New(), t.TempDir()
		in, err := onDisk(t, disk, dir)
		must(t, err)
		disk.CutAfter(n)
		var h history
		err = h.run(t, in)
		in.abandon()
		h.check(t, disk.Crash(rng), dir)
		if t.Failed() {
			t.Fatalf("power cut after %d operations; what was acknowledged: %+v", n, h)
		}
		if err == nil {
			t.Logf("%d operations", n)
			return
		}
		if !errors.Is(err, vfstest.ErrPowerCut) {
			t.Fatalf("after %d operations: %v", n, err)
		}
	}
}

// TestCrashAtFirstStartLeavesWhatOpens does the same with the very first start.
func TestCrashAtFirstStartLeavesWhatOpens(t *testing.T) {
	t.Parallel()
	rng := vfstest.Rand(t)
	const step = 3
	for n := uint64(rng.IntN(step)); ; n += step {
		disk, dir := vfstest.New(), t.TempDir()
		disk.CutAfter(n)
		in, err := onDisk(t, disk, dir)
		if err == nil {
			in.abandon()
			if n < step {
				t.Fatal("it needed no disk")
			}
			return
		}
		in, err = onDisk(t, disk.Crash(rng), dir)
		if err != nil {
			t.Fatalf("power cut after %d operations: %v", n, err)
		}
		if _, err := defaultTenant(t, in).Log(MainName); err != nil {
			t.Errorf("power cut after %d operations: %v", n, err)
		}
		in.abandon()
	}
}

// TestFailedRevocationHoldsUntilRestart makes the token's file unwritable: the token is refused all the same, and the
// administrator is told what it means.
func TestFailedRevocationHoldsUntilRestart(t *testing.T) {
	disk, dir := vfstest.New(), t.TempDir()
	in, err := onDisk(t, disk, dir)
	must(t, err)
	defer in.abandon()
	x := defaultTenant(t, in)
	plain, k, err := x.CreateToken(t.Context(), Local("test"), TokenSpec{Role: Reader})
	must(t, err)
	broken := errors.New("the disk is broken")
	disk.SetFail(func(op vfstest.Op) error {
		if op.Kind.Changes() {
			return broken
		}
		return nil
	})
	if err := x.RevokeToken(t.Context(), Local("test"), k.ID); !errors.Is(err, broken) {
		t.Errorf("got %v, want the disk's error", err)
	}
	if _, err := in.Authenticate(t.Context(), plain); kind(err) != "revoked" {
		t.Errorf("got %v, want revoked", err)
	}
	if _, _, err := x.CreateToken(t.Context(), Local("test"), TokenSpec{Role: Reader}); !errors.Is(err, broken) {
		t.Errorf("a token that is not stored: got %v", err)
	}
	if n := len(x.Tokens()); n != 1 {
		t.Errorf("got %d tokens, want 1", n)
	}
	disk.SetFail(nil)
	must(t, x.RevokeToken(t.Context(), Local("test"), k.ID)) // again, now for good
	if _, err := disk.Stat(x.path(tokensName)); errors.Is(err, fs.ErrNotExist) {
		t.Error("the file is not there")
	}
	list, err := in.openTokensAgain(x)
	must(t, err)
	if len(list) != 1 || list[0].Revoked.IsZero() {
		t.Errorf("on the disk: got %+v", list)
	}
}

// openTokensAgain reads a tenant's token file as the next start would.
func (in *Installation) openTokensAgain(x *Tenant) ([]Token, error) {
	st, err := (&Installation{fs: in.fs}).openTokens(x.name, x.path(tokensName))
	if err != nil {
		return nil, err
	}
	var list []Token
	for _, k := range st.list {
		list = append(list, k.Token)
	}
	return list, nil
}
