package server

import (
	"context"
	"sync"
	"time"
)

// budget is something scarce that requests of all tenants share. No tenant holds more than a quarter of it, or one request's
// worth, so that one cannot take it all from the others.
type budget struct {
	total int64

	mu    sync.Mutex // guards what follows
	left  int64
	held  map[string]int64 // by tenant; those that hold nothing are not in it
	freed chan struct{}    // closed when something was given back, then renewed
}

func newBudget(total int64) *budget {
	return &budget{total: total, left: total, held: map[string]int64{}, freed: make(chan struct{})}
}

// try takes n for the tenant, if that is free.
func (b *budget) try(tenant string, n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	held := b.held[tenant]
	if n > b.left || held > 0 && held+n > b.total/4 {
		return false
	}
	b.left -= n
	b.held[tenant] = held + n
	return true
}

// take waits until n is free for the tenant, or ctx ends. Whoever holds some of it must not take more: two could wait for
// each other.
func (b *budget) take(ctx context.Context, tenant string, n int64) error {
	for {
		b.mu.Lock()
		freed := b.freed
		b.mu.Unlock()
		if b.try(tenant, n) {
			return nil
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// placeToSearch waits until the tenant may search: a search takes every core there is for as long as it lasts, so that a tenant which
// asks for many at once waits for itself, and the others' appends do not wait for it. A place is taken before memory, never behind it.
func (r *request) placeToSearch() (done func(), err error) {
	ctx, cancel := context.WithTimeout(r.Context(), r.limits().Patience)
	defer cancel()
	name := r.tenant.Name()
	if err := r.s.searches.take(ctx, name, 1); err != nil {
		return nil, fault("busy", "too many searches are under way, of this tenant or of all").after(time.Second)
	}
	return sync.OnceFunc(func() { r.s.searches.give(name, 1) }), nil
}

// give returns what was taken.
func (b *budget) give(tenant string, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left += n
	if b.held[tenant] -= n; b.held[tenant] == 0 {
		delete(b.held, tenant)
	}
	close(b.freed)
	b.freed = make(chan struct{})
}

// turns are for what reads for long, a piece at a time, and sends between two pieces: exports, and streams that catch up. No tenant has
// more than a quarter of them, or one. Who waits gets its turn in order, first among its tenant's own.
type turns struct {
	all   chan struct{}
	share int

	mu  sync.Mutex
	own map[string]chan struct{} // by tenant: there are as many as tenants that ever waited
}

func newTurns(total int) *turns {
	return &turns{all: make(chan struct{}, total), share: max(1, total/4), own: map[string]chan struct{}{}}
}

// of is the tenant's part: who sends to it, and then to all, has a turn.
func (t *turns) of(tenant string) chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.own[tenant] == nil {
		t.own[tenant] = make(chan struct{}, t.share)
	}
	return t.own[tenant]
}

// take waits for a turn.
func (t *turns) take(ctx context.Context, tenant string) error {
	own := t.of(tenant)
	select {
	case own <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case t.all <- struct{}{}:
		return nil
	case <-ctx.Done():
		<-own
		return context.Cause(ctx)
	}
}

// give ends a turn.
func (t *turns) give(tenant string) {
	<-t.all
	<-t.of(tenant)
}
