package server

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/compliance"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// complianceRoutes show what a tenant's logs prove and support, control by control.
func complianceRoutes() []route {
	return []route{
		{Method: "GET", Pattern: tenantPath + "/compliance", Permission: tenant.PermAuditTenant, Query: []string{"days"}, ID: "getCompliance", Handle: getCompliance},
	}
}

const (
	complianceDays    = 30
	maxComplianceDays = 400
)

// The states of evidence.
const (
	isThere   = "there"     // it was read, and shows what it is for
	attention = "attention" // it was read, and somebody should look
	isNone    = "none"      // there is nothing to show
)

// evidence is what was found, now.
type evidence struct {
	Title string         `json:"title"`
	State string         `json:"state"`
	Items []evidenceItem `json:"items"`
}

type evidenceItem struct {
	Text  string `json:"text"`
	Log   string `json:"log,omitempty"`
	Query string `json:"query,omitempty"` // the entries behind it, from Since on
}

// collector reads a tenant's evidence.
type collector struct {
	r     *request
	since time.Time
	logs  []*tenant.Log // that can be read, without the log of the log
	all   []*tenant.Log // with it
	out   map[string]*evidence
	err   error
	read  map[string]uint64 // entries that were counted, by log
}

func getCompliance(r *request) error {
	days, err := r.number("days", complianceDays, 1, maxComplianceDays)
	if err != nil {
		return err
	}
	done, err := r.placeToSearch()
	if err != nil {
		return err
	}
	defer done()
	now := r.s.o.Now().UTC()
	c := &collector{r: r, since: now.AddDate(0, 0, -int(days)), out: map[string]*evidence{}, read: map[string]uint64{}}
	if err := c.collect(); err != nil {
		return err
	}
	return r.json(http.StatusOK, struct {
		Tenant     string                 `json:"tenant"`
		Time       time.Time              `json:"time"`
		Since      time.Time              `json:"since"`
		Statement  string                 `json:"statement"`
		Frameworks []compliance.Framework `json:"frameworks"`
		Evidence   map[string]*evidence   `json:"evidence"`
	}{r.tenant.Name(), now, c.since, compliance.Statement, compliance.Frameworks(), c.out})
}

// collect reads all evidence, on record as searches of the logs.
func (c *collector) collect() (err error) {
	for _, l := range c.r.tenant.Logs() {
		if l.Log == nil || l.Err() != nil || c.r.principal.Allow(tenant.PermRead, c.r.tenant.Name(), l.Name()) != nil {
			continue
		}
		end, err := c.r.tenant.BeginRead(c.r.Context(), c.r.principal, tenant.Read{Log: l.Name(), Action: "search", Filter: "compliance since " + c.since.Format(time.RFC3339)})
		if err != nil {
			return err
		}
		defer func() { end(c.read[l.Name()], c.err) }()
		c.all = append(c.all, l)
		if l.Name() != tenant.SystemName {
			c.logs = append(c.logs, l)
		}
	}
	for id, title := range compliance.Evidences {
		c.out[id] = &evidence{Title: title, State: isNone, Items: []evidenceItem{}}
	}
	c.ofLogs()
	c.ofService()
	c.ofEntries()
	c.ofReviews()
	return c.err
}

// say adds a sentence. The worst state of its sentences is that of the evidence: none gives way to what is there, and that to what
// somebody should look at.
func (c *collector) say(id, state string, item evidenceItem) {
	e := c.out[id]
	e.Items = append(e.Items, item)
	if state == attention || state == isThere && e.State == isNone {
		e.State = state
	}
}

// count counts entries since the beginning of the time.
func (c *collector) count(l *tenant.Log, query string) uint64 {
	if c.err != nil {
		return 0
	}
	n, err := l.Count(c.r.Context(), immutable.Query{Text: query, Since: c.since, Now: c.r.s.o.Now()})
	c.err = err
	c.read[l.Name()] += n.N
	return n.N
}

