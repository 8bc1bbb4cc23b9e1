package immutable

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable/internal/index"
	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
)

func keyed(key, message string) Event {
	return Event{Level: Audit, Message: message, Metadata: Fields{"message": message}, IdempotencyKey: key}
}

// sameReceipt ignores Repeated, which wantRepeated says.
func sameReceipt(t *testing.T, got, want Receipt, wantRepeated bool) {
	t.Helper()
	if got.Repeated != wantRepeated {
		t.Errorf("entry %d: repeated %v, want %v", got.Index, got.Repeated, wantRepeated)
	}
	got.Repeated, want.Repeated = false, false
	if got != want {
		t.Errorf("receipt %+v, want %+v", got, want)
	}
}

// TestRepeatGetsTheFirstReceipt repeats appends: at once, after a restart, after rotation, from the index of a sealed
// segment and after a kill.
func TestRepeatGetsTheFirstReceipt(t *testing.T) {
	ctx := context.Background()
	d, c := vfstest.New(), newClock()
	open := func(d *vfstest.Disk) *Log {
		l, err := Open(diskDir, diskConfig(d, c))
		must(t, err)
		return l
	}
	l := open(d)
	first := map[string]Receipt{}
	for i := range 300 {
		key := fmt.Sprint("key ", i)
		rs, err := l.Append(ctx, keyed(key, key))
		must(t, err)
		first[key] = rs[0]
	}
	repeat := func(l *Log, when string) {
		size := l.Size()
		for _, i := range []int{0, 1, 100, 255, 256, 299} {
			key := fmt.Sprint("key ", i)
			rs, err := l.Append(ctx, keyed(key, key))
			if err != nil {
				t.Fatalf("%s: %v", when, err)
			}
			sameReceipt(t, rs[0], first[key], true)
			if at, found, err := l.FindKey(ctx, key); at != first[key].Index || !found || err != nil {
				t.Errorf("%s: the key is found %t at %d, %v; want entry %d", when, found, at, err, first[key].Index)
			}
			if at, found, err := l.FindKey(ctx, key+"x"); found || err != nil {
				t.Errorf("%s: a key that nobody used is found at %d, %v", when, at, err)
			}
			var conflict *KeyConflictError
			if _, err := l.Append(ctx, keyed(key, "other")); !errors.As(err, &conflict) || conflict.Key != key || conflict.Index != first[key].Index {
				t.Errorf("%s: other content: %v, want a conflict with entry %d", when, err, first[key].Index)
			}
		}
		if l.Size() != size {
			t.Errorf("%s: size %d, want %d as before", when, l.Size(), size)
		}
	}
	repeat(l, "at once")
	must(t, l.Close())
	l = open(d)
	repeat(l, "after a restart")
	must(t, l.Rotate(ctx))
	repeat(l, "after rotation")
	killed := d.Clone()
	must(t, l.Close())
	l = open(d)
	if l.indexFor(0) == nil {
		t.Fatal("no index of the sealed segment")
	}
	repeat(l, "from the index")
	must(t, l.Close())
	must(t, d.Remove(diskDir+"/index/00000000000000000000.idx"))
	l = open(d)
	repeat(l, "without an index")
	must(t, l.Close())
	l = open(killed)
	repeat(l, "after a kill")
	must(t, l.Close())
}

// TestRepeatsInOneBatch mixes new events, repeats of entries and repeats within the batch.
func TestRepeatsInOneBatch(t *testing.T) {
	ctx := context.Background()
	l := openDisk(t, vfstest.New())
	old, err := l.Append(ctx, keyed("old", "old"))
	must(t, err)
	rs, err := l.Append(ctx, keyed("a", "a"), event(0), keyed("old", "old"), keyed("a", "a"), keyed("b", "b"), keyed("a", "a"), event(0))
	must(t, err)
	if l.Size() != 5 {
		t.Errorf("size %d, want 5", l.Size())
	}
	var indexes []uint64
	for _, r := range rs {
		indexes = append(indexes, r.Index)
	}
	if want := []uint64{1, 2, 0, 1, 3, 1, 4}; !slices.Equal(indexes, want) {
		t.Errorf("indexes %d, want %d", indexes, want)
	}
	sameReceipt(t, rs[0], rs[0], false)
	sameReceipt(t, rs[2], old[0], true)
	sameReceipt(t, rs[3], rs[0], true)
	sameReceipt(t, rs[5], rs[0], true)
	// A conflict anywhere leaves nothing of the batch, and its keys are free again.
	var conflict *KeyConflictError
	if _, err := l.Append(ctx, keyed("c", "c"), keyed("c", "d")); !errors.As(err, &conflict) || conflict.Event != 1 {
		t.Errorf("conflict within a batch: %v", err)
	}
	if _, err := l.Append(ctx, keyed("c", "c"), keyed("old", "new")); !errors.As(err, &conflict) || conflict.Event != 1 || conflict.Index != 0 {
		t.Errorf("conflict with an entry: %v", err)
	}
	if l.Size() != 5 {
		t.Errorf("size %d after conflicts, want 5", l.Size())
	}
	rs, err = l.Append(ctx, keyed("c", "d"))
	must(t, err)
	if rs[0].Index != 5 || rs[0].Repeated {
		t.Errorf("receipt %+v, want entry 5, new", rs[0])
	}
	must(t, l.Close())
}

