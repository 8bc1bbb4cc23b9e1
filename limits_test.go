package immutable

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
)

// paddedEvent is an event whose line has exactly n bytes in a log with the hostname "host".
func paddedEvent(t *testing.T, l *Log, n int) Event {
	t.Helper()
	e := Event{Message: "padded", PID: 1}
	req, err := l.encode([]Event{e})
	must(t, err)
	e.Message += strings.Repeat("x", n-(len(req.lines)-1))
	return e
}

func openDisk(t *testing.T, d *vfstest.Disk) *Log {
	t.Helper()
	cfg := diskConfig(d, newClock())
	cfg.RotateSize = 64 << 20
	l, err := Open(diskDir, cfg)
	must(t, err)
	return l
}

// TestBatchLimits appends batches at each limit and one past it.
func TestBatchLimits(t *testing.T) {
	ctx := context.Background()
	d := vfstest.New()
	l := openDisk(t, d)
	small := make([]Event, MaxBatchEntries+1)
	if _, err := l.Append(ctx, small...); !errors.Is(err, ErrTooLarge) {
		t.Errorf("%d events: %v, want %v", len(small), err, ErrTooLarge)
	}
	if l.Size() != 0 {
		t.Fatalf("size %d after a refused batch", l.Size())
	}
	rs, err := l.Append(ctx, small[:MaxBatchEntries]...)
	must(t, err)
	if len(rs) != MaxBatchEntries || l.Size() != MaxBatchEntries {
		t.Errorf("%d receipts, size %d", len(rs), l.Size())
	}
	// 256 entries of 65,535 bytes and their newlines are 16 MiB exactly: the commit line does not fit any more.
	big := make([]Event, 256)
	for i := range big {
		big[i] = paddedEvent(t, l, MaxEntryBytes)
	}
	if _, err := l.Append(ctx, big...); !errors.Is(err, ErrTooLarge) {
		t.Errorf("16 MiB of entries: %v, want %v", err, ErrTooLarge)
	}
	big[255] = paddedEvent(t, l, MaxEntryBytes-(MaxBatchBytes-maxBatchLines))
	_, err = l.Append(ctx, big...)
	must(t, err)
	big[255] = paddedEvent(t, l, MaxEntryBytes-(MaxBatchBytes-maxBatchLines)+1)
	if _, err := l.Append(ctx, big...); !errors.Is(err, ErrTooLarge) {
		t.Errorf("one byte more: %v, want %v", err, ErrTooLarge)
	}
	size := l.Size()
	after := d.Clone() // killed: a batch of the largest size is read back
	must(t, l.Close())
	l = openDisk(t, after)
	if l.Size() != size {
		t.Errorf("size %d after a kill, want %d", l.Size(), size)
	}
	must(t, l.Close())
	wantVerified(t, after)
}

// TestIncompleteBatchOfTheLargestSizeIsMovedAside kills a writer in its largest batch.
func TestIncompleteBatchOfTheLargestSizeIsMovedAside(t *testing.T) {
	d := vfstest.New()
	l := openDisk(t, d)
	fill(t, l, 3, 3)
	big := make([]Event, 256)
	for i := range big {
		big[i] = paddedEvent(t, l, MaxEntryBytes)
	}
	big[255] = paddedEvent(t, l, MaxEntryBytes-(MaxBatchBytes-maxBatchLines))
	var after *vfstest.Disk
	d.SetFail(func(op vfstest.Op) error {
		if op.Kind == vfstest.OpSync && op.Name == diskDir+"/"+openName {
			after = d.Clone()
		}
		return nil
	})
	_, err := l.Append(context.Background(), big...)
	must(t, err)
	d.SetFail(nil)
	must(t, l.Close())
	data, err := after.ReadFileRaw(diskDir + "/" + openName)
	must(t, err)
	must(t, after.WriteFileRaw(diskDir+"/"+openName, data[:len(data)-1]))
	l = openDisk(t, after)
	if l.Size() != 4 {
		t.Errorf("size %d, want 3 entries and the one that names what was moved aside", l.Size())
	}
	must(t, l.Close())
	wantVerified(t, after)
}

