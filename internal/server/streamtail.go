package server

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/tree-of-life-system/immutable"
)

// Limits of what a tail keeps for the streams of one log. A stream that is further behind reads by itself.
const (
	maxTailFrames = 4096
	maxTailBytes  = 4 << 20
	tailWake      = 256 // entries after which the streams are woken even while more is coming
)

// A frame is one entry as all streams of its log share it.
type frame struct {
	index uint64
	level immutable.Level
	line  []byte // as it was hashed
	wire  []byte // as the event that streams send
}

// appendEvent appends an entry as a server-sent event: its line is one line, as every line of a log.
func appendEvent(dst []byte, e *immutable.Entry) []byte {
	dst = strconv.AppendUint(append(dst, "id: "...), e.Index, 10)
	dst = append(dst, "\nevent: entry\ndata: "...)
	dst = appendEntry(dst, e)
	return append(dst, '\n', '\n')
}

// A tail reads what comes into one log, once for all streams that have caught up: the entries are proven as any read is, and kept
// as long as they fit. It never waits for a stream.
type tail struct {
	log    *immutable.Log
	cancel context.CancelFunc

	mu     sync.RWMutex
	frames []*frame      // one after the other in the log
	first  uint64        // index of frames[0]; of the next one to come where there are none
	size   int           // bytes of frames
	grown  chan struct{} // closed when there is more, or an error
	err    error         // why there will be no more

	users int // guarded by streams.mu
}

// startTail begins with what comes after this moment.
func startTail(log *immutable.Log) *tail {
	ctx, cancel := context.WithCancel(context.Background())
	t := &tail{log: log, cancel: cancel, first: log.Size(), grown: make(chan struct{})}
	go t.run(ctx)
	return t
}

func (t *tail) run(ctx context.Context) {
	unwoken := 0
	for e, err := range t.log.Subscribe(ctx, t.first) {
		if err != nil {
			t.end(err)
			return
		}
		// Streams are woken when there is nothing more to read at once: a batch wakes them once, not once an entry.
		unwoken++
		wake := unwoken >= tailWake || e.Index+1 >= t.log.Size()
		if wake {
			unwoken = 0
		}
		t.add(&frame{index: e.Index, level: e.Level, line: e.Line, wire: appendEvent(nil, &e)}, wake)
	}
	t.end(errors.New("the log's end is not followed any more"))
}

func (t *tail) add(f *frame, wake bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if want := t.first + uint64(len(t.frames)); f.index != want {
		panic(fmt.Sprintf("server: entry %d came where %d belongs", f.index, want))
	}
	t.frames = append(t.frames, f)
	t.size += f.bytes()
	for len(t.frames) > maxTailFrames || t.size > maxTailBytes {
		t.size -= t.frames[0].bytes()
		t.frames[0] = nil
		t.frames = t.frames[1:]
		t.first++
	}
	if wake {
		close(t.grown)
		t.grown = make(chan struct{})
	}
}

func (f *frame) bytes() int { return len(f.line) + len(f.wire) }

func (t *tail) end(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.err = err
	close(t.grown)
	t.grown = make(chan struct{})
}

// errBehind says that the tail does not have the entry any more, or never had: the stream reads by itself.
var errBehind = errors.New("the tail begins later")

// take copies frames from entry next on, as long as they fit into buf and their events into limit bytes, one at least. Where there
// are none yet, grown says when to ask again.
func (t *tail) take(next uint64, buf []*frame, limit int) (n int, grown <-chan struct{}, err error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if next < t.first {
		return 0, nil, errBehind
	}
	if next-t.first >= uint64(len(t.frames)) {
		return 0, t.grown, t.err
	}
	for _, f := range t.frames[next-t.first:] {
		if n == len(buf) || n > 0 && limit < len(f.wire) {
			break
		}
		buf[n] = f
		n++
		limit -= len(f.wire)
	}
	return n, t.grown, nil
}