// ofLogs is what each log says of itself.
func (c *collector) ofLogs() {
	for _, l := range c.all {
		name, size := l.Name(), l.Size()
		if m := c.r.s.o.Monitor; m != nil {
			s := m.Status(l)
			switch {
			case s.Refuted || s.FileAlarms > 0:
				c.say(compliance.Integrity, attention, evidenceItem{Text: name + ": something was changed; look at Verify", Log: name})
			case s.Last == immutable.Proven:
				c.say(compliance.Integrity, isThere, evidenceItem{Text: fmt.Sprintf("%s: proven at %s, %d entries read of %d then", name, s.LastTime.UTC().Format(time.RFC3339), s.LastSize-s.LastUnread, s.LastSize), Log: name})
			case s.Last == "":
				c.say(compliance.Integrity, attention, evidenceItem{Text: name + ": not verified by this service yet", Log: name})
			default:
				c.say(compliance.Integrity, attention, evidenceItem{Text: fmt.Sprintf("%s: the last verification said %s", name, s.Last), Log: name})
			}
			if s.Watched {
				c.say(compliance.Watch, isThere, evidenceItem{Text: name + ": changes of files are noticed as they happen"})
			} else {
				c.say(compliance.Watch, attention, evidenceItem{Text: name + ": files are looked at now and then only"})
			}
		}
		if len(l.VerifierKeys()) > 0 {
			c.say(compliance.Signatures, isThere, evidenceItem{Text: fmt.Sprintf("%s: %d entries, keys of epoch %d", name, size, l.Epoch())})
		} else {
			c.say(compliance.Signatures, attention, evidenceItem{Text: name + ": made without signatures"})
		}
		if w := l.Witnessing(); w != nil && w.Satisfied {
			c.say(compliance.Witnesses, isThere, evidenceItem{Text: fmt.Sprintf("%s: the newest checkpoint has its quorum, %s", name, w.Quorum)})
		} else if w != nil {
			c.say(compliance.Witnesses, attention, evidenceItem{Text: fmt.Sprintf("%s: the newest checkpoint lacks its quorum, %s", name, w.Quorum)})
		}
		c.retention(l)
	}
}

func (c *collector) retention(l *tenant.Log) {
	stats, err := l.Stats(c.r.Context())
	if err != nil {
		c.err = err
		return
	}
	kept := "for ever"
	if s := l.Settings(); s.KeepDays > 0 && s.Expired != "keep" {
		kept = fmt.Sprintf("at least %d days, then %s", s.KeepDays, s.Expired)
	}
	oldest := "no entry yet"
	if stats.OldestEntry != nil {
		oldest = "oldest entry " + stats.OldestEntry.UTC().Format(time.RFC3339)
	}
	c.say(compliance.Retention, isThere, evidenceItem{Text: fmt.Sprintf("%s: %s; kept %s; %d entries retired", l.Name(), oldest, kept, stats.RetiredEntries), Log: l.Name(), Query: "control:retire"})
	if stats.Holds > 0 {
		c.say(compliance.Holds, isThere, evidenceItem{Text: fmt.Sprintf("%s: %d active", l.Name(), stats.Holds), Log: l.Name(), Query: "control:hold"})
	}
}

// ofService is what the service knows: tokens, sinks, sources, alerts, and what the log of the log has.
func (c *collector) ofService() {
	byRole := map[string]int{}
	for _, t := range c.r.tenant.Tokens() {
		if t.Revoked.IsZero() && (t.Expires.IsZero() || t.Expires.After(c.r.s.o.Now())) {
			byRole[string(t.Role)]++
		}
	}
	for _, role := range []string{"writer", "reader", "auditor", "admin"} {
		if byRole[role] > 0 {
			c.say(compliance.Roles, isThere, evidenceItem{Text: fmt.Sprintf("%s: %d valid tokens of this tenant", role, byRole[role])})
		}
	}
	if m := c.r.s.o.Sinks; m != nil {
		list, err := m.List(c.r.principal, c.r.tenant.Name())
		if err != nil {
			c.err = err
			return
		}
		for _, v := range list {
			state := isThere
			if v.Status.Error != "" || v.Status.DeadLetters > 0 || v.Paused {
				state = attention
			}
			c.say(compliance.Copies, state, evidenceItem{Text: fmt.Sprintf("%s, %s of %s: %s, %d entries behind, %d dead letters", v.Name, v.Type, v.Log, v.Status.State, v.Status.Lag, v.Status.DeadLetters)})
		}
	}
	if reg := c.r.s.o.Registry; reg != nil {
		for _, t := range reg.Traffic(c.r.tenant.Name()) {
			refused := uint64(0)
			for _, n := range t.Rejected {
				refused += n
			}
			c.say(compliance.Sources, isThere, evidenceItem{Text: fmt.Sprintf("%s %s to %s: %d accepted, %d refused since the start, last seen %s", t.Kind, t.Name, t.Log, t.Accepted, refused, t.LastSeen.UTC().Format(time.RFC3339))})
		}
	}
	if a := c.r.s.o.Alerts; a != nil {
		rules, err := a.Rules(c.r.tenant.Name())
		if err != nil {
			c.err = err
			return
		}
		if len(rules.Sinks) == 0 {
			c.say(compliance.Alerts, attention, evidenceItem{Text: "nobody is told: no receiver of alerts is set"})
		} else {
			c.say(compliance.Alerts, isThere, evidenceItem{Text: fmt.Sprintf("%d receivers, %d saved queries", len(rules.Sinks), len(rules.Queries))})
		}
	}
	system, err := c.r.tenant.Log(tenant.SystemName)
	if err != nil || !slices.Contains(c.all, system) {
		return
	}
	for _, x := range []struct{ id, text, query string }{
		{compliance.Alerts, "raised", "action:alert.raised"},
		{compliance.Alerts, "sent", "action:alert.sent"},
		{compliance.Alerts, "that could not be sent", "action:alert.failed"},
		{compliance.Reads, "records of reads, searches and exports", "action:read.begin OR action:read.end"},
		{compliance.Lifecycle, "starts", "action:service.start"},
		{compliance.Lifecycle, "stops", "action:service.stop"},
		{compliance.Lifecycle, "new logs", "action:log.create"},
		{compliance.Admin, "changes of tenants, logs, tokens, keys, holds, sinks and sources", administration},
		{compliance.Denied, "refused authentications to this service", "action:auth.refused"},
		{compliance.Integrity, "verifications that ended", "action:verify.finished"},
	} {
		if n := c.count(system, x.query); n > 0 {
			state := isThere
			if x.query == "action:alert.failed" {
				state = attention
			}
			c.say(x.id, state, evidenceItem{Text: fmt.Sprintf("%d %s", n, x.text), Log: tenant.SystemName, Query: x.query})
		}
	}
}

