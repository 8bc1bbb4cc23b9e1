package monitor

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/alert"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// Limits of verifications.
const (
	maxRunning    = 2    // at a time
	maxWaiting    = 1000 // of all logs
	maxWaitingLog = 8    // of one log
	maxHistory    = 50   // jobs of one log that are remembered
	maxReports    = 5    // of them, with their report
	maxFindings   = 20   // that a job keeps beside its report
)

// job is a verification under way. Monitor.mu guards what changes of it.
type job struct {
	Job
	s       *logState
	o       immutable.VerifyOptions
	by      *tenant.Principal
	changed func(immutable.Progress)

	ctx      context.Context // while it runs
	cancel   context.CancelFunc
	cancelBy string // who has asked for its end; "": nobody
}

// Start asks for a full verification of a log. It returns when the request is recorded in the tenant's log of the log; the
// verification waits for its turn: two run at once, one of a log. ErrBusy when as many wait as may, ErrStopped after Run.
func (m *Monitor) Start(ctx context.Context, by *tenant.Principal, l *tenant.Log, o immutable.VerifyOptions) (*Job, error) {
	m.mu.Lock()
	s := m.logs[l]
	err := m.mayWait(s)
	m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	j := &job{Job: m.newJob(s, Full, OnRequest, by), s: s, o: o, by: by, changed: o.Progress}
	if err := l.Tenant().Record(ctx, by, tenant.VerifyStarted, j.fields()); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.enqueue(j); err != nil {
		return nil, err
	}
	out := j.Job
	return &out, nil
}

// Cancel ends a verification that was asked for and waits or runs; true where there is one of this id. One that runs ends soon after,
// as Cancelled and without a verdict; one that has ended stays as it is. What the service began by itself is ErrOwn: who could end
// that could keep a log from being verified.
func (m *Monitor) Cancel(by *tenant.Principal, l *tenant.Log, id string) (Job, bool, error) {
	m.mu.Lock()
	s := m.logs[l]
	at := -1
	if s != nil {
		at = slices.IndexFunc(s.jobs, func(j *job) bool { return j.ID == id })
	}
	if at < 0 {
		m.mu.Unlock()
		return Job{}, false, nil
	}
	j := s.jobs[at]
	if j.Phase != Queued && j.Phase != Running || j.cancelBy != "" {
		defer m.mu.Unlock()
		return j.Job, true, nil
	}
	if j.By == "" {
		defer m.mu.Unlock()
		return j.Job, true, ErrOwn
	}
	j.cancelBy = by.ID
	if j.Phase == Running {
		j.cancel()
		defer m.mu.Unlock()
		return j.Job, true, nil
	}
	m.waiting = slices.DeleteFunc(m.waiting, func(w *job) bool { return w == j })
	j.end(m.o.Now(), Cancelled, j.cancelledBy())
	s.counts[string(Cancelled)]++
	final := j.Job
	m.mu.Unlock()
	m.record(s, by, tenant.VerifyFinished, final.finished())
	return final, true, nil
}

func (j *job) cancelledBy() string { return "cancelled by " + j.cancelBy }

// mayWait says whether a verification of the log may wait for its turn. m.mu is held.
func (m *Monitor) mayWait(s *logState) error {
	n := 0
	for _, j := range m.waiting {
		if j.s == s {
			n++
		}
	}
	switch {
	case m.stopped:
		return ErrStopped
	case s == nil:
		return fmt.Errorf("%w: it does not know this log", ErrStopped)
	case n >= maxWaitingLog:
		return fmt.Errorf("%w: %d of this log; look at them, or try again when they are done", ErrBusy, n)
	case len(m.waiting) >= maxWaiting:
		return fmt.Errorf("%w: %d; try again later", ErrBusy, len(m.waiting))
	}
	return nil
}

func (m *Monitor) newJob(s *logState, scope Scope, why Trigger, by *tenant.Principal) Job {
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails, crypto/rand says
	j := Job{
		ID: hex.EncodeToString(id[:]), Tenant: s.l.Tenant().Name(), Log: s.l.Name(), Scope: scope, Trigger: why, Phase: Queued,
		Created: m.o.Now().UTC(),
	}
	if by != nil {
		j.By = by.ID
	}
	return j
}

