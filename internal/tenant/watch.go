package tenant

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/tree-of-life-system/immutable"
)

// seenState is what was recorded last of a log: the number of its sealed segments and of its epoch of keys.
type seenState struct {
	mu     sync.Mutex
	sealed int
	epoch  uint64
}

const (
	watchEvery = time.Second     // between two looks at the logs for rotations, which happen by themselves
	sizeEvery  = 60 * watchEvery // between two looks at how much the logs take
)

// look takes a log's state as recorded and describes it.
func (l *Log) look() immutable.Fields {
	f := immutable.Fields{"log": l.name}
	if l.Log == nil {
		return f
	}
	l.seen.mu.Lock()
	defer l.seen.mu.Unlock()
	l.seen.sealed, l.seen.epoch = len(l.SealedSegments()), l.Epoch()
	f["size"], f["sealedSegments"], f["epoch"], f["origin"] = l.Size(), l.seen.sealed, l.seen.epoch, l.Origin()
	return f
}

// watch records rotations of segments and keys.
func (in *Installation) watch() {
	defer close(in.ended)
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-in.stop:
			return
		case <-tick.C:
			in.lookAll(n%int(sizeEvery/watchEvery) == 0)
		}
	}
}

// lookAll looks at every log for what happened by itself, and now and then at how much they take.
func (in *Installation) lookAll(sizes bool) {
	in.makeRoom()
	for _, t := range in.Tenants() {
		if t.err != nil {
			continue
		}
		if sizes {
			t.measureStored()
		}
		for _, l := range t.Logs() {
			if l.Log != nil {
				l.noteChanges()
			}
		}
	}
}

// noteChanges records rotations of segments and keys since the last look.
func (l *Log) noteChanges() {
	sealed, epoch := l.SealedSegments(), l.Epoch()
	l.seen.mu.Lock()
	defer l.seen.mu.Unlock()
	ctx := context.Background()
	if len(sealed) > l.seen.sealed {
		f := immutable.Fields{"log": l.name, "segments": len(sealed) - l.seen.sealed, "sealedSegments": len(sealed), "first": slices.Max(sealed)}
		if err := l.tenant.Record(ctx, nil, LogSeal, f); err != nil {
			l.tenant.in.logger.Error("a rotation could not be recorded; it is tried again", "error", err)
			return
		}
	}
	l.seen.sealed = len(sealed) // also where segments were retired
	if epoch != l.seen.epoch {
		if err := l.tenant.Record(ctx, nil, KeysRotate, immutable.Fields{"log": l.name, "before": l.seen.epoch, "epoch": epoch}); err != nil {
			l.tenant.in.logger.Error("a rotation of keys could not be recorded; it is tried again", "error", err)
			return
		}
		l.seen.epoch = epoch
	}
}

// eachTenant calls f for all tenants that can be used, some beside each other.
func (in *Installation) eachTenant(f func(*Tenant) error) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	slots := make(chan struct{}, openers())
	for _, t := range in.Tenants() {
		if t.err != nil {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			if err := f(t); err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
			<-slots
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
