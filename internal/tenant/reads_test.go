package tenant

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/vfs"
)

// record is an entry of a log of the log, as tests read it.
type record struct {
	Action     string
	By         struct{ ID, Role, Name, Tenant string }
	Log        string
	Read       string
	Filter     string
	FilterHash string

	Requests, Ended, Failed, Entries uint64

	Segments, Epoch, Count int
	Source, Kind           string
	Error                  string
	level                  immutable.Level
	raw                    string
}

// records reads the entries of a tenant's log of the log with one of the actions; none means all.
func records(t *testing.T, x *Tenant, actions ...Action) []record {
	t.Helper()
	l, err := x.Log(SystemName)
	must(t, err)
	var out []record
	for e, err := range l.Entries(context.Background(), immutable.Query{}) {
		must(t, err)
		if e.Control != nil {
			continue
		}
		r := record{level: e.Level, raw: string(e.Metadata)}
		must(t, json.Unmarshal(e.Metadata, &r))
		for _, a := range actions {
			if string(a) == r.Action {
				out = append(out, r)
			}
		}
		if len(actions) == 0 {
			out = append(out, r)
		}
	}
	return out
}

// sums adds up what the ends of reads say.
func sums(rs []record) (requests, ended, failed, entries uint64) {
	for _, r := range rs {
		requests, ended, failed, entries = requests+r.Requests, ended+r.Ended, failed+r.Failed, entries+r.Entries
	}
	return
}

var reader = &Principal{ID: "token:r", Name: "Ann", Tenant: DefaultName, Role: Reader}

// TestReadsWithinASecondAreOneRecord runs in a bubble, where time goes on when everybody waits.
func TestReadsWithinASecondAreOneRecord(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		in := open(t, dir)
		x := defaultTenant(t, in)
		read := Read{Log: MainName, Action: "search", Filter: "user:ann"}
		end, err := x.BeginRead(t.Context(), reader, read)
		must(t, err)
		if got := records(t, x, ReadBegin); len(got) != 1 || got[0].By.ID != "token:r" || got[0].By.Name != "Ann" || got[0].Filter != "user:ann" || got[0].Log != MainName || got[0].Read != "search" {
			t.Fatalf("before the first byte left: got %+v", got)
		}
		end(10, nil)
		end(1000, nil) // a second call counts nothing
		for range 99 {
			end, err := x.BeginRead(t.Context(), reader, read)
			must(t, err)
			end(10, nil)
		}
		end, err = x.BeginRead(t.Context(), reader, read)
		must(t, err)
		end(3, errors.New("the connection broke"))
		if got := records(t, x, ReadEnd); len(got) != 0 {
			t.Errorf("within the second: got %+v", got)
		}
		time.Sleep(readWindow + time.Millisecond)
		synctest.Wait()
		got := records(t, x, ReadEnd)
		if len(got) != 1 || got[0].Requests != 101 || got[0].Ended != 101 || got[0].Failed != 1 || got[0].Entries != 1003 {
			t.Errorf("after the second: got %+v", got)
		}
		if n := len(records(t, x, ReadBegin)); n != 1 {
			t.Errorf("got %d beginnings, want 1", n)
		}
		// The next second is another record.
		end, err = x.BeginRead(t.Context(), reader, read)
		must(t, err)
		end(1, nil)
		must(t, in.Close(t.Context()))
		in = open(t, dir)
		x = defaultTenant(t, in)
		if b, e := len(records(t, x, ReadBegin)), len(records(t, x, ReadEnd)); b != 2 || e != 2 {
			t.Errorf("after close: got %d beginnings and %d ends, want 2 of each", b, e)
		}
		must(t, in.Close(t.Context()))
	})
}

// TestKindsOfReadsAreRecordedApart changes one member of the kind at a time.
func TestKindsOfReadsAreRecordedApart(t *testing.T) {
	in := open(t, t.TempDir())
	x := defaultTenant(t, in)
	base := Read{Log: MainName, Action: "search", Filter: "a"}
	other := *reader
	other.ID = "token:s"
	for _, r := range []struct {
		p *Principal
		r Read
	}{
		{reader, base},
		{&other, base},
		{reader, Read{"elsewhere", "search", "a", ""}},
		{reader, Read{MainName, "export", "a", ""}},
		{reader, Read{MainName, "search", "b", ""}},
		{reader, base},
	} {
		end, err := x.BeginRead(t.Context(), r.p, r.r)
		must(t, err)
		end(1, nil)
	}
	if n := len(records(t, x, ReadBegin)); n != 5 {
		t.Errorf("got %d beginnings, want 5", n)
	}
}

