package demo

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/event"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// Days is how long the week is.
const Days = 7

// Event is what happened at a time, and the log that it goes to.
type Event struct {
	At  time.Time
	Log string
	immutable.Event
}

// Week makes up what a small company's systems did in the week after begin, in the order of time. The same seed gives the same.
//
// Most of it is ordinary work. Four things are there to be found: guesses at passwords from one address, of which one was right
// after a lockout; a person who is given a role at night and reads all customers; a database that stops answering; a source that
// is silent for some hours.
func Week(begin time.Time, seed uint64) []Event {
	w := &week{begin: begin, rng: rand.New(rand.NewPCG(seed, 0x64656d6f))} //nolint:gosec // made-up events
	for hour := range Days * 24 {
		w.work(hour)
		w.machines(hour)
		w.money(hour)
	}
	w.guesses(w.at(4, 3, 12))
	w.insider(w.at(3, 22, 41))
	w.outage(w.at(2, 14, 5))
	// host db-2 said nothing for these hours: there is nothing to write, and that is what is to be seen
	from, to := w.at(5, 1, 0), w.at(5, 7, 30)
	w.events = slices.DeleteFunc(w.events, func(e Event) bool { return e.Hostname == "db-2" && e.At.After(from) && e.At.Before(to) })
	slices.SortStableFunc(w.events, func(a, b Event) int { return a.At.Compare(b.At) })
	return w.events
}

type week struct {
	begin  time.Time
	rng    *rand.Rand
	events []Event
	number int // of requests, payments and the like
}

type person struct{ id, name, ip string }

var people = []person{
	{"u-1001", "ann", "198.51.100.14"},
	{"u-1002", "bruno", "198.51.100.23"},
	{"u-1003", "chiara", "198.51.100.31"},
	{"u-1004", "deniz", "198.51.100.40"},
	{"u-1005", "emeka", "192.0.2.77"},
	{"u-1006", "fatima", "198.51.100.58"},
	{"u-1007", "goro", "192.0.2.81"},
	{"u-1008", "hanne", "198.51.100.66"},
	{"u-1009", "ivan", "198.51.100.72"},
	{"u-1010", "joana", "192.0.2.90"},
	{"u-1011", "kofi", "198.51.100.83"},
	{"u-1012", "lin", "198.51.100.97"},
}

const browser = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"

// at is a time of a day of the week, in UTC.
func (w *week) at(day, hour, minute int) time.Time {
	return w.begin.UTC().Truncate(24 * time.Hour).Add(24*time.Hour*time.Duration(day) + time.Hour*time.Duration(hour) + time.Minute*time.Duration(minute))
}

// add writes an event down, if it is of the week.
func (w *week) add(at time.Time, log string, level immutable.Level, host, message string, s event.Shape) {
	if at.Before(w.begin) || !at.Before(w.begin.Add(Days*24*time.Hour)) {
		return
	}
	if s.Extra == nil {
		s.Extra = immutable.Fields{}
	}
	s.Extra["demo"] = true
	w.events = append(w.events, Event{at, log, immutable.Event{Level: level, Message: message, Metadata: s.Fields(), EventTime: at, Hostname: host, PID: 1000 + uint32(len(host))*37}})
}

func (w *week) main(at time.Time, level immutable.Level, host, message string, s event.Shape) {
	w.add(at, tenant.MainName, level, host, message, s)
}

// later is some seconds after at.
func (w *week) later(at time.Time, most int) time.Time {
	return at.Add(time.Second + time.Duration(w.rng.IntN(most*1000))*time.Millisecond)
}

func (w *week) next(kind string) string {
	w.number++
	return fmt.Sprintf("%s_%06d", kind, w.number)
}

// busy is how much people work in an hour: most in the middle of a working day, little at night and at weekends.
func (w *week) busy(hour int) float64 {
	t := w.begin.Add(time.Duration(hour) * time.Hour).UTC()
	share := math.Exp(-math.Pow(float64(t.Hour())-13.5, 2) / 18)
	if d := t.Weekday(); d == time.Saturday || d == time.Sunday {
		share /= 6
	}
	return share + 0.03
}

