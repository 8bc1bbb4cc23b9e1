package fsck

import (
	"context"
	"sync"
)

// A pool runs jobs on a fixed number of workers. Producers cut files into jobs, hand each to the pool, and then to their
// consumer over a channel of limited length, which waits for it: so results come in order, and a fixed number is in memory.
type pool struct {
	ctx       context.Context
	cancel    context.CancelFunc
	jobs      chan job
	producers sync.WaitGroup
	workers   sync.WaitGroup
}

// A job never blocks on anything but files.
type job interface{ run(w *worker) }

// A worker is what a job may use and leave behind.
type worker struct {
	c   *check
	ctx context.Context
	buf []byte
}

func newPool(c *check, n int) *pool {
	ctx, cancel := context.WithCancel(c.ctx)
	p := &pool{ctx: ctx, cancel: cancel, jobs: make(chan job)}
	for range n {
		p.workers.Go(func() {
			w := &worker{c: c, ctx: ctx}
			for j := range p.jobs {
				j.run(w)
			}
		})
	}
	return p
}

// spawn starts a producer.
func (p *pool) spawn(f func()) { p.producers.Go(f) }

// submit waits for a free worker. It is false when the pool has ended.
func (p *pool) submit(j job) bool { return put(p.ctx, p.jobs, j) }

// wait ends the pool when all that was submitted is done.
func (p *pool) wait() {
	p.producers.Wait()
	close(p.jobs)
	p.workers.Wait()
	p.cancel()
}

// close ends what still runs, and waits for it.
func (p *pool) close() {
	p.cancel()
	p.producers.Wait()
	close(p.jobs)
	p.workers.Wait()
}

// put sends v unless the context ends first.
func put[T any](ctx context.Context, to chan<- T, v T) bool {
	select {
	case to <- v:
		return true
	case <-ctx.Done():
		return false
	}
}
