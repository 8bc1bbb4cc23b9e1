package immutable

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/producer"
	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
)

func newProducer(t *testing.T, algorithm string) *Producer {
	t.Helper()
	p, err := NewProducer(filepath.Join(t.TempDir(), "billing.key"), "billing.example.com", algorithm)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// producedLog is a log with a registered producer on a fake disk.
func producedLog(t *testing.T, disk *vfstest.Disk, p *Producer) *Log {
	t.Helper()
	l, err := Open(diskDir, diskConfig(disk, newClock()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.RegisterProducer(context.Background(), p.Key()); err != nil {
		t.Fatal(err)
	}
	return l
}

// counters reads the counters of the good signatures in the log, in its order. Any bad one, and any used twice, is an error.
func counters(t *testing.T, l *Log, key string) (list []uint64) {
	t.Helper()
	k, err := producer.ParseKey(key)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[uint64]bool{}
	for e, err := range l.Entries(context.Background(), Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Producer == nil {
			continue
		}
		if !k.Verify(l.Origin(), *e.Producer, entry.SignedContent(e.Line)) {
			t.Fatalf("entry %d: bad signature: %s", e.Index, e.Line)
		}
		if seen[e.Producer.Counter] {
			t.Fatalf("entry %d: counter %d is used twice", e.Index, e.Producer.Counter)
		}
		seen[e.Producer.Counter] = true
		list = append(list, e.Producer.Counter)
	}
	return list
}

// gaps lists the counters below the highest that are missing.
func gaps(list []uint64) (missing []uint64) {
	list = slices.Sorted(slices.Values(list))
	next := uint64(1)
	for _, c := range list {
		for ; next < c; next++ {
			missing = append(missing, next)
		}
		next = c + 1
	}
	return missing
}

func TestSignedEventsAreNumberedWithoutGaps(t *testing.T) {
	for _, algorithm := range []string{ProducerEd25519, ProducerMLDSA44} {
		p := newProducer(t, algorithm)
		l := producedLog(t, vfstest.New(), p)
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for k := range 5 {
					if _, err := l.AppendSigned(context.Background(), p, events(i*100+k*10, 1+k)...); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if got := counters(t, l, p.Key()); len(got) != 8*15 || gaps(got) != nil {
			t.Errorf("%s: %d signed, missing %v", algorithm, len(got), gaps(got))
		}
		for _, err := range []error{p.Close(), l.Close()} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// What does not come into the log takes no number: events that the format refuses, key conflicts, repeats.
func TestRefusedEventsLeaveNoGap(t *testing.T) {
	p := newProducer(t, ProducerEd25519)
	l := producedLog(t, vfstest.New(), p)
	ctx := context.Background()
	keyed := Event{Message: "paid", IdempotencyKey: "invoice 1"}
	first, err := l.AppendSigned(ctx, p, keyed)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		again, err := l.AppendSigned(ctx, p, keyed)
		if err != nil || !again[0].Repeated || again[0].Index != first[0].Index {
			t.Fatalf("got %+v, %v", again, err)
		}
	}
	// Twice in one batch, beside a fresh one.
	rs, err := l.AppendSigned(ctx, p, Event{Message: "a"}, Event{Message: "b", IdempotencyKey: "k"}, Event{Message: "b", IdempotencyKey: "k"}, keyed, Event{Message: "c"})
	if err != nil || rs[0].Repeated || rs[1].Repeated || !rs[2].Repeated || !rs[3].Repeated || rs[4].Repeated {
		t.Fatalf("got %+v, %v", rs, err)
	}
	if got := counters(t, l, p.Key()); !slices.Equal(got, []uint64{1, 2, 3, 4}) {
		t.Errorf("repeats took numbers: %v", got)
	}
	var conflict *KeyConflictError
	if _, err := l.AppendSigned(ctx, p, Event{Message: "another", IdempotencyKey: "invoice 1"}); !errors.As(err, &conflict) {
		t.Errorf("got %v", err)
	}
	var field *FieldError
	if _, err := l.AppendSigned(ctx, p, Event{Message: "x"}, Event{Message: "\xff"}); !errors.As(err, &field) || !strings.Contains(err.Error(), "event 1") {
		t.Errorf("got %v", err)
	}
	if _, err := l.AppendSigned(ctx, p, make([]Event, MaxBatchEntries+1)...); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v", err)
	}
	huge := slices.Repeat([]Event{{Message: strings.Repeat("x", 60_000)}}, 300)
	if _, err := l.AppendSigned(ctx, p, huge...); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v", err)
	}
	// Too long by the signature alone, whose counter may have nineteen digits.
	room := MaxEntryBytes - p.signatureRoom()
	short, err := entry.Append(nil, &Event{Hostname: l.hostname, PID: l.pid})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.AppendSigned(ctx, p, Event{Message: strings.Repeat("x", room-len(short)+1)}); !errors.As(err, &field) || !strings.Contains(err.Error(), "signature") {
		t.Errorf("a byte too long: %v", err)
	}
	if _, err := l.AppendSigned(ctx, p, Event{Message: strings.Repeat("x", room-len(short))}); err != nil {
		t.Errorf("as long as it may be: %v", err)
	}
	if _, err := l.AppendSigned(ctx, p, Event{Log: []byte(`{"type":"x"}`), Level: System}); err == nil {
		t.Error("a control entry is signed")
	}
	// A batch takes all the numbers that came back before it takes new ones.
	if _, err := l.AppendSigned(ctx, p, events(0, 500)...); err != nil {
		t.Fatal(err)
	}
	if got := counters(t, l, p.Key()); len(got) != 1+3+1+500 || gaps(got) != nil {
		t.Errorf("%d signed, missing %v", len(got), gaps(got))
	}
}

func TestOnlyRegisteredKeysAreUsed(t *testing.T) {
	p := newProducer(t, ProducerEd25519)
	l, err := Open(diskDir, diskConfig(vfstest.New(), newClock()))
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if _, err := l.AppendSigned(ctx, p, event(0)); !errors.Is(err, ErrUnregistered) {
		t.Errorf("unregistered: %v", err)
	}
	if _, err := l.EndProducer(ctx, p.Key()); !errors.Is(err, ErrUnregistered) {
		t.Errorf("end an unregistered key: %v", err)
	}
	reg, err := l.RegisterProducer(ctx, p.Key())
	if err != nil {
		t.Fatal(err)
	}
	e, err := l.Entry(ctx, reg.Index)
	if want := fmt.Sprintf(`{"type":"producer","name":"billing.example.com","key":"%s"}`, p.Key()); err != nil || string(e.Control) != want {
		t.Errorf("got %s, %v, want %s", e.Control, err, want)
	}
	if _, err := l.RegisterProducer(ctx, p.Key()); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("twice: %v", err)
	}
	if _, err := l.AppendSigned(ctx, p, event(0)); err != nil {
		t.Error(err)
	}
	end, err := l.EndProducer(ctx, p.Key())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.AppendSigned(ctx, p, event(1)); !errors.Is(err, ErrUnregistered) {
		t.Errorf("after its end: %v", err)
	}
	if _, err := l.RegisterProducer(ctx, p.Key()); err == nil || !strings.Contains(err.Error(), "does not begin again") {
		t.Errorf("again after its end: %v", err)
	}
	if _, err := l.RegisterProducer(ctx, p.Key()+"x"); err == nil {
		t.Error("what is no key is registered")
	}
	list, err := l.Producers(ctx)
	if want := (ProducerKey{Name: "billing.example.com", ID: p.ID(), Key: p.Key(), From: reg.Index, Ended: true, End: end.Index}); err != nil || len(list) != 1 || list[0] != want {
		t.Errorf("got %+v, %v, want %+v", list, err, want)
	}
}

func TestSignTakesOneCounterForAnEvent(t *testing.T) {
	p := newProducer(t, ProducerEd25519)
	const origin = "example.com/remote"
	e := Event{Message: "paid", IdempotencyKey: "invoice 1", Metadata: Fields{"b": 1, "a": 2}}
	if err := p.Sign(origin, &e); err != nil {
		t.Fatal(err)
	}
	if e.Producer.Counter != 1 || e.Hostname == "" || e.PID != uint32(os.Getpid()) || string(e.RawMetadata) != `{"a":2,"b":1}` {
		t.Errorf("got %+v", e)
	}
	again := e
	if err := p.Sign(origin, &again); err != nil || again.Producer != e.Producer {
		t.Errorf("signing again: %+v, %v", again.Producer, err)
	}
	retry := Event{Message: "paid", IdempotencyKey: "invoice 1", Metadata: Fields{"b": 1, "a": 2}}
	if err := p.Sign(origin, &retry); err != nil || retry.Producer.Counter != 1 || string(retry.Producer.Signature) != string(e.Producer.Signature) {
		t.Errorf("a retry after a crash: %+v, %v", retry.Producer, err)
	}
	other := Event{Message: "x"}
	if err := p.Sign(origin, &other); err != nil || other.Producer.Counter != 2 {
		t.Errorf("another: %+v, %v", other.Producer, err)
	}
	elsewhere := Event{Message: "x"}
	if err := p.Sign("example.com/other", &elsewhere); err != nil || elsewhere.Producer.Counter != 1 {
		t.Errorf("another log: %+v, %v", elsewhere.Producer, err)
	}
	changed := e
	changed.Message = "paid twice"
	if err := p.Sign(origin, &changed); err != nil || changed.Producer == e.Producer {
		t.Errorf("a changed event keeps its signature: %v", err)
	}
	if err := p.Sent(origin, e); err != nil {
		t.Fatal(err)
	}
	if err := p.Unsent(origin, other); err != nil {
		t.Fatal(err)
	}
	next := Event{Message: "next"}
	if err := p.Sign(origin, &next); err != nil || next.Producer.Counter != 2 {
		t.Errorf("after 2 came back: %+v, %v", next.Producer, err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := p.Sign(origin, &Event{}); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestKeyIsWithOneProcess(t *testing.T) {
	p := newProducer(t, ProducerEd25519)
	if _, err := OpenProducer(p.file); err == nil || !strings.Contains(err.Error(), "process") {
		t.Errorf("got %v", err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := OpenProducer(p.file)
	if err != nil || again.Key() != p.Key() {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := NewProducer(p.file, "x", ProducerEd25519); !errors.Is(err, os.ErrExist) {
		t.Errorf("a key is replaced: %v", err)
	}
}

// Power cuts at any operation, of the log's disk, which the key shares: no number is used twice, and once the next session
// has appended enough to use the ones that came back, none is missing.
func TestNumbersSurviveEveryCrash(t *testing.T) {
	key, err := producer.NewKey("billing.example.com", ProducerEd25519, [32]byte{7})
	if err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(rounds(20, 2000)) {
		rng := rand.New(rand.NewPCG(seed, 3))
		disk, clock := vfstest.New(), newClock()
		if err := disk.Mkdir("keys", 0o700); err != nil {
			t.Fatal(err)
		}
		if err := producer.CreateKeyFile(disk, "keys/billing", key); err != nil {
			t.Fatal(err)
		}
		syncEverything(t, disk)
		for round := range 4 {
			l, err := Open(diskDir, diskConfig(disk, clock))
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			p, err := openProducer(disk, "keys/billing")
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if list, err := l.Producers(context.Background()); err != nil {
				t.Fatal(err)
			} else if len(list) == 0 {
				if _, err := l.RegisterProducer(context.Background(), p.Key()); err != nil {
					t.Fatal(err)
				}
			}
			if round == 3 {
				if _, err := l.AppendSigned(context.Background(), p, events(0, 100)...); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				if got := counters(t, l, p.Key()); gaps(got) != nil {
					t.Fatalf("seed %d: %d signed, missing %v", seed, len(got), gaps(got))
				}
			} else {
				disk.CutAfter(rng.Uint64N(60))
			}
			var wg sync.WaitGroup
			for i := range 3 {
				wg.Go(func() {
					for k := range 6 {
						_, _ = l.AppendSigned(context.Background(), p, events(k*10+i, 1+(i+k)%4)...) // the power is cut at some point
					}
				})
			}
			wg.Wait()
			_ = p.Close() // the power may be off
			_ = l.Close()
			disk = disk.Crash(rng)
		}
	}
}

// syncEverything makes what is on the disk durable.
func syncEverything(t *testing.T, disk *vfstest.Disk) {
	t.Helper()
	for _, dir := range []string{".", "keys"} {
		if err := disk.SyncDir(dir); err != nil {
			t.Fatal(err)
		}
	}
}

// Whoever lost the file of counters, and kept the key, does not use numbers again.
func TestLostCountersAreLookedUp(t *testing.T) {
	disk := vfstest.New()
	p := newProducer(t, ProducerEd25519)
	l := producedLog(t, disk, p)
	if _, err := l.AppendSigned(context.Background(), p, events(0, 10)...); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(p.file + ".????????????????")
	if err != nil || len(names) != 1 {
		t.Fatalf("files of counters: %v, %v", names, err)
	}
	if err := os.Remove(names[0]); err != nil {
		t.Fatal(err)
	}
	if p, err = OpenProducer(p.file); err != nil {
		t.Fatal(err)
	}
	if _, err := l.AppendSigned(context.Background(), p, events(10, 5)...); err != nil {
		t.Fatal(err)
	}
	if got := counters(t, l, p.Key()); len(got) != 15 || gaps(got) != nil {
		t.Errorf("%d signed, missing %v", len(got), gaps(got))
	}
}

// Whoever stops waiting is told so; the append goes on, and its number is not used again.
func TestCallerMayStopWaiting(t *testing.T) {
	disk := vfstest.New()
	p := newProducer(t, ProducerEd25519)
	l := producedLog(t, disk, p)
	hold, held := make(chan struct{}), make(chan struct{})
	var once sync.Once
	disk.SetFail(func(op vfstest.Op) error {
		if op.Kind == vfstest.OpSync && strings.HasSuffix(op.Name, openName) {
			once.Do(func() { close(held) })
			<-hold
		}
		return nil
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() {
		_, err := l.AppendSigned(ctx, p, events(0, 2)...)
		ended <- err
	}()
	<-held
	cancel()
	if err := <-ended; !errors.Is(err, ErrUncertain) {
		t.Errorf("got %v", err)
	}
	close(hold)
	disk.SetFail(nil)
	if _, err := l.AppendSigned(context.Background(), p, events(2, 2)...); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if got := counters(t, l, p.Key()); len(got) != 4 || gaps(got) != nil {
		t.Errorf("%v signed, missing %v", got, gaps(got))
	}
}

// Whoever catches up leaves alone what is under way, and settles what no append has any more.
func TestCountersUnderWayAreLeftAlone(t *testing.T) {
	p := newProducer(t, ProducerEd25519)
	l := producedLog(t, vfstest.New(), p)
	line, err := p.line(l.Origin())
	if err != nil {
		t.Fatal(err)
	}
	counters, err := line.reserve(2, l.Size())
	if err != nil {
		t.Fatal(err)
	}
	for want := 2; want >= 0; want -= 2 {
		line.doubt = true
		if err := line.catchUp(context.Background(), l, p); err != nil || len(line.journal.Open()) != want {
			t.Errorf("%d counters are open, want %d: %v", len(line.journal.Open()), want, err)
		}
		if err := line.outcome(counters, errors.New("nobody knows")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFullDiskLeavesNoGap(t *testing.T) {
	disk := vfstest.New()
	p := newProducer(t, ProducerEd25519)
	l := producedLog(t, disk, p)
	if _, err := l.AppendSigned(context.Background(), p, events(0, 3)...); err != nil {
		t.Fatal(err)
	}
	disk.SetCapacity(disk.Used())
	if _, err := l.AppendSigned(context.Background(), p, slices.Repeat([]Event{{Message: strings.Repeat("x", 60_000)}}, 40)...); !errors.Is(err, ErrNoSpace) {
		t.Errorf("got %v", err)
	}
	disk.SetCapacity(0)
	if _, err := l.AppendSigned(context.Background(), p, events(3, 50)...); err != nil {
		t.Fatal(err)
	}
	if got := counters(t, l, p.Key()); len(got) != 53 || gaps(got) != nil {
		t.Errorf("%d signed, missing %v", len(got), gaps(got))
	}
}
