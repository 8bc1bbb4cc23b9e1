package monitor

import (
	"context"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// Monitor watches the logs of an installation. Its methods may be called from any number of goroutines.
type Monitor struct{ o Options }

// New makes a monitor; Run sets it to work.
func New(o Options) *Monitor { return &Monitor{o: o} }

// Run verifies, scrubs and watches until ctx ends. Then it cancels what runs, and returns when that has ended.
func (m *Monitor) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Start asks for a full verification of a log. It returns when the request is recorded in the tenant's log of the log; the
// verification waits for its turn: two run at once, one of a log. ErrBusy when as many wait as may, ErrStopped after Run.
func (m *Monitor) Start(ctx context.Context, by *tenant.Principal, l *tenant.Log, o immutable.VerifyOptions) (*Job, error) {
	return nil, ErrStopped
}

// Jobs are the log's verifications, the newest first, without their reports.
func (m *Monitor) Jobs(l *tenant.Log) []Job { return nil }

// Job is one of them, as it stands.
func (m *Monitor) Job(l *tenant.Log, id string) (Job, bool) { return Job{}, false }

// Status is what is known of a log. It costs nothing.
func (m *Monitor) Status(l *tenant.Log) Status { return Status{} }
