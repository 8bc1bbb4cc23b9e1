package server

import (
	"context"

	"github.com/tree-of-life-system/immutable/internal/monitor"
)

// withMonitor gives a service a monitor that runs until the test's process ends.
func withMonitor(o *Options) {
	o.Monitor = monitor.New(monitor.Options{Installation: o.Installation})
	go func() { _ = o.Monitor.Run(context.Background()) }()
}