// TestRepeatOfAnAppendInFlightWaitsForIt repeats a key whose first append is on its way to a disk that hangs.
func TestRepeatOfAnAppendInFlightWaitsForIt(t *testing.T) {
	ctx := context.Background()
	d := vfstest.New()
	l := openDisk(t, d)
	fill(t, l, 1, 1)
	entered, release := blockSync(d)
	defer release()
	got := make(chan Receipt, 3)
	var wg sync.WaitGroup
	try := func() {
		rs, err := l.Append(ctx, keyed("k", "m"))
		if err != nil {
			t.Error(err)
			return
		}
		got <- rs[0]
	}
	wg.Go(try)
	<-entered
	wg.Go(try)
	wg.Go(try)
	short, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := l.Append(short, keyed("k", "m")); !errors.Is(err, context.Canceled) || errors.Is(err, ErrUncertain) {
		t.Errorf("cancelled while waiting for the first: %v", err)
	}
	release()
	wg.Wait()
	close(got)
	repeats := 0
	for r := range got {
		if r.Index != 1 {
			t.Errorf("receipt %+v, want entry 1", r)
		}
		if r.Repeated {
			repeats++
		}
	}
	if repeats != 2 || l.Size() != 2 {
		t.Errorf("%d repeats, size %d, want 2 and 2", repeats, l.Size())
	}
	must(t, l.Close())
}

// TestUncertainAppendIsSettledByItsKey cancels an append under way, then repeats it: in the same session, and in the next
// one after the sync failed.
func TestUncertainAppendIsSettledByItsKey(t *testing.T) {
	ctx := context.Background()
	d := vfstest.New()
	l := openDisk(t, d)
	fill(t, l, 1, 1)
	entered, release := blockSync(d)
	defer release()
	short, cancel := context.WithCancel(ctx)
	failed := make(chan error, 1)
	go func() {
		_, err := l.Append(short, keyed("k", "m"))
		failed <- err
	}()
	<-entered
	cancel()
	if err := <-failed; !errors.Is(err, ErrUncertain) {
		t.Errorf("cancelled under way: %v, want %v", err, ErrUncertain)
	}
	release()
	rs, err := l.Append(ctx, keyed("k", "m"))
	must(t, err)
	if rs[0].Index != 1 || !rs[0].Repeated {
		t.Errorf("receipt %+v, want entry 1 repeated", rs[0])
	}
	d.SetFailSync(func(op vfstest.Op) error {
		if op.Name == diskDir+"/"+openName {
			return errFault
		}
		return nil
	})
	if _, err := l.Append(ctx, keyed("q", "m")); !errors.Is(err, ErrUncertain) {
		t.Errorf("failed sync: %v, want %v", err, ErrUncertain)
	}
	if _, err := l.Append(ctx, keyed("q", "m")); !errors.Is(err, ErrWriterFailed) {
		t.Errorf("after the failed sync: %v, want %v", err, ErrWriterFailed)
	}
	d.SetFailSync(nil)
	_ = l.Close() // the writer has ended
	for kind := range cutKinds {
		after := cut(d, kind, vfstest.NewRand(uint64(kind)))
		l = openDisk(t, after)
		size := l.Size()
		rs, err = l.Append(ctx, keyed("q", "m"))
		must(t, err)
		if rs[0].Repeated != (l.Size() == size) {
			t.Errorf("%s: receipt %+v, size %d, then %d", cutKinds[kind], rs[0], size, l.Size())
		}
		must(t, l.Close())
	}
}

