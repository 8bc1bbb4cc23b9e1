package server

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/tree-of-life-system/immutable"
)

// recheck is how often it is asked whether those who read streams still may: a revoked token's streams end within a second.
const recheck = 400 * time.Millisecond

// streams are all that there are of a server. One goroutine looks after them while there are any, one more reads each log that
// is streamed.
type streams struct {
	s      *Server
	pieces *budget // bytes of big pieces

	mu      sync.Mutex // guards what follows
	live    map[*stream]struct{}
	tails   map[*immutable.Log]*tail
	watched bool
}

func newStreams(s *Server) *streams {
	return &streams{
		s: s, pieces: newBudget(bigPieces),
		live: map[*stream]struct{}{}, tails: map[*immutable.Log]*tail{},
	}
}

// add takes a stream on, within the limits of the server and of its tenant. Its context ends when the client goes away, or with
// the reason for which the stream is to end.
func (ss *streams) add(st *stream) (context.Context, error) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.s.stopping.Err() != nil {
		return nil, errShutdown
	}
	if len(ss.live) >= ss.s.o.Limits.Streams {
		return nil, fault("busy", fmt.Sprintf("there are %d streams, the most that this server takes", len(ss.live))).after(retryStreams)
	}
	var err error
	if st.end, err = st.r.tenant.OpenStream(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(st.r.Context())
	st.cancel = cancel
	st.tail = ss.tails[st.r.log.Log]
	if st.tail == nil {
		st.tail = startTail(st.r.log.Log)
		ss.tails[st.r.log.Log] = st.tail
	}
	st.tail.users++
	ss.live[st] = struct{}{}
	if !ss.watched {
		ss.watched = true
		go ss.watch()
	}
	return ctx, nil
}

// retryStreams is when those who found no place may come back.
const retryStreams = 10 * time.Second

func (ss *streams) remove(st *stream) {
	st.cancel(nil)
	st.w.close()
	ss.mu.Lock()
	defer ss.mu.Unlock()
	delete(ss.live, st)
	st.end()
	if st.tail.users--; st.tail.users == 0 {
		st.tail.cancel()
		delete(ss.tails, st.r.log.Log)
	}
}

// watch ends streams whose principals may not read any more, and all of them at shutdown. It ends with the last of them.
func (ss *streams) watch() {
	tick := time.NewTicker(recheck)
	defer tick.Stop()
	for {
		stopping := false
		select {
		case <-tick.C:
		case <-ss.s.stopping.Done():
			stopping = true
		}
		for _, st := range ss.all() {
			err := errShutdown
			if !stopping {
				err = ss.s.o.Installation.StillValid(st.r.principal)
			}
			if err != nil {
				st.cancel(err)
				st.w.hurry()
			}
		}
		ss.mu.Lock()
		if stopping || len(ss.live) == 0 { // add takes none on after the stop
			ss.watched = false
			ss.mu.Unlock()
			return
		}
		ss.mu.Unlock()
	}
}

func (ss *streams) all() []*stream {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	list := make([]*stream, 0, len(ss.live))
	for st := range ss.live {
		list = append(list, st)
	}
	return list
}