// TestEntryLimits appends entries of the largest size and one byte more.
func TestEntryLimits(t *testing.T) {
	ctx := context.Background()
	d := vfstest.New()
	l := openDisk(t, d)
	largest := paddedEvent(t, l, MaxEntryBytes)
	_, err := l.Append(ctx, largest)
	must(t, err)
	if _, err := l.Append(ctx, paddedEvent(t, l, MaxEntryBytes+1)); err == nil {
		t.Error("an entry of 65,536 bytes was taken")
	}
	if _, err := l.Append(ctx, event(0), paddedEvent(t, l, MaxEntryBytes+1)); err == nil || !strings.Contains(err.Error(), "event 1") {
		t.Errorf("in a batch: %v, want event 1 named", err)
	}
	e, err := l.Entry(ctx, 0)
	must(t, err)
	if len(e.Line) != MaxEntryBytes || e.Message != largest.Message || l.Size() != 1 {
		t.Errorf("line of %d bytes, size %d", len(e.Line), l.Size())
	}
	must(t, l.Close())
	wantVerified(t, d)
}

// TestRefusedAppendsWriteNothing tries what Append must refuse.
func TestRefusedAppendsWriteNothing(t *testing.T) {
	ctx := context.Background()
	d := vfstest.New()
	l := openDisk(t, d)
	fill(t, l, 1, 1)
	ops := d.Ops()
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	for range 20 {
		if _, err := l.Append(cancelled, event(1)); !errors.Is(err, context.Canceled) || errors.Is(err, ErrUncertain) {
			t.Errorf("cancelled before: %v, want %v and not %v", err, context.Canceled, ErrUncertain)
		}
		if _, err := l.Append(cancelled, Event{Message: "m", IdempotencyKey: "k"}); !errors.Is(err, context.Canceled) || errors.Is(err, ErrUncertain) {
			t.Errorf("cancelled before, with a key: %v, want %v and not %v", err, context.Canceled, ErrUncertain)
		}
	}
	if _, err := l.Append(ctx, Event{Level: System, Log: []byte(`{"type":"clock","was":"","now":""}`)}); err == nil {
		t.Error("a control entry of a caller was taken")
	}
	if rs, err := l.Append(ctx); rs != nil || err != nil {
		t.Errorf("no events: %v, %v", rs, err)
	}
	if _, err := l.Append(ctx, Event{Message: "bad \xff"}); err == nil {
		t.Error("invalid UTF-8 was taken")
	}
	if l.Size() != 1 || d.Ops() != ops {
		t.Errorf("size %d, %d changes", l.Size(), d.Ops()-ops)
	}
	must(t, l.Close())
	ops = d.Ops()
	if _, err := l.Append(ctx, event(1)); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v, want %v", err, ErrClosed)
	}
	if _, err := l.Append(ctx, Event{Message: "m", IdempotencyKey: "k"}); !errors.Is(err, ErrClosed) {
		t.Errorf("closed, with a key: %v, want %v", err, ErrClosed)
	}
	for name, f := range map[string]func() error{
		"close":  l.Close,
		"rotate": func() error { return l.Rotate(ctx) },
		"reset":  func() error { _, _, err := l.ResetClock(ctx); return err },
		"entry":  func() error { _, err := l.Entry(ctx, 0); return err },
		"stats":  func() error { _, err := l.Stats(ctx); return err },
		"proof":  func() error { _, err := l.InclusionProof(ctx, 0, 0); return err },
	} {
		if err := f(); !errors.Is(err, ErrClosed) {
			t.Errorf("%s on a closed log: %v, want %v", name, err, ErrClosed)
		}
	}
	if d.Ops() != ops {
		t.Error("calls on a closed log changed the disk")
	}
}

// blockSync lets the next sync of immutable.log wait until release is called. entered is closed when it waits.
func blockSync(d *vfstest.Disk) (entered chan struct{}, release func()) {
	entered, gate := make(chan struct{}), make(chan struct{})
	var once sync.Once
	d.SetFailSync(func(op vfstest.Op) error {
		if op.Name == diskDir+"/"+openName {
			once.Do(func() { close(entered) })
			<-gate
		}
		return nil
	})
	return entered, sync.OnceFunc(func() { close(gate) })
}