// TestCountsAreExactWhateverTheOrder has many readers whose reads overlap windows; over all records nothing is lost.
func TestCountsAreExactWhateverTheOrder(t *testing.T) {
	dir := t.TempDir()
	var requests, entries uint64
	synctest.Test(t, func(t *testing.T) {
		in := open(t, dir)
		x := defaultTenant(t, in)
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range 40 {
			wg.Go(func() {
				for j := range 25 {
					end, err := x.BeginRead(t.Context(), reader, Read{MainName, "read", fmt.Sprint(i % 3), ""})
					if err != nil {
						t.Error(err)
						return
					}
					time.Sleep(time.Duration(i*j*7) * time.Millisecond) // up to 7 s: over several windows
					n := uint64(i + j)
					end(n, nil)
					mu.Lock()
					requests, entries = requests+1, entries+n
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		must(t, in.Close(t.Context()))
	})
	x := defaultTenant(t, open(t, dir))
	ends := records(t, x, ReadEnd)
	gotRequests, ended, failed, gotEntries := sums(ends)
	if gotRequests != requests || ended != requests || failed != 0 || gotEntries != entries {
		t.Errorf("got %d requests, %d ended, %d failed, %d entries; want %d, %d, 0, %d", gotRequests, ended, failed, gotEntries, requests, requests, entries)
	}
	if len(ends) < 10 || len(ends) > int(requests)/2 {
		t.Errorf("got %d records of %d reads", len(ends), requests)
	}
}

func TestReadsOfTheLogOfTheLogAreNotRecorded(t *testing.T) {
	in := open(t, t.TempDir())
	x := defaultTenant(t, in)
	l, err := x.Log(SystemName)
	must(t, err)
	size := l.Size()
	end, err := x.BeginRead(t.Context(), reader, Read{Log: SystemName, Action: "read"})
	must(t, err)
	end(1, nil)
	if l.Size() != size {
		t.Errorf("it grew from %d to %d", size, l.Size())
	}
	if _, err := x.BeginRead(t.Context(), nil, Read{Log: MainName, Action: "read"}); !errors.Is(err, ErrUnauthenticated) {
		t.Errorf("nobody reads: got %v", err)
	}
}

// breakSystem makes the tenant's log of the log refuse appends, as one whose writer has failed.
func breakSystem(t *testing.T, x *Tenant) {
	t.Helper()
	must(t, x.system.Log.Close())
}

func TestReadFailsWhereItCannotBeRecorded(t *testing.T) {
	in := open(t, t.TempDir())
	x := defaultTenant(t, in)
	begun, err := x.BeginRead(t.Context(), reader, Read{MainName, "read", "begun before", ""})
	must(t, err)
	breakSystem(t, x)
	for range 3 {
		_, err := x.BeginRead(t.Context(), reader, Read{MainName, "read", "later", ""})
		if r, ok := errors.AsType[*RecordError](err); !ok || r.Tenant != DefaultName {
			t.Errorf("got %v, want a RecordError", err)
		}
	}
	begun(5, nil)
	// A window that is open takes more, unless something else is owed.
	open := Read{MainName, "read", "begun before", ""}
	if _, err := x.BeginRead(t.Context(), reader, open); err != nil {
		t.Errorf("in an open window: %v", err)
	}
	x.reads.owe(readKind{filter: "else"}, &counts{by: *reader, requests: 1})
	if _, err := x.BeginRead(t.Context(), reader, open); err == nil {
		t.Error("a read went on while counts of another kind are owed")
	}
	// The same kind's window is open, so its next read needs no new record; when that window cannot be recorded, reads fail.
	x.reads.finish(t.Context(), x.reads.windows[readKind{reader.ID, MainName, "read", "begun before"}])
	if _, err := x.BeginRead(t.Context(), reader, Read{MainName, "read", "begun before", ""}); err == nil {
		t.Error("a read went on while counts are owed")
	}
	for what, err := range map[string]error{
		"token": func() error {
			_, _, err := x.CreateToken(t.Context(), Local("test"), TokenSpec{Role: Reader})
			return err
		}(),
		"log":      func() error { _, err := x.CreateLog(t.Context(), Local("test"), LogSettings{Name: "new"}); return err }(),
		"settings": x.Update(t.Context(), Local("test"), TenantSettings{Name: DefaultName, Title: "new"}),
	} {
		if _, ok := errors.AsType[*RecordError](err); !ok {
			t.Errorf("%s: got %v, want a RecordError", what, err)
		}
	}
	if len(x.Tokens()) != 0 || len(x.Logs()) != 2 || x.Settings().Title != "" {
		t.Errorf("something was changed without a record: %v, %d logs, %+v", x.Tokens(), len(x.Logs()), x.Settings())
	}
}

func TestRevocationHappensWhereItCannotBeRecorded(t *testing.T) {
	in := open(t, t.TempDir())
	x := defaultTenant(t, in)
	plain, k, err := x.CreateToken(t.Context(), Local("test"), TokenSpec{Role: Reader})
	must(t, err)
	breakSystem(t, x)
	if err := x.RevokeToken(t.Context(), Local("test"), k.ID); err == nil {
		t.Error("nobody was told that the revocation is not recorded")
	}
	if _, err := in.Authenticate(t.Context(), plain); kind(err) != "revoked" {
		t.Errorf("got %v, want revoked", err)
	}
}

func TestBestEffortReadsGoOn(t *testing.T) {
	in := open(t, t.TempDir())
	x := defaultTenant(t, in)
	s := x.Settings()
	s.BestEffortReads = true
	must(t, x.Update(t.Context(), Local("test"), s))
	breakSystem(t, x)
	for i := range 5 {
		end, err := x.BeginRead(t.Context(), reader, Read{MainName, "read", fmt.Sprint(i), ""})
		must(t, err)
		end(1, nil)
	}
	for _, w := range x.reads.windows {
		x.reads.finish(t.Context(), w)
	}
	// What could not be recorded is owed, and paid as soon as it can be.
	if n := len(x.reads.owed); n != 5 {
		t.Fatalf("got %d owed, want 5", n)
	}
	end, err := x.BeginRead(t.Context(), reader, Read{MainName, "read", "again", ""})
	must(t, err)
	end(1, nil)
	log, err := immutable.Open(x.system.dir(), &immutable.Config{StateDir: in.o.StateDir + "/" + DefaultName, MustExist: true})
	must(t, err)
	x.system.Log = log
	must(t, x.reads.pay(t.Context()))
	if n, _, _, entries := sums(records(t, x, ReadEnd)); n != 5 || entries != 5 {
		t.Errorf("got %d requests with %d entries, want 5 of each", n, entries)
	}
}

// TestOwedCountsAreBounded owes more kinds than are kept; the rest is counted together.
func TestOwedCountsAreBounded(t *testing.T) {
	in := open(t, t.TempDir())
	x := defaultTenant(t, in)
	rs := &x.reads
	const beyond = 7
	for i := range maxWindows + beyond {
		rs.owe(readKind{reader.ID, MainName, "read", fmt.Sprint(i)}, &counts{by: *reader, requests: 1, ended: 1, entries: 2})
	}
	rs.owe(readKind{reader.ID, MainName, "read", "0"}, &counts{by: *reader, requests: 1, ended: 1, entries: 2}) // a known one
	if len(rs.owed) != maxWindows || rs.lost.requests != beyond || rs.lost.entries != 2*beyond {
		t.Errorf("got %d owed, %d requests counted together", len(rs.owed), rs.lost.requests)
	}
	rs.mu.Lock()
	for k := range rs.owed {
		if len(rs.owed) <= 3 {
			break
		}
		delete(rs.owed, k)
	}
	rs.mu.Unlock()
	must(t, rs.pay(t.Context()))
	got := records(t, x, ReadEnd)
	if len(got) != 4 || rs.debts() != 0 {
		t.Errorf("got %d records, want 3 and that of the others; %d owed", len(got), rs.debts())
	}
}

// TestKindsOfReadsWaitForRoom fills the windows to the limit: one more waits until its context ends, or a window does.
func TestKindsOfReadsWaitForRoom(t *testing.T) {
	in := open(t, t.TempDir())
	x := defaultTenant(t, in)
	rs := &x.reads
	rs.mu.Lock()
	for i := range maxWindows - 1 {
		rs.windows[readKind{filter: fmt.Sprint(i)}] = &window{}
	}
	rs.mu.Unlock()
	end, err := x.BeginRead(t.Context(), reader, Read{MainName, "read", "the last that fits", ""})
	must(t, err)
	end(1, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := x.BeginRead(ctx, reader, Read{MainName, "read", "one more", ""}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it waited", err)
	}
	rs.mu.Lock()
	if n := len(rs.windows); n != maxWindows {
		t.Errorf("got %d windows, want %d", n, maxWindows)
	}
	rs.mu.Unlock()
	done := make(chan error)
	go func() {
		_, err := x.BeginRead(t.Context(), reader, Read{MainName, "read", "one more", ""})
		done <- err
	}()
	rs.mu.Lock()
	w := rs.windows[readKind{reader.ID, MainName, "read", "the last that fits"}]
	rs.mu.Unlock()
	rs.finish(t.Context(), w)
	must(t, <-done)
	rs.mu.Lock()
	for k := range rs.windows {
		if k.principal == "" {
			delete(rs.windows, k)
		}
	}
	rs.mu.Unlock()
}

func TestLongFilterIsRecordedByItsHash(t *testing.T) {
	in := open(t, t.TempDir())
	x := defaultTenant(t, in)
	long := strings.Repeat("x", maxFilter+1)
	for _, f := range []string{long[1:], long, long + "y", "broken \xff text"} {
		end, err := x.BeginRead(t.Context(), reader, Read{MainName, "read", f, ""})
		must(t, err)
		end(0, nil)
	}
	got := records(t, x, ReadBegin)
	if len(got) != 4 || got[0].Filter != long[1:] || !strings.Contains(got[1].Filter, "1025 bytes, SHA-256") || got[1].Filter == got[2].Filter {
		t.Errorf("got %d records", len(got))
	}
}

// TestReaderCannotFillTheDisk reads in ever new ways: beyond a burst the rate decides, for this principal and not for another, and the record of
// the end does not repeat a long filter.
func TestReaderCannotFillTheDisk(t *testing.T) {
	in := open(t, t.TempDir())
	x := defaultTenant(t, in)
	rs := &x.reads
	rs.mu.Lock()
	for range kindsBurst {
		if later := rs.take("token:greedy"); later != 0 {
			t.Fatalf("the burst is over early: wait %s", later)
		}
	}
	if later := rs.take("token:greedy"); later <= 0 || later > time.Second/kindsPerSecond {
		t.Errorf("after the burst: wait %s, want at most %s", later, time.Second/kindsPerSecond)
	}
	if later := rs.take("token:modest"); later != 0 {
		t.Errorf("another principal waits %s", later)
	}
	for i := range maxReaders + 10 {
		rs.take(fmt.Sprint("token:", i))
	}
	if n := len(rs.rates); n > maxReaders {
		t.Errorf("%d principals are remembered, want at most %d", n, maxReaders)
	}
	greedy := *reader
	greedy.ID = "token:waits"
	rs.rates[greedy.ID] = &bucket{at: rs.t.in.now().Add(time.Hour)}
	rs.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	if _, err := x.BeginRead(ctx, &greedy, Read{MainName, "read", "new", ""}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want that it waited", err)
	}
	filter := strings.Repeat("a", shortFilter+1)
	end, err := x.BeginRead(t.Context(), reader, Read{MainName, "read", filter, ""})
	must(t, err)
	end(7, nil)
	must(t, rs.close(t.Context()))
	began, ended := records(t, x, ReadBegin), records(t, x, ReadEnd)
	if b := began[len(began)-1]; b.Filter != filter || b.FilterHash == "" {
		t.Errorf("began %+v", b)
	}
	if e := ended[len(ended)-1]; e.Filter != "" || e.FilterHash != began[len(began)-1].FilterHash {
		t.Errorf("ended %+v", e)
	}
}

// TestEveryActionIsDocumented compares the table with the page, both ways.
func TestEveryActionIsDocumented(t *testing.T) {
	rows := docTable(t, "action")
	if len(rows) != len(actions) {
		t.Errorf("got %d documented actions, want %d", len(rows), len(actions))
	}
	for i, row := range rows {
		if i < len(actions) && (row[0] != string(actions[i].action) || row[1] != actions[i].level.String()) {
			t.Errorf("row %d: got %s %s, want %s %s", i, row[0], row[1], actions[i].action, actions[i].level)
		}
	}
	in := open(t, t.TempDir())
	x := defaultTenant(t, in)
	for _, a := range actions {
		must(t, x.Record(t.Context(), reader, a.action, immutable.Fields{"n": 1}))
		if got := records(t, x, a.action); len(got) == 0 || got[len(got)-1].level != a.level || got[len(got)-1].By.ID != reader.ID {
			t.Errorf("%s: got %+v", a.action, got)
		}
	}
	if err := x.Record(t.Context(), nil, "no.such", nil); err == nil {
		t.Error("an unknown action was recorded")
	}
	if err := x.Record(t.Context(), nil, LogOpen, immutable.Fields{"by": "somebody else"}); err == nil {
		t.Error("a record claims to be by somebody else")
	}
}

// TestLifeIsInTheLogOfTheLog does what an installation goes through and reads what became of it.
func TestLifeIsInTheLogOfTheLog(t *testing.T) {
	dir := t.TempDir()
	in := open(t, dir, signed)
	_, _, err := in.Bootstrap(t.Context(), "")
	must(t, err)
	admin := &Principal{ID: "token:admin", Role: Admin}
	x, err := in.CreateTenant(t.Context(), admin, TenantSettings{Name: "x"})
	must(t, err)
	l, err := x.CreateLog(t.Context(), admin, LogSettings{Name: "l"})
	must(t, err)
	_, k, err := x.CreateToken(t.Context(), admin, TokenSpec{Name: "n", Role: Reader})
	must(t, err)
	must(t, x.RevokeToken(t.Context(), admin, k.ID))
	must(t, l.Update(t.Context(), admin, LogSettings{Name: "l", Title: "new"}))
	must(t, x.Update(t.Context(), admin, TenantSettings{Name: "x", Title: "new"}))
	events := make([]immutable.Event, 300)
	for i := range events {
		events[i] = immutable.Event{Message: "m"}
	}
	_, err = l.AppendAs(t.Context(), admin, events...)
	must(t, err)
	must(t, l.Rotate(t.Context()))
	must(t, l.RotateKeys(t.Context()))
	in.lookAll(false)
	in.lookAll(false) // nothing new
	must(t, in.NoteConfig(t.Context(), []byte(`{"listen":"a"}`)))
	must(t, in.NoteConfig(t.Context(), []byte(`{"listen":"a"}`)))
	must(t, in.NoteConfig(t.Context(), []byte(`{"listen":"b"}`)))
	must(t, in.Close(t.Context()))

	in = open(t, dir)
	x, err = in.Tenant("x")
	must(t, err)
	var got []string
	for _, r := range records(t, x) {
		got = append(got, r.Action)
	}
	want := []string{
		"tenant.create", "log.open", "log.create", "token.create", "token.revoke", "log.update", "tenant.update",
		"log.seal", "keys.rotate", "service.stop",
		"service.start", "log.open", "log.open",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if s := records(t, x, LogSeal); len(s) != 1 || s[0].Log != "l" || s[0].Segments != 1 {
		t.Errorf("seal: got %+v", s)
	}
	if s := records(t, x, KeysRotate); len(s) != 1 || s[0].Epoch != 1 {
		t.Errorf("keys: got %+v", s)
	}
	if s := records(t, in.System(), ConfigChange); len(s) != 2 || !strings.Contains(s[1].raw, `"before":{"listen":"a"}`) {
		t.Errorf("configuration: got %+v", s)
	}
	if s := records(t, in.System(), TenantCreate); len(s) != 1 || s[0].By.ID != "token:admin" {
		t.Errorf("tenant: got %+v", s)
	}
	if s := records(t, in.System(), TokenCreate); len(s) != 1 || s[0].level != immutable.Security {
		t.Errorf("first administrator: got %+v", s)
	}
}

func TestUnopenableLogLeavesTheRest(t *testing.T) {
	dir := t.TempDir()
	in := open(t, dir)
	x := defaultTenant(t, in)
	for _, name := range []string{"damaged", "gone", "settings"} {
		l, err := x.CreateLog(t.Context(), Local("test"), LogSettings{Name: name})
		must(t, err)
		_, err = l.AppendAs(t.Context(), Local("test"), immutable.Event{Message: "m"})
		must(t, err)
	}
	logs := x.path(logsDir)
	must(t, in.Close(t.Context()))
	file := logs + "/damaged/immutable.log"
	must(t, os.Chmod(file, 0o600))
	data, err := os.ReadFile(file)
	must(t, err)
	must(t, os.WriteFile(file, []byte(strings.Replace(string(data), `"m"`, `"x"`, 1)), 0o600))
	must(t, os.RemoveAll(logs+"/gone"))
	must(t, os.WriteFile(logs+"/settings.json", []byte("{"), 0o600))
	must(t, os.Remove(logs+"/"+MainName+".json"))
	must(t, os.Mkdir(logs+"/nothing", 0o700))
	must(t, os.MkdirAll(dir+"/tenants/broken/logs/x", 0o700))

	in = open(t, dir)
	x = defaultTenant(t, in)
	l, err := x.Log(MainName)
	must(t, err)
	_, err = l.AppendAs(t.Context(), Local("test"), immutable.Event{Message: "goes on"})
	must(t, err)
	for _, name := range []string{"damaged", "settings"} { // readable
		l, err := x.Log(name)
		must(t, err)
		if l.Err() == nil {
			t.Errorf("%s: got no error", name)
		}
		if _, err := l.AppendAs(t.Context(), Local("test"), immutable.Event{Message: "m"}); !isUnavailable(err) {
			t.Errorf("append to %s: got %v", name, err)
		}
	}
	if _, err := x.Log("gone"); !isUnavailable(err) {
		t.Errorf("gone: got %v", err)
	}
	if _, err := x.Log("nothing"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a directory that is no log: got %v", err)
	}
	if got := records(t, x, LogUnavailable); len(got) != 3 || got[0].level != immutable.Critical || got[0].Error == "" {
		t.Errorf("got %+v, want three", got)
	}
	b, err := in.Tenant("broken")
	must(t, err)
	if _, err := b.Log("x"); !isUnavailable(err) || !isUnavailable(b.Err()) {
		t.Errorf("a tenant without its settings: got %v", err)
	}
	if _, err := b.CreateLog(t.Context(), Local("test"), LogSettings{Name: "y"}); !isUnavailable(err) {
		t.Errorf("a log in it: got %v", err)
	}
	if _, err := in.CreateTenant(t.Context(), Local("test"), TenantSettings{Name: "broken"}); !errors.Is(err, ErrExists) {
		t.Errorf("another of its name: got %v", err)
	}
}

func isUnavailable(err error) bool {
	_, ok := errors.AsType[*UnavailableError](err)
	return ok
}

func TestSecondProcessIsRefused(t *testing.T) {
	dir := t.TempDir()
	in := open(t, dir)
	_, err := Open(t.Context(), Options{Dir: dir})
	if _, ok := errors.AsType[*vfs.LockedError](err); !ok {
		t.Errorf("got %v, want a LockedError", err)
	}
	must(t, in.Close(t.Context()))
	open(t, dir)
}

func TestFilesOfOthersStayInTheirTenant(t *testing.T) {
	in := open(t, t.TempDir())
	x := defaultTenant(t, in)
	if _, err := x.ReadFile("alerts.json"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	must(t, x.WriteFile("alerts.json", []byte("{}")))
	got, err := x.ReadFile("alerts.json")
	if string(got) != "{}" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	for _, name := range []string{"", ".json", "../x.json", "a/b.json", tenantName, tokensName, "alerts", "logs/main.json", `a\b.json`} {
		if x.WriteFile(name, nil) == nil {
			t.Errorf("%q was written", name)
		}
		if _, err := x.ReadFile(name); err == nil {
			t.Errorf("%q was read", name)
		}
	}
	if err := x.WriteFile("alerts.json", make([]byte, maxSettings+1)); err == nil {
		t.Error("a file over the limit was written")
	}
	must(t, x.WriteFile("alerts.json", make([]byte, maxSettings)))
}

func TestEveryLogIsAnnouncedOnce(t *testing.T) {
	in := open(t, t.TempDir())
	seen := map[string]int{}
	in.OnLog(func(l *Log) { seen[l.Tenant().Name()+"/"+l.Name()]++ })
	x, err := in.CreateTenant(t.Context(), Local("test"), TenantSettings{Name: "x"})
	must(t, err)
	_, err = x.CreateLog(t.Context(), Local("test"), LogSettings{Name: "l"})
	must(t, err)
	for _, name := range []string{"default/main", "default/system", "system/system", "x/system", "x/l"} {
		if seen[name] != 1 {
			t.Errorf("%s: got %d times", name, seen[name])
		}
	}
	if len(seen) != 5 {
		t.Errorf("got %v", seen)
	}
}
