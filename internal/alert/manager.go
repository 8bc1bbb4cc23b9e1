package alert

import (
	"context"
	"sync"
	"time"

	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// Manager has the alerts of an installation. Its methods may be called from any number of goroutines.
type Manager struct {
	o Options

	mu    sync.Mutex
	rules map[string]Rules
	state map[string]map[string]*State
}

// New makes a manager; Run sets it to work.
func New(o Options) *Manager {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Manager{o: o, rules: map[string]Rules{}, state: map[string]map[string]*State{}}
}

// Run looks at conditions and queries, and delivers, until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Raise takes an event. It does not block.
func (m *Manager) Raise(e Event) {}

// Active are the tenant's alerts that are pending, firing, or were resolved during the last day.
func (m *Manager) Active(tenant string) []State { return nil }

// Rules are the tenant's, with Kept in the place of secrets.
func (m *Manager) Rules(tenant string) (Rules, error) { return m.rules[tenant], nil }

// SetRules replaces the tenant's rules, durably. An error that wraps ErrRules says what is not acceptable.
func (m *Manager) SetRules(ctx context.Context, by *tenant.Principal, name string, r Rules) error {
	m.rules[name] = r
	return nil
}

// Test sends a message of kind "test" to one sink of the tenant, and returns what came of it.
func (m *Manager) Test(ctx context.Context, by *tenant.Principal, tenant, sink string) error {
	return nil
}