const administration = "action:tenant.update OR action:token.create OR action:token.revoke OR action:log.create OR action:log.update OR action:log.rotate OR action:hold.set OR action:hold.release OR action:alert.rules OR action:sink.create OR action:sink.update OR action:sink.delete OR action:source.create OR action:source.update OR action:source.delete"

// ofEntries is what sources told, in the common shape.
func (c *collector) ofEntries() {
	for _, l := range c.logs {
		for _, x := range []struct{ id, text, query string }{
			{compliance.Logins, "logins that succeeded or failed", "action:user.login"},
			{compliance.Logins, "failed logins", "action:user.login outcome:failure"},
			{compliance.Accounts, "changes of accounts and rights", "kind:account"},
			{compliance.Denied, "refused by a rule", "outcome:denied"},
			{compliance.Objects, "objects and files made, changed, deleted", "action:object.create OR action:object.update OR action:object.delete OR action:file.*"},
			{compliance.Changes, "deployments, commits and changed settings", "kind:deployment OR kind:configuration OR action:commit.push"},
			{compliance.Clock, "steps of the log's clock", "control:clock"},
		} {
			if n := c.count(l, x.query); n > 0 {
				c.say(x.id, isThere, evidenceItem{Text: fmt.Sprintf("%s: %d %s", l.Name(), n, x.text), Log: l.Name(), Query: x.query})
			}
		}
		const whole = "exists:actor exists:action exists:outcome exists:source"
		if all := c.count(l, ""); all > 0 {
			n := c.count(l, whole)
			c.say(compliance.Completeness, isThere, evidenceItem{Text: fmt.Sprintf("%s: %d of %d entries have actor, action, outcome and source", l.Name(), n, all), Log: l.Name(), Query: whole})
		}
	}
	if c.out[compliance.Clock].State == isNone && c.err == nil && len(c.logs) > 0 {
		c.say(compliance.Clock, isThere, evidenceItem{Text: "no step of the clock in this time"})
	}
}

// ofReviews is which of the last days somebody signed.
func (c *collector) ofReviews() {
	if c.err != nil {
		return
	}
	v := &dayReview{}
	if c.err = c.r.earlier(v); c.err != nil {
		return
	}
	if len(v.Missed) > 0 {
		c.say(compliance.Reviews, attention, evidenceItem{Text: fmt.Sprintf("%d of the last %d days have no review: %s", len(v.Missed), reviewDays, strings.Join(v.Missed, ", "))})
	}
	system, err := c.r.tenant.Log(tenant.SystemName)
	if err != nil {
		c.err = err
		return
	}
	const query = "action:review.signed"
	if n := c.count(system, query); n > 0 {
		c.say(compliance.Reviews, isThere, evidenceItem{Text: fmt.Sprintf("%d reviews were signed", n), Log: tenant.SystemName, Query: query})
	}
}
