package server

import "context"

// Observer hears what foreign sources send: it counts, and puts refusals where they are found. kind is the protocol ("otlp",
// "cloudevents", "syslog" …), name the sender as far as it is known: a principal's id, a source's, an address. Implementations
// are called from many goroutines and do not block for longer than an append.
type Observer interface {
	// Seen says that events of a source are durable.
	Seen(tenant, log, kind, name string, accepted int)

	// Rejected says that something was refused, with a constant reason and the beginning of what it was. The sample is the
	// caller's again when it returns.
	Rejected(ctx context.Context, tenant, log, kind, name, reason string, sample []byte)
}

// maxSample is how much of what was refused an Observer gets to see.
const maxSample = 512

// noObserver is who hears where nobody wants to.
type noObserver struct{}

func (noObserver) Seen(string, string, string, string, int)                                 {}
func (noObserver) Rejected(context.Context, string, string, string, string, string, []byte) {}