func (w *week) times(mean float64) int {
	n := int(mean)
	if w.rng.Float64() < mean-float64(n) {
		n++
	}
	return n
}

func (w *week) within(hour int) time.Time {
	return w.begin.Add(time.Duration(hour)*time.Hour + time.Duration(w.rng.IntN(3600_000))*time.Millisecond)
}

func (w *week) actor(p *person) *event.Actor {
	return &event.Actor{Type: event.ActorUser, ID: p.id, Name: p.name, Email: p.name + "@acme.example"}
}

// work is what people do in an hour.
func (w *week) work(hour int) {
	for range w.times(11 * w.busy(hour)) {
		w.session(w.within(hour), &people[w.rng.IntN(len(people))])
	}
	if w.rng.Float64() < w.busy(hour)/4 {
		w.deployment(w.within(hour))
	}
}

// session is somebody who signs in, works and leaves.
func (w *week) session(at time.Time, p *person) {
	source := &event.Source{IP: p.ip, UserAgent: browser, Provider: "acme-web"}
	for w.rng.IntN(14) == 0 {
		w.main(at, immutable.Security, "web-1", "login failed", event.Shape{Kind: event.KindAuthentication, Action: event.ActionLogin, Actor: w.actor(p), Outcome: event.OutcomeFailure, Reason: "wrong password", Source: source})
		at = w.later(at, 20)
	}
	w.main(at, immutable.Security, "web-1", "login", event.Shape{Kind: event.KindAuthentication, Action: event.ActionLogin, Actor: w.actor(p), Outcome: event.OutcomeSuccess, Source: source})
	for range 2 + w.rng.IntN(6) {
		at = w.later(at, 90)
		w.request(at, p, source)
	}
	if w.rng.IntN(3) > 0 {
		w.main(w.later(at, 600), immutable.Security, "web-1", "logout", event.Shape{Kind: event.KindAuthentication, Action: event.ActionLogout, Actor: w.actor(p), Outcome: event.OutcomeSuccess, Source: source})
	}
}

var paths = []struct {
	method, path, table string
	write               bool
}{
	{"GET", "/api/orders", "orders", false},
	{"GET", "/api/customers/%d", "customers", false},
	{"POST", "/api/orders", "orders", true},
	{"GET", "/api/reports/sales", "sales", false},
	{"PUT", "/api/customers/%d", "customers", true},
	{"GET", "/api/invoices/%d", "invoices", false},
	{"DELETE", "/api/drafts/%d", "drafts", true},
	{"POST", "/api/invoices", "invoices", true},
}

// request is a call of the company's own API, and what it does in the database.
func (w *week) request(at time.Time, p *person, source *event.Source) {
	x := paths[w.rng.IntN(len(paths))]
	path, id := x.path, 100+w.rng.IntN(900)
	if strings.Contains(path, "%d") {
		path = fmt.Sprintf(path, id)
	}
	r := &event.Request{ID: w.next("req"), Method: x.method, Path: path, Status: 200, DurationMS: float64(int(3+w.rng.ExpFloat64()*40)*10) / 10}
	level, outcome, reason := immutable.Info, event.OutcomeSuccess, ""
	switch w.rng.IntN(40) {
	case 0:
		level, outcome, reason, r.Status = immutable.Warn, event.OutcomeDenied, "missing permission", 403
	case 1:
		level, outcome, reason, r.Status = immutable.Warn, event.OutcomeFailure, "not found", 404
	}
	w.main(at, level, "web-1", x.method+" "+path, event.Shape{Kind: event.KindWeb, Action: event.ActionHTTPRequest, Actor: w.actor(p), Outcome: outcome, Reason: reason, Source: source, Request: r})
	if !x.write || outcome != event.OutcomeSuccess {
		return
	}
	target := &event.Target{Type: "table", Name: x.table, ID: fmt.Sprint(id)}
	host := []string{"db-1", "db-2"}[w.rng.IntN(2)]
	w.main(at.Add(4*time.Millisecond), immutable.Audit, host, "transaction committed", event.Shape{Kind: event.KindDatabase, Action: event.ActionCommit, Actor: w.actor(p), Target: target, Outcome: event.OutcomeSuccess, Request: &event.Request{ID: r.ID, DurationMS: r.DurationMS / 2}, Extra: immutable.Fields{"rows": 1 + w.rng.IntN(4)}})
}

