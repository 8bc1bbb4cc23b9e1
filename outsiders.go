package immutable

import "context"

// An outsider is a part of a writer that shows checkpoints to somebody outside and takes back what they say: witnesses,
// time-stamping authorities. There is one of each kind, made by startOutsiders.
type outsider interface {
	// published is told of every checkpoint once it is durable, mostly in the publisher's goroutine: it must not block, and it
	// must not keep or change note without copying it. It may still be called after stop.
	published(note []byte, size uint64)
	// stop ends what runs and waits for it. It is called once, before the writer ends: control entries still work.
	stop()
}

// startOutsiders makes the outsiders that the configuration asks for. The writer and the publisher run already. Those that
// were started before an error are stopped by stopOutsiders.
func (l *Log) startOutsiders() error {
	l.publisher.mu.Lock()
	defer l.publisher.mu.Unlock()
	stamping, err := newStamping(l)
	if err != nil {
		return err
	}
	if stamping != nil {
		if err := stamping.start(); err != nil {
			return err
		}
		l.stamping, l.outsiders = stamping, append(l.outsiders, stamping)
	}
	return nil
}

// stopOutsiders is called before the writer is stopped.
func (l *Log) stopOutsiders() {
	for _, o := range l.outsiders {
		o.stop()
	}
}

// onPublish tells the outsiders of a checkpoint that is durable. publisher.mu is held.
func (l *Log) onPublish(note []byte, size uint64) {
	for _, o := range l.outsiders {
		o.published(note, size)
	}
}

// control appends a control entry: record is the bytes of its member "log", in the form that docs/format.md gives. It may
// be called from any goroutine but the writer's and the publisher's.
func (l *Log) control(ctx context.Context, message string, record []byte) (Receipt, error) {
	rs, err := l.append(ctx, []Event{{Level: System, Message: message, Log: record}})
	if err != nil {
		return Receipt{}, err
	}
	return rs[0], nil
}

// condemn ends the writer and the publisher, because somebody outside has proven that going on would give this log a
// second history: nothing more is acknowledged or signed until the log is opened again. The first error counts; appends
// get it. It may be called from any goroutine but the writer's and the publisher's, and returns when nothing is under way.
func (l *Log) condemn(err error) {
	if !l.condemned.CompareAndSwap(nil, &err) {
		return
	}
	_ = l.w.call(context.Background(), func() error { return l.w.fail(err) }) // a writer that has ended writes nothing
	l.publisher.mu.Lock()                                                     // a publication under way has ended, the next one is refused
	defer l.publisher.mu.Unlock()
}

// condemnation is why nothing may be signed or acknowledged any more, or nil.
func (l *Log) condemnation() error {
	if err := l.condemned.Load(); err != nil {
		return *err
	}
	return nil
}