// enqueue lets a job wait for its turn. m.mu is held.
func (m *Monitor) enqueue(j *job) error {
	if err := m.mayWait(j.s); err != nil {
		return err
	}
	m.waiting = append(m.waiting, j)
	j.s.remember(j)
	m.poke()
	return nil
}

func (m *Monitor) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// remember adds a job to the history, and lets go of what is too old: those that have ended first come first.
func (s *logState) remember(j *job) {
	s.jobs = append(s.jobs, j)
	for i := 0; len(s.jobs) > maxHistory && i < len(s.jobs); {
		if s.jobs[i].Phase == Queued || s.jobs[i].Phase == Running {
			i++
			continue
		}
		s.jobs = slices.Delete(s.jobs, i, i+1)
	}
}

// letReportsGo keeps the newest reports only.
func (s *logState) letReportsGo() {
	reports := 0
	for i := len(s.jobs) - 1; i >= 0; i-- {
		if s.jobs[i].Report != nil {
			if reports++; reports > maxReports {
				s.jobs[i].Report = nil
			}
		}
	}
}

// begin starts a verification that nobody asked for, unless one of its kind waits already.
func (m *Monitor) begin(s *logState, scope Scope, why Trigger) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, j := range m.waiting {
		if j.s == s && j.Scope == scope && j.By == "" {
			return
		}
	}
	j := &job{Job: m.newJob(s, scope, why, nil), s: s, o: immutable.VerifyOptions{Indexes: scope == Full, Workers: 1}}
	if err := m.enqueue(j); err != nil && !errors.Is(err, ErrStopped) {
		m.logger.Warn("a verification is left out", "tenant", j.Tenant, "log", j.Log, "scope", scope, "trigger", why, "error", err)
	}
}

// work runs jobs, one after the other.
func (m *Monitor) work(ctx context.Context) {
	for {
		j := m.next(ctx)
		if j == nil {
			return
		}
		m.run(ctx, j)
	}
}

// next waits for a job whose log has no other running.
func (m *Monitor) next(ctx context.Context) *job {
	for {
		m.mu.Lock()
		for i, j := range m.waiting {
			if !j.s.busy && ctx.Err() == nil {
				m.waiting = slices.Delete(m.waiting, i, i+1)
				j.s.busy = true
				j.Phase, j.Started = Running, m.o.Now().UTC()
				j.ctx, j.cancel = context.WithCancel(ctx)
				if len(m.waiting) > 0 {
					m.poke() // for the other worker
				}
				m.mu.Unlock()
				return j
			}
		}
		m.mu.Unlock()
		select {
		case <-m.wake:
		case <-ctx.Done():
			return nil
		}
	}
}

// run carries a job out, and tells everybody what came of it.
func (m *Monitor) run(ctx context.Context, j *job) {
	if j.By == "" {
		m.record(j.s, nil, tenant.VerifyStarted, j.fields())
	}
	var out outcome
	switch j.Scope {
	case Full:
		out = m.verify(j.ctx, j)
	case Open:
		out = m.verifyOpen(j.ctx, j)
	case Segment:
		out = m.verifySegments(j.ctx, j)
	}
	j.cancel()
	m.mu.Lock()
	s := j.s
	s.busy = false
	j.Verdict, j.Findings, j.Report = out.verdict, out.findings, out.report
	switch {
	case out.err == nil:
		j.end(m.o.Now(), Done, "")
	case ctx.Err() != nil:
		j.end(m.o.Now(), Cancelled, "the service stopped")
	case j.cancelBy != "":
		j.end(m.o.Now(), Cancelled, j.cancelledBy())
	default:
		j.end(m.o.Now(), Failed, out.err.Error())
	}
	s.letReportsGo()
	result := string(j.Phase)
	if j.Phase == Done {
		result = string(j.Verdict)
	}
	s.counts[result]++
	if j.Scope == Full && j.Phase == Done {
		s.kept.Last, s.kept.LastTime, s.kept.LastSize, s.kept.Unread = out.verdict, j.Ended, out.report.Size, unread(out.report)
	}
	if j.Phase == Done && (out.verdict == immutable.Refuted || j.Scope == Full && good(out.verdict)) {
		s.kept.Refuted = out.verdict == immutable.Refuted
	}
	m.dirty[s.l.Tenant()] = true
	final, alarms := j.Job, len(s.alarms)
	m.poke() // the log is free for its next job
	m.mu.Unlock()
	m.record(s, j.by, tenant.VerifyFinished, final.finished())
	if final.Phase != Cancelled {
		m.tell(s, &final, alarms)
	}
}