// deployment is software that goes out: a commit, a build, a changed setting.
func (w *week) deployment(at time.Time) {
	p := &people[w.rng.IntN(4)]
	sha := fmt.Sprintf("%016x%016x%08x", w.rng.Uint64(), w.rng.Uint64(), w.rng.Uint32())
	github := &event.Source{Provider: "github"}
	w.main(at, immutable.Audit, "ci-1", "GitHub commit created", event.Shape{Kind: event.KindContent, Action: event.ActionCommitPush, Actor: w.actor(p), Target: &event.Target{Type: "repository", Name: "acme/shop"}, Outcome: event.OutcomeSuccess, Source: github, Extra: immutable.Fields{"repo": "acme/shop", "sha": sha, "author": p.name}})
	at = w.later(at, 600)
	bot := &event.Actor{Type: event.ActorService, Name: "deploy-bot"}
	w.main(at, immutable.Audit, "ci-1", "deployed shop to production", event.Shape{Kind: event.KindDeployment, Action: event.ActionDeploy, Actor: bot, Target: &event.Target{Type: "service", Name: "shop"}, Outcome: event.OutcomeSuccess, Source: github, Extra: immutable.Fields{"repo": "acme/shop", "sha": sha, "environment": "production"}})
	w.main(w.later(at, 5), immutable.System, "web-1", "service restarted", event.Shape{Kind: event.KindProcess, Action: event.ActionServiceStart, Actor: bot, Target: &event.Target{Type: "service", Name: "shop"}, Outcome: event.OutcomeSuccess})
	if w.rng.IntN(2) == 0 {
		before, after := w.rng.Uint64(), w.rng.Uint64()
		w.main(w.later(at, 60), immutable.Audit, "web-1", "configuration changed", event.Shape{Kind: event.KindConfiguration, Action: event.ActionConfigChange, Actor: w.actor(p), Target: &event.Target{Type: "file", Name: "/etc/shop/shop.yaml"}, Outcome: event.OutcomeSuccess, Extra: immutable.Fields{"before": fmt.Sprintf("sha256:%016x…", before), "after": fmt.Sprintf("sha256:%016x…", after)}})
	}
}

// machines is what systems say of themselves, people or none.
func (w *week) machines(hour int) {
	at := w.begin.Add(time.Duration(hour) * time.Hour)
	for i, host := range []string{"db-1", "db-2", "web-1"} {
		free := 62 - hour/8 - 7*i
		level := immutable.System
		if free < 30 {
			level = immutable.Warn
		}
		w.main(at.Add(time.Duration(i+1)*time.Minute), level, host, fmt.Sprintf("disk %d %% free", free), event.Shape{Kind: event.KindSystem, Action: event.ActionMessage, Actor: &event.Actor{Type: event.ActorSystem, Name: "node-agent"}, Extra: immutable.Fields{"freePercent": free}})
	}
	if at.UTC().Hour() == 2 {
		w.main(w.later(at, 1800), immutable.Audit, "db-1", "backup written", event.Shape{Kind: event.KindFile, Action: event.ActionFileCreate, Actor: &event.Actor{Type: event.ActorService, Name: "backup"}, Target: &event.Target{Type: "file", Name: at.UTC().Format("/backup/shop-2006-01-02.tar.zst")}, Outcome: event.OutcomeSuccess, Extra: immutable.Fields{"bytes": 48_000_000_000 + w.rng.Int64N(1e9)}})
	}
	for range w.times(2 * w.busy(hour)) {
		tokens := 200 + w.rng.IntN(1800)
		w.main(w.within(hour), immutable.Info, "web-1", "model request", event.Shape{Kind: event.KindAPI, Action: event.ActionModelRequest, Actor: &event.Actor{Type: event.ActorService, Name: "support-assistant"}, Target: &event.Target{Type: "model", Name: "sonar"}, Outcome: event.OutcomeSuccess, Source: &event.Source{Provider: "perplexity"}, Extra: immutable.Fields{"usage": immutable.Fields{"promptTokens": tokens, "completionTokens": tokens / 3}}})
	}
}
