package alert

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/outbound"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// Limits of deliveries.
const (
	maxDeliveries  = 16 // under way at once
	maxQueue       = 100
	maxQueued      = 10_000        // of all sinks
	maxAge         = 6 * time.Hour // a delivery is tried no longer
	maxBackOff     = 5 * time.Minute
	failedAfter    = 3 // tries in a row, and the sink is said to have failed
	grace          = 15 * time.Minute
	maxBodyDetails = 4 << 10
)

// sinkKey names a sink: its tenant's name, and its own.
type sinkKey struct{ owner, sink string }

// sinkQueue is what waits for one sink, in order. Manager.mu guards it.
type sinkQueue struct {
	list    []*delivery // the first may be under way
	working bool
	failed  int // tries in a row
	said    bool
}

// delivery is one message to one sink. Its id stays the same however often it is tried.
type delivery struct {
	id    string
	state State
	made  time.Time
	tries int
}

// permanentError says that another try is of no use.
type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

func backOff(tries int) time.Duration { return outbound.BackOff(tries, maxBackOff) }

// send hands an alert to the sinks that want it. m.mu is held.
func (m *Manager) send(ta *tenantAlerts, s *State, now time.Time) {
	s.Sent, ta.dirty = now, true
	m.sendTo(ta, s, now, false)
	if name := ta.t.Name(); name != tenant.SystemName {
		if system := m.tenants[tenant.SystemName]; system != nil {
			m.sendTo(system, s, now, true)
		}
	}
}

func (m *Manager) sendTo(owner *tenantAlerts, s *State, now time.Time, every bool) {
	for i := range owner.rules.Sinks {
		k := &owner.rules.Sinks[i]
		wanted := k.takes(s)
		if every { // the names of a query's sinks are its own tenant's
			named := *s
			named.Sinks = nil
			wanted = k.EveryTenant && k.takes(&named)
		}
		// What a sink's failure is about is not told to that very sink.
		if !wanted || s.Kind == SinkFailed && s.Tenant == owner.t.Name() && s.Details["sink"] == k.Name {
			continue
		}
		m.enqueue(sinkKey{owner.t.Name(), k.Name}, &delivery{id: "msg_" + randomID(), state: s.clone(), made: now})
	}
}

// enqueue adds a delivery, and gives up the oldest where too many wait. m.mu is held.
func (m *Manager) enqueue(key sinkKey, d *delivery) {
	q := m.sinks[key]
	if q == nil {
		q = &sinkQueue{}
		m.sinks[key] = q
	}
	if m.queued >= maxQueued && len(q.list) == 0 {
		m.giveUp(key, d, errors.New("too many messages wait"))
		return
	}
	if len(q.list) >= maxQueue || m.queued >= maxQueued {
		at := min(1, len(q.list)-1) // the first may be under way
		m.giveUp(key, q.list[at], fmt.Errorf("%d messages wait for this sink", len(q.list)))
		q.list = slices.Delete(q.list, at, at+1)
		m.queued--
	}
	q.list = append(q.list, d)
	m.queued++
	m.startWorker(key)
}

// startWorker lets somebody work on a sink's queue, if nobody does. m.mu is held.
func (m *Manager) startWorker(key sinkKey) {
	q := m.sinks[key]
	if m.ctx == nil || m.ctx.Err() != nil || q.working || len(q.list) == 0 {
		return
	}
	q.working = true
	ctx := m.ctx
	m.workers.Go(func() { m.work(ctx, key, q) })
}