// unread is how many entries of the log a report says nothing about but their hashes: they are retired, and lie nowhere that it looked.
func unread(rep *immutable.Report) (n uint64) {
	for i := range rep.Retired {
		if r := &rep.Retired[i]; r.Read == "" {
			n += r.End - r.First
		}
	}
	return n
}

func good(v immutable.Verdict) bool { return v == immutable.Proven || v == immutable.Consistent }

// tell raises and resolves the alerts that follow from a verification. Damage that was found in part of the log is looked
// at as a whole; only a whole verification can take it back.
func (m *Monitor) tell(s *logState, j *Job, alarms int) {
	switch {
	case j.Phase == Failed || j.Verdict == immutable.Unknown:
		why := j.Error
		if why == "" {
			why = "it could not tell"
		}
		m.event(s, alert.VerificationFailed, false, fmt.Sprintf("verification of log %s could not tell: %s", j.Log, why), j.details())
	case j.Verdict == immutable.Refuted:
		summary := fmt.Sprintf("log %s is refuted", j.Log)
		if len(j.Findings) > 0 {
			summary += fmt.Sprintf(": %s: %s", j.Findings[0].File, j.Findings[0].What)
		}
		m.event(s, alert.VerificationRefuted, false, summary, j.details())
		if j.Scope != Full {
			m.begin(s, Full, j.Trigger)
		}
	case j.Scope == Full:
		m.event(s, alert.VerificationFailed, true, "", nil)
		m.event(s, alert.VerificationRefuted, true, fmt.Sprintf("log %s verifies: %s", j.Log, j.Verdict), j.details())
		if alarms == 0 {
			m.event(s, alert.FileChanged, true, fmt.Sprintf("log %s verifies, and its files are as they must be", j.Log), nil)
		}
	}
}

func (j *job) end(now time.Time, phase Phase, why string) {
	j.Phase, j.Ended, j.Error = phase, now.UTC(), why
	j.o, j.changed = immutable.VerifyOptions{}, nil
}

// fields are what the log of the log says of a job.
func (j *Job) fields() immutable.Fields {
	return immutable.Fields{"log": j.Log, "job": j.ID, "scope": string(j.Scope), "trigger": string(j.Trigger)}
}

func (j *Job) finished() immutable.Fields {
	f := j.fields()
	f["phase"] = string(j.Phase)
	if !j.Started.IsZero() {
		f["seconds"] = j.Ended.Sub(j.Started).Seconds()
	}
	if j.Verdict != "" {
		f["verdict"] = string(j.Verdict)
	}
	if j.Report != nil {
		f["size"], f["root"] = j.Report.Size, j.Report.Root.Base64()
	}
	if len(j.Findings) > 0 {
		found := make([]immutable.Fields, 0, len(j.Findings))
		for _, x := range j.Findings {
			found = append(found, immutable.Fields{"file": cut(x.File, 300), "offset": x.Offset, "index": x.Index, "what": cut(x.What, 500)})
		}
		f["findings"] = found
	}
	if j.Error != "" {
		f["error"] = cut(j.Error, 1000)
	}
	return f
}

func (j *Job) details() map[string]string {
	d := map[string]string{"job": j.ID, "scope": string(j.Scope), "trigger": string(j.Trigger), "verdict": string(j.Verdict)}
	if j.Error != "" {
		d["error"] = j.Error
	}
	for i, f := range j.Findings[:min(3, len(j.Findings))] {
		d[fmt.Sprintf("finding%d", i+1)] = fmt.Sprintf("%s, offset %d: %s", f.File, f.Offset, f.What)
	}
	return d
}

// cut shortens text for a record, at a character's beginning.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xC0 == 0x80 {
		n--
	}
	return s[:n] + "…"
}

// outcome is what a verification came to. err says that it could not be carried out.
type outcome struct {
	verdict  immutable.Verdict
	findings []immutable.Finding
	report   *immutable.Report // of a full one
	err      error
}

