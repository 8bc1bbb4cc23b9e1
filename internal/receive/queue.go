package receive

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// Limits of what waits to be appended, and of one append.
const (
	maxWaiting      = 16 << 20 // bytes of events of one receiver
	maxBatch        = 8192     // events of one append
	maxBatchBytes   = 4 << 20
	eventOverhead   = 512 // bytes that an event is counted with beside its text
	firstPause      = 100 * time.Millisecond
	maxPause        = 5 * time.Second
	lastAppendsTime = 10 * time.Second // that the last appends may take once the receiver was told to stop
)

// queue holds what was read and is not durable yet, and appends it in order, as many as wait at a time.
type queue struct {
	o *Options

	mu      sync.Mutex // guards what follows
	waiting []item
	bytes   int
	some    chan struct{} // has a value when something waits
	room    chan struct{} // closed and replaced when something was taken
}

type item struct {
	event immutable.Event
	from  *peer
	bytes int
}

// peer is who sent it.
type peer struct {
	principal *tenant.Principal
	name      string // for observers: an address, or the principal's id
}

func newQueue(o *Options) *queue {
	return &queue{o: o, some: make(chan struct{}, 1), room: make(chan struct{})}
}

func weigh(e *immutable.Event) int {
	return eventOverhead + len(e.Message) + len(e.RawMetadata) + 16*len(e.Metadata)
}

// put adds events once there is room. It returns an error only if ctx ends before.
func (q *queue) put(ctx context.Context, items []item) error {
	for len(items) > 0 {
		n, room := q.add(items)
		if items = items[n:]; len(items) == 0 {
			return nil
		}
		select {
		case <-room:
		case <-ctx.Done():
			return fmt.Errorf("waiting for the log: %w", context.Cause(ctx))
		}
	}
	return nil
}

// add takes as many as there is room for; room is closed when there is more.
func (q *queue) add(items []item) (n int, room <-chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for n < len(items) && q.bytes < maxWaiting {
		items[n].bytes = weigh(&items[n].event)
		q.bytes += items[n].bytes
		n++
	}
	q.waiting = append(q.waiting, items[:n]...)
	if n > 0 {
		select {
		case q.some <- struct{}{}:
		default:
		}
	}
	return n, q.room
}

// take removes what one append may have of what waits first, all of one principal. Its bytes count as waiting until done.
func (q *queue) take(into []item) []item {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, size := 0, 0
	for n < len(q.waiting) && n < maxBatch && size < maxBatchBytes && q.waiting[n].from.principal == q.waiting[0].from.principal {
		size += q.waiting[n].bytes
		n++
	}
	into = append(into[:0], q.waiting[:n]...)
	left := copy(q.waiting, q.waiting[n:])
	clear(q.waiting[left:])
	q.waiting = q.waiting[:left]
	return into
}

func (q *queue) done(items []item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range items {
		q.bytes -= items[i].bytes
	}
	close(q.room)
	q.room = make(chan struct{})
}

// run appends until drained is closed and nothing waits any more. give ends what cannot be finished.
func (q *queue) run(give context.Context, drained <-chan struct{}) {
	var items []item
	for last := false; ; {
		if items = q.take(items); len(items) > 0 {
			q.append(give, items)
			q.done(items)
			clear(items)
			continue
		}
		if last {
			return
		}
		select {
		case <-q.some:
		case <-drained:
			last = true
		}
	}
}

// append makes the items durable, however long the log takes nothing: what comes meanwhile waits, and so do peers.
func (q *queue) append(ctx context.Context, items []item) {
	events := make([]immutable.Event, len(items))
	for i := range items {
		events[i] = items[i].event
	}
	pause := firstPause
	for said := false; ; {
		_, err := q.o.Append(ctx, items[0].from.principal, events...)
		var field *immutable.FieldError
		switch {
		case err == nil:
			q.seen(items)
			if said {
				q.o.Logger.Info("the log takes events again", "receiver", q.o.Name)
			}
			return
		case errors.As(err, &field) || errors.Is(err, immutable.ErrTooLarge) || forbidden(err) || neverFits(err):
			q.one(ctx, items, err)
			return
		case !said:
			said = true
			q.o.Logger.Warn("the log takes no events now; what was read waits, and so do its senders", "receiver", q.o.Name, "error", err)
		}
		wait := pause
		var quota *tenant.QuotaError
		if errors.As(err, &quota) && quota.RetryAfter > 0 {
			wait = min(quota.RetryAfter, maxPause)
		} else {
			pause = min(2*pause, maxPause)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			for i := range items {
				q.refuse(ctx, &items[i], "stopped")
			}
			q.o.Logger.Error("events that were read are lost: the receiver was stopped while the log took none", "receiver", q.o.Name, "events", len(items), "error", err)
			return
		}
	}
}

// forbidden says that this principal will not be let in by waiting. A suspended tenant comes back.
func forbidden(err error) bool {
	return errors.Is(err, tenant.ErrForbidden) && !errors.Is(err, tenant.ErrSuspended) || errors.Is(err, tenant.ErrUnauthenticated)
}

// neverFits says that a quota refuses it however long one waits: an entry that is too long for the tenant, or a batch of more
// than a whole burst.
func neverFits(err error) bool {
	var quota *tenant.QuotaError
	return errors.As(err, &quota) && quota.RetryAfter == 0 && quota.What != "totalBytes"
}

// one halves a batch that was refused, down to the event that is at fault, which is refused alone.
func (q *queue) one(ctx context.Context, items []item, err error) {
	if len(items) > 1 {
		middle := len(items) / 2
		q.append(ctx, items[:middle])
		q.append(ctx, items[middle:])
		return
	}
	reason := "refused"
	if forbidden(err) {
		reason = "forbidden"
	}
	q.refuse(ctx, &items[0], reason)
	q.o.Logger.Warn("an event was refused by the log", "receiver", q.o.Name, "error", err)
}

func (q *queue) refuse(ctx context.Context, it *item, reason string) {
	q.o.Observer.Rejected(context.WithoutCancel(ctx), it.from.name, reason, []byte(it.event.Message[:min(len(it.event.Message), maxSample)]))
}

// seen counts what is durable, by peer.
func (q *queue) seen(items []item) {
	for i := 0; i < len(items); {
		j := i + 1
		for j < len(items) && items[j].from == items[i].from {
			j++
		}
		q.o.Observer.Seen(items[i].from.name, j-i)
		i = j
	}
}

const maxSample = 512

func (o *Options) defaults() {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.MaxMessage <= 0 {
		o.MaxMessage = 64 << 10
	}
	if o.MaxConnections <= 0 {
		o.MaxConnections = 1024
	}
	if o.IdleTime <= 0 {
		o.IdleTime = 10 * time.Minute
	}
	if o.MessageTime <= 0 {
		o.MessageTime = 30 * time.Second
	}
}