// TestFailedFirstAppendFreesItsKey fails the first append of a key for lack of space while another waits for it.
func TestFailedFirstAppendFreesItsKey(t *testing.T) {
	ctx := context.Background()
	d := vfstest.New()
	l := openDisk(t, d)
	fill(t, l, 1, 1)
	entered, gate := make(chan struct{}), make(chan struct{})
	var once sync.Once
	d.SetFail(func(op vfstest.Op) error {
		if op.Kind != vfstest.OpWrite || op.Name != diskDir+"/"+openName {
			return nil
		}
		var err error
		once.Do(func() {
			close(entered)
			<-gate
			err = syscall.ENOSPC
		})
		return err
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := l.Append(ctx, keyed("k", "m")); !errors.Is(err, ErrNoSpace) {
			t.Errorf("first: %v, want %v", err, ErrNoSpace)
		}
	})
	<-entered
	wg.Go(func() {
		rs, err := l.Append(ctx, keyed("k", "m"))
		if err != nil || rs[0].Index != 1 || rs[0].Repeated {
			t.Errorf("second: %+v, %v, want entry 1, new", rs, err)
		}
	})
	close(gate)
	wg.Wait()
	must(t, l.Close())
}

// TestBatchesWithCrossedKeysDoNotDeadlock appends batches whose keys overlap in any order from many goroutines: each key
// is written once, and all get the same receipt.
func TestBatchesWithCrossedKeysDoNotDeadlock(t *testing.T) {
	ctx := context.Background()
	d := vfstest.New()
	l := openDisk(t, d)
	rng := vfstest.Rand(t)
	const keys = 40
	var mu sync.Mutex
	seen := map[string]Receipt{}
	var wg sync.WaitGroup
	for range 8 {
		r := vfstest.NewRand(rng.Uint64())
		wg.Go(func() {
			for range 30 {
				var batch []Event
				for range 1 + r.IntN(6) {
					key := fmt.Sprint("key ", r.IntN(keys))
					batch = append(batch, keyed(key, key))
				}
				rs, err := l.Append(ctx, batch...)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				for i := range rs {
					key := batch[i].IdempotencyKey
					rs[i].Repeated = false
					if first, ok := seen[key]; ok && first != rs[i] {
						t.Errorf("%s: %+v, and %+v before", key, rs[i], first)
					}
					seen[key] = rs[i]
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if int(l.Size()) != len(seen) {
		t.Errorf("%d entries for %d keys", l.Size(), len(seen))
	}
	must(t, l.Close())
	wantVerified(t, d)
}

// TestKeysAreForgottenAfterTheWindow repeats a key just within 24 hours and just after, also after a restart.
func TestKeysAreForgottenAfterTheWindow(t *testing.T) {
	ctx := context.Background()
	for _, restart := range []bool{false, true} {
		d, c := vfstest.New(), newClock()
		open := func() *Log {
			l, err := Open(diskDir, epochConfig(d, c, 3))
			must(t, err)
			return l
		}
		l := open()
		rs, err := l.Append(ctx, keyed("k", "m"))
		must(t, err)
		fill(t, l, 600, 100)
		again := func(after time.Duration) Receipt {
			c.mu.Lock()
			c.t, c.step = rs[0].Timestamp.Add(after), 0
			c.mu.Unlock()
			if restart {
				must(t, l.Close())
				l = open()
			}
			r, err := l.Append(ctx, keyed("k", "m"))
			must(t, err)
			return r[0]
		}
		sameReceipt(t, again(idempotencyWindow), rs[0], true)
		if r := again(idempotencyWindow + 1); r.Repeated || r.Index != 601 {
			t.Errorf("restart %v: after the window %+v, want a new entry", restart, r)
		}
		must(t, l.Close())
	}
}

// TestKeyTableHoldsAMillionKeys fills the table directly.
func TestKeyTableHoldsAMillionKeys(t *testing.T) {
	var table keyTable
	table.slots = map[[16]byte]*flight{}
	add := func(n int) [16]byte {
		f := &flight{table: &table, key: index.KeyHash(fmt.Sprint(n)), done: make(chan struct{})}
		table.slots[f.key] = f
		f.land(Receipt{Index: uint64(n), Timestamp: time.Unix(1, 0)})
		return f.key
	}
	first := add(0)
	for n := 1; n < idempotencyKeys; n++ {
		add(n)
	}
	if table.slots[first] == nil || len(table.slots) != idempotencyKeys {
		t.Errorf("%d keys, the first is there: %v", len(table.slots), table.slots[first] != nil)
	}
	last := add(idempotencyKeys)
	if table.slots[first] != nil || table.slots[last] == nil || len(table.slots) != idempotencyKeys || len(table.queue) != idempotencyKeys {
		t.Errorf("one more: %d keys, the first is there: %v", len(table.slots), table.slots[first] != nil)
	}
}