// work delivers what waits for one sink, until nothing does.
func (m *Manager) work(ctx context.Context, key sinkKey, q *sinkQueue) {
	for {
		m.mu.Lock()
		if len(q.list) == 0 || ctx.Err() != nil {
			q.working = false
			if len(q.list) == 0 && q.failed == 0 {
				delete(m.sinks, key)
			}
			m.mu.Unlock()
			return
		}
		d := q.list[0]
		sink := m.sink(key)
		m.mu.Unlock()
		if sink == nil { // it was taken away
			m.finish(key, q, d, nil, false)
			continue
		}
		err := m.attempt(ctx, sink, d)
		if ctx.Err() != nil {
			continue
		}
		var permanent *permanentError
		last := err == nil || errors.As(err, &permanent) || m.o.Now().Sub(d.made) > maxAge
		m.mu.Lock()
		d.tries++
		tries := d.tries
		m.judge(key, q, err)
		m.mu.Unlock()
		if last {
			m.finish(key, q, d, err, true)
			continue
		}
		m.logger.Warn("an alert is not delivered yet", "tenant", key.owner, "sink", key.sink, "tries", tries, "error", err)
		t := time.NewTimer(m.waitAfter(err, tries))
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

func (m *Manager) waitAfter(err error, tries int) time.Duration {
	d := m.back(tries - 1)
	if s, ok := errors.AsType[*outbound.StatusError](err); ok {
		d = max(d, min(s.After, maxBackOff))
	}
	return d
}

// sink is a sink as it is now; nil where it is no more. m.mu is held.
func (m *Manager) sink(key sinkKey) *Sink {
	if ta := m.tenants[key.owner]; ta != nil {
		for i := range ta.rules.Sinks {
			if ta.rules.Sinks[i].Name == key.sink {
				s := ta.rules.Sinks[i]
				return &s
			}
		}
	}
	return nil
}

// judge counts failures in a row: enough of them are an alert of their own, which ends with the first success. m.mu is held.
func (m *Manager) judge(key sinkKey, q *sinkQueue, err error) {
	e := Event{
		Key: fmt.Sprintf("%s/%s", SinkFailed, key.sink), Tenant: key.owner, Kind: SinkFailed,
		Summary: fmt.Sprintf("sink %s takes alerts again", key.sink), Details: map[string]string{"sink": key.sink}, Resolved: true,
	}
	if err == nil {
		q.failed = 0
		m.raise(m.tenants[key.owner], &e, "", nil, 0)
		q.said = false
		return
	}
	var permanent *permanentError
	if q.failed++; (q.failed >= failedAfter || errors.As(err, &permanent)) && !q.said {
		q.said = true
		e.Resolved, e.Summary, e.Details["error"] = false, fmt.Sprintf("sink %s does not take alerts: %v", key.sink, err), err.Error()
		m.raise(m.tenants[key.owner], &e, "", nil, 0)
	}
}

// finish takes a delivery out of the queue and records what came of it.
func (m *Manager) finish(key sinkKey, q *sinkQueue, d *delivery, err error, tried bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i := slices.Index(q.list, d); i >= 0 {
		q.list = slices.Delete(q.list, i, i+1)
		m.queued--
	} else {
		return // it was given up meanwhile
	}
	if ta := m.tenants[d.state.Tenant]; ta != nil {
		ta.dirty = true
	}
	switch {
	case !tried:
	case err != nil:
		m.giveUp(key, d, err)
	default:
		m.recordDelivery(key, tenant.AlertSent, d, nil)
	}
}

// giveUp records that a message will not be delivered. m.mu is held.
func (m *Manager) giveUp(key sinkKey, d *delivery, err error) {
	m.logger.Error("an alert is not delivered", "tenant", key.owner, "sink", key.sink, "key", d.state.Key, "error", err)
	m.recordDelivery(key, tenant.AlertFailed, d, err)
}

// recordDelivery writes to the log of the log of the tenant whose sink it is. Entries about alerts count for no saved query.
func (m *Manager) recordDelivery(key sinkKey, action tenant.Action, d *delivery, err error) {
	f := immutable.Fields{
		"sink": key.sink, "message": d.id, "tenant": d.state.Tenant, "key": d.state.Key, "phase": string(d.state.Phase), "tries": d.tries,
		"instance": d.state.Instance,
	}
	if err != nil {
		f["error"] = clean(err.Error(), maxDetail)
	}
	if ta := m.tenants[key.owner]; ta != nil {
		m.record(ta.t, action, f)
	}
}

// Test sends a message of kind "test" to one sink of the tenant, once, and returns what came of it.
func (m *Manager) Test(ctx context.Context, by *tenant.Principal, name, sink string) error {
	if err := by.Allow(tenant.PermManageTenant, name, ""); err != nil {
		return err
	}
	ta, err := m.tenant(name)
	if err != nil {
		return err
	}
	key := sinkKey{name, sink}
	m.mu.Lock()
	s := m.sink(key)
	m.mu.Unlock()
	if s == nil {
		return fmt.Errorf("sink %.80q: %w", sink, tenant.ErrNotFound)
	}
	now := m.o.Now().UTC()
	d := &delivery{id: "msg_" + randomID(), made: now, tries: 1, state: State{
		Key: "test", Tenant: name, Kind: Test, Severity: Info, Summary: "a test of this sink, asked for by " + clean(by.ID, maxKey),
		Phase: Firing, Since: now, Changed: now, Sent: now, Count: 1, Instance: randomID(),
	}}
	err = m.attempt(ctx, s, d)
	action, f := tenant.AlertSent, immutable.Fields{"sink": sink, "message": d.id, "key": "test"}
	if err != nil {
		action, f["error"] = tenant.AlertFailed, clean(err.Error(), maxDetail)
	}
	return errors.Join(err, ta.t.Record(context.WithoutCancel(ctx), by, action, f))
}

// attempt is one try.
func (m *Manager) attempt(ctx context.Context, s *Sink, d *delivery) error {
	select {
	case m.slots <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-m.slots }()
	ctx, cancel := context.WithTimeout(ctx, outbound.Timeout)
	defer cancel()
	var err error
	switch s.Type {
	case Webhook:
		err = m.postWebhook(ctx, s, d)
	case Alertmanager:
		err = m.postAlertmanager(ctx, s, d)
	case Email:
		err = m.mail(ctx, s, d)
	}
	if errors.Is(err, outbound.ErrAddress) || errors.Is(err, outbound.ErrRedirect) {
		err = &permanentError{err}
	}
	return err
}

// message is the body of a webhook, after Standard Webhooks: type, timestamp, data.
type message struct {
	Type      string    `json:"type"` // "alert.firing", "alert.resolved" or "alert.test"
	Timestamp time.Time `json:"timestamp"`
	Data      struct {
		State

		Installation string `json:"installation"`
	} `json:"data"`
}

func (m *Manager) body(d *delivery) ([]byte, error) {
	var b message
	b.Type, b.Timestamp, b.Data.State = "alert."+string(d.state.Phase), d.state.Changed, d.state
	if d.state.Kind == Test {
		b.Type = "alert.test"
	}
	b.Data.Sinks, b.Data.Installation = nil, m.o.Installation.ID()
	return json.Marshal(b)
}

func (m *Manager) postWebhook(ctx context.Context, s *Sink, d *delivery) error {
	body, err := m.body(d)
	if err != nil {
		return err
	}
	h := http.Header{}
	outbound.SignWebhook(h, d.id, m.o.Now(), body, s.Secrets)
	return m.post(ctx, s.URL, h, body)
}

// amAlert is one alert as Alertmanager's API v2 takes it.
type amAlert struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	StartsAt    time.Time         `json:"startsAt"`
	EndsAt      time.Time         `json:"endsAt"`
}

func (m *Manager) postAlertmanager(ctx context.Context, s *Sink, d *delivery) error {
	st := &d.state
	a := amAlert{
		Labels:      map[string]string{"alertname": string(st.Kind), "severity": string(st.Severity), "tenant": st.Tenant, "key": st.Key, "installation": m.o.Installation.ID()},
		Annotations: map[string]string{"summary": st.Summary},
		StartsAt:    st.Since, EndsAt: st.Changed,
	}
	if st.Log != "" {
		a.Labels["log"] = st.Log
	}
	for k, v := range st.Details {
		a.Annotations["detail_"+strings.Map(labelRune, k)] = v
	}
	if st.Phase != Resolved {
		// It ends by itself, should this process never come back to resolve it.
		m.mu.Lock()
		repeat := 4 * time.Hour
		if ta := m.tenants[st.Tenant]; ta != nil {
			repeat = time.Duration(ta.rules.Limits.withDefaults().Repeat)
		}
		m.mu.Unlock()
		if repeat <= 0 {
			repeat = 7 * 24 * time.Hour
		}
		a.EndsAt = m.o.Now().UTC().Add(repeat + grace)
	}
	body, err := json.Marshal([]amAlert{a})
	if err != nil {
		return err
	}
	h := http.Header{}
	if len(s.Secrets) > 0 {
		h.Set("Authorization", "Bearer "+s.Secrets[0])
	}
	return m.post(ctx, strings.TrimSuffix(s.URL, "/")+"/api/v2/alerts", h, body)
}

func labelRune(r rune) rune {
	if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
		return r
	}
	return '_'
}

// post sends a body, and takes any 2xx for success. An answer's body proves nothing and is thrown away.
func (m *Manager) post(ctx context.Context, url string, h http.Header, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return &permanentError{err}
	}
	req.Header = h
	req.Header.Set("Content-Type", "application/json")
	_, err = outbound.Send(m.client, req)
	if s, ok := errors.AsType[*outbound.StatusError](err); ok && !s.Temporary() {
		return &permanentError{err}
	}
	return err
}