// TestCallersWaitWhileTheDiskIsBehind fills the pool while a sync hangs: further callers wait, are never turned away, and
// honour their context; what was admitted is committed once.
func TestCallersWaitWhileTheDiskIsBehind(t *testing.T) {
	ctx := context.Background()
	d := vfstest.New()
	l := openDisk(t, d)
	fill(t, l, 1, 1)
	entered, release := blockSync(d)
	defer release()
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := l.Append(ctx, event(0)); err != nil {
			t.Error(err)
		}
	})
	<-entered
	big := make([]Event, 130)
	for i := range big {
		big[i] = paddedEvent(t, l, MaxEntryBytes)
	}
	const callers = 3
	for range callers {
		wg.Go(func() {
			if rs, err := l.Append(ctx, big...); err != nil || len(rs) != len(big) {
				t.Error(err)
			}
		})
	}
	full := func() bool {
		_, n := l.w.pool.waiting()
		return n+len(big)*(MaxEntryBytes+1) > poolBytes
	}
	for !full() {
		s, err := l.Stats(ctx) // reading goes on meanwhile
		must(t, err)
		if s.TotalEntries != 1 {
			t.Fatalf("size %d while the first sync hangs", s.TotalEntries)
		}
	}
	short, cancel := context.WithCancel(ctx)
	waiting := make(chan error, 1)
	go func() {
		_, err := l.Append(short, big...)
		waiting <- err
	}()
	cancel()
	if err := <-waiting; !errors.Is(err, context.Canceled) || errors.Is(err, ErrUncertain) {
		t.Errorf("cancelled while waiting to be admitted: %v, want %v and not %v", err, context.Canceled, ErrUncertain)
	}
	release()
	wg.Wait()
	if got, want := l.Size(), uint64(2+callers*len(big)); got != want {
		t.Errorf("size %d, want %d", got, want)
	}
	must(t, l.Close())
	wantVerified(t, d)
}

// TestCancelledWhileCommittingIsUncertain stops waiting for a batch that is on its way.
func TestCancelledWhileCommittingIsUncertain(t *testing.T) {
	d := vfstest.New()
	l := openDisk(t, d)
	fill(t, l, 1, 1)
	entered, release := blockSync(d)
	defer release()
	ctx, cancel := context.WithCancel(context.Background())
	got := make(chan error, 1)
	go func() {
		_, err := l.Append(ctx, event(1))
		got <- err
	}()
	<-entered
	cancel()
	if err := <-got; !errors.Is(err, ErrUncertain) || !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want %v and %v", err, ErrUncertain, context.Canceled)
	}
	release()
	must(t, l.Close())
	l = openDisk(t, d)
	if l.Size() != 2 {
		t.Errorf("size %d, want 2: what was admitted is committed", l.Size())
	}
	must(t, l.Close())
}

// TestHostileTextComesBackExactly appends messages that look like the log's own lines.
func TestHostileTextComesBackExactly(t *testing.T) {
	d := vfstest.New()
	l := openDisk(t, d)
	texts := []string{
		`{"commit":{"size":1}}`, "\n" + `{"commit":{"size":1,"chain":"","root":""}}` + "\n", "\x00\x1b[31m", "\u2028\u2029", "\ufeff",
		strings.Repeat("\\", 999), "{\"id\":\"", "\r\n", "\U0010ffff", "", " ",
	}
	for i, s := range texts {
		r, err := l.Append(context.Background(), Event{Message: s, Metadata: Fields{s: s}})
		must(t, err)
		e, err := l.Entry(context.Background(), r[0].Index)
		must(t, err)
		if e.Message != s || bytes.ContainsAny(e.Line, "\n\r\x00\x1b") {
			t.Errorf("text %d: got %q as %s, want %q", i, e.Message, e.Line, s)
		}
	}
	must(t, l.Close())
	wantVerified(t, d)
}