func (m *Monitor) verify(ctx context.Context, j *job) outcome {
	j.o.Progress = m.progressOf(j)
	if _, err := os.Stat(j.s.l.ColdDir()); err == nil {
		j.o.Cold = j.s.l.ColdDir() // what was moved there is read too; what is not there stays unread, and the report says so
	}
	rep, err := j.s.l.Verify(ctx, j.o)
	if err != nil {
		return outcome{err: err}
	}
	return outcome{verdict: rep.Verdict, findings: slices.Clone(rep.Findings[:min(maxFindings, len(rep.Findings))]), report: rep}
}

// progressOf keeps a job's progress, and passes it on.
func (m *Monitor) progressOf(j *job) func(immutable.Progress) {
	next := j.changed
	var last time.Time
	return func(p immutable.Progress) {
		if now := time.Now(); now.Sub(last) >= 50*time.Millisecond || p.Entries == p.TotalEntries {
			last = now
			m.mu.Lock()
			j.Progress = p
			m.mu.Unlock()
		}
		if next != nil {
			next(p)
		}
	}
}

// guardOf waits for the guard of a log, which first looks at every file.
func (m *Monitor) guardOf(s *logState) (*immutable.Guard, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.guard == nil {
		return nil, errors.New("its files are not guarded: the log cannot be written, or is being opened")
	}
	return s.guard, nil
}

// verifyOpen looks at every file that is not one of a sealed segment, whether it has changed or not: the entries of the open
// segment were proven when they came, and are read again.
func (m *Monitor) verifyOpen(ctx context.Context, j *job) outcome {
	g, err := m.guardOf(j.s)
	if err != nil {
		return outcome{err: err}
	}
	out := outcome{verdict: immutable.Consistent}
	for _, name := range g.Names() {
		if g.Sealed(name) {
			continue
		}
		_, err := g.Check(ctx, name, true)
		if err := m.checked(j.s, name, err); err != nil {
			return outcome{err: err}
		}
		out.add(name, err)
	}
	return out
}

// verifySegments reads the segments that were sealed since the last one that was read.
func (m *Monitor) verifySegments(ctx context.Context, j *job) outcome {
	g, err := m.guardOf(j.s)
	if err != nil {
		return outcome{err: err}
	}
	out := outcome{verdict: immutable.Consistent}
	for _, first := range j.s.l.SealedSegments() {
		m.mu.Lock()
		from := j.s.kept.Sealed
		m.mu.Unlock()
		if first < from {
			continue
		}
		err := g.Segment(ctx, first, nil)
		if ctx.Err() != nil || errors.Is(err, immutable.ErrClosed) {
			return outcome{err: err}
		}
		m.mu.Lock()
		j.Job.Segment = first
		j.s.kept.Sealed = first + 1
		m.mu.Unlock()
		out.add(fmt.Sprintf("segment %d", first), err)
	}
	return out
}

// add takes what is wrong with one file into the outcome.
func (o *outcome) add(name string, err error) {
	var c *immutable.CorruptError
	switch {
	case err == nil:
	case errors.As(err, &c):
		o.verdict = immutable.Refuted
		if len(o.findings) < maxFindings {
			o.findings = append(o.findings, immutable.Finding{File: c.File, Offset: c.Offset, Index: -1, What: c.What, Got: c.Got, Want: c.Want})
		}
	default:
		if o.verdict != immutable.Refuted {
			o.verdict = immutable.Unknown
		}
		if len(o.findings) < maxFindings {
			o.findings = append(o.findings, immutable.Finding{File: name, Offset: -1, Index: -1, What: err.Error()})
		}
	}
}

// Jobs are the log's verifications, the newest first, without their reports.
func (m *Monitor) Jobs(l *tenant.Log) []Job {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.logs[l]
	if s == nil {
		return nil
	}
	list := make([]Job, 0, len(s.jobs))
	for i := len(s.jobs) - 1; i >= 0; i-- {
		j := s.jobs[i].Job
		j.Report = nil
		list = append(list, j)
	}
	return list
}

// Job is one of them, as it stands.
func (m *Monitor) Job(l *tenant.Log, id string) (Job, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.logs[l]; s != nil {
		for _, j := range s.jobs {
			if j.ID == id {
				return j.Job, true
			}
		}
	}
	return Job{}, false
}
