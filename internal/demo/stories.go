package demo

import (
	"fmt"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/event"
)

// A plan is what customers pay for, in the minor unit of each currency.
type plan struct {
	name   string
	prices map[string]int64
}

var plans = []plan{
	{"starter", map[string]int64{"eur": 1900, "usd": 1900, "jpy": 2800, "gbp": 1700}},
	{"team", map[string]int64{"eur": 9900, "usd": 9900, "jpy": 14800, "gbp": 8900}},
	{"enterprise", map[string]int64{"eur": 99000, "usd": 99000, "jpy": 148000, "gbp": 89000}},
}

var currencies = []string{"eur", "eur", "eur", "usd", "usd", "jpy", "gbp"}

// money is what Stripe told in an hour: charges around the clock, and now and then one that fails, is given back or disputed.
func (w *week) money(hour int) {
	for range w.times(1.5 + 4*w.busy(hour)) {
		at, currency := w.within(hour), currencies[w.rng.IntN(len(currencies))]
		p := plans[min(w.rng.IntN(4), 2)]
		if p.name == "enterprise" && w.rng.IntN(3) > 0 {
			p = plans[0]
		}
		customer := fmt.Sprintf("cus_demo%03d", w.rng.IntN(180))
		amount := p.prices[currency]
		switch charge := w.next("ch_demo"); w.rng.IntN(30) {
		case 0:
			w.stripe(at, "charge failed", "charge", charge, customer, p.name, currency, "failed", amount)
		case 1:
			w.stripe(at, "charge succeeded", "charge", charge, customer, p.name, currency, "succeeded", amount)
			w.stripe(w.later(at, 4*3600), "refund created", "refund", w.next("re_demo"), customer, p.name, currency, "succeeded", amount)
		default:
			w.stripe(at, "charge succeeded", "charge", charge, customer, p.name, currency, "succeeded", amount)
		}
	}
	if at := w.begin.Add(time.Duration(hour) * time.Hour); at.UTC().Hour() == 6 {
		w.stripe(w.later(at, 300), "payout paid", "payout", w.next("po_demo"), "", "", "eur", "paid", 180_000+w.rng.Int64N(90_000))
	}
}

// stripe says it as a webhook of Stripe is told.
func (w *week) stripe(at time.Time, what, object, id, customer, plan, currency, status string, amount int64) {
	extra := immutable.Fields{"stripeId": id, "amount": amount, "currency": currency, "status": status}
	for name, value := range map[string]string{"customerId": customer, "plan": plan} {
		if value != "" {
			extra[name] = value
		}
	}
	s := event.Shape{Kind: event.KindRevenue, Action: strings.ReplaceAll(what, " ", "."), Actor: &event.Actor{Type: event.ActorSystem, Name: "stripe"}, Target: &event.Target{Type: object, ID: id}, Source: &event.Source{Provider: "stripe"}, Extra: extra}
	if status == "failed" {
		s.Outcome = event.OutcomeFailure
	}
	w.add(at, Billing, immutable.Revenue, "hooks", "Stripe "+what, s)
}

// guesses are 180 passwords tried in 20 minutes, a lockout, and one that was right.
func (w *week) guesses(at time.Time) {
	source := &event.Source{IP: "203.0.113.42", UserAgent: "python-requests/2.32", Provider: "acme-web"}
	for i := range 180 {
		p := &people[i%len(people)]
		w.main(at.Add(time.Duration(i)*6500*time.Millisecond), immutable.Security, "web-1", "login failed", event.Shape{Kind: event.KindAuthentication, Action: event.ActionLogin, Actor: w.actor(p), Outcome: event.OutcomeFailure, Reason: "wrong password", Source: source})
	}
	victim := &people[1]
	at = at.Add(20 * time.Minute)
	w.main(at, immutable.Security, "web-1", "account locked", event.Shape{Kind: event.KindAuthentication, Action: event.ActionLockout, Actor: w.actor(victim), Outcome: event.OutcomeSuccess, Reason: "15 failed logins", Source: source})
	w.main(at.Add(3*time.Second), immutable.Critical, "web-1", "many failed logins from one address", event.Shape{Kind: event.KindSecurity, Action: event.ActionAlert, Actor: &event.Actor{Type: event.ActorSystem, Name: "login-guard"}, Target: &event.Target{Type: "address", ID: source.IP}, Source: source, Extra: immutable.Fields{"failures": 180, "accounts": len(people)}})
	w.main(at.Add(31*time.Minute), immutable.Security, "web-1", "account unlocked", event.Shape{Kind: event.KindAuthentication, Action: event.ActionUnlock, Actor: w.actor(victim), Outcome: event.OutcomeSuccess, Reason: "time is over", Source: &event.Source{Provider: "acme-web"}})
	w.main(at.Add(34*time.Minute), immutable.Security, "web-1", "login", event.Shape{Kind: event.KindAuthentication, Action: event.ActionLogin, Actor: w.actor(victim), Outcome: event.OutcomeSuccess, Source: source})
	w.main(at.Add(35*time.Minute), immutable.Security, "web-1", "second factor refused", event.Shape{Kind: event.KindAuthentication, Action: event.ActionMFA, Actor: w.actor(victim), Outcome: event.OutcomeDenied, Reason: "no answer", Source: source})
}

// insider is somebody who is given a role at night, reads what it opens, and has it taken away in the morning.
func (w *week) insider(at time.Time) {
	giver, taker := &people[3], &people[8]
	source := &event.Source{IP: giver.ip, UserAgent: browser, Provider: "acme-web"}
	role := func(at time.Time, message, action string) {
		w.main(at, immutable.Security, "web-1", message, event.Shape{Kind: event.KindAccount, Action: action, Actor: w.actor(giver), Target: &event.Target{Type: "user", ID: taker.id, Name: taker.name}, Outcome: event.OutcomeSuccess, Source: source, Extra: immutable.Fields{"role": "data-admin"}})
	}
	role(at, "role given", event.ActionRoleAssign)
	for i := range 24 {
		w.main(at.Add(time.Duration(4+i)*time.Minute), immutable.Audit, "db-1", "customers exported", event.Shape{Kind: event.KindDatabase, Action: event.ActionQuery, Actor: w.actor(taker), Target: &event.Target{Type: "table", Name: "customers"}, Outcome: event.OutcomeSuccess, Source: &event.Source{IP: taker.ip, Provider: "acme-web"}, Extra: immutable.Fields{"rows": 5000, "offset": 5000 * i}})
	}
	role(at.Add(8*time.Hour+17*time.Minute), "role taken away", event.ActionRoleUnassign)
}

// outage is a database that does not answer for half an hour.
func (w *week) outage(at time.Time) {
	shop := &event.Actor{Type: event.ActorService, Name: "shop"}
	db := &event.Target{Type: "database", Name: "shop"}
	for i := range 90 {
		level, message := immutable.Error, "transaction rolled back"
		if i%3 == 0 {
			level, message = immutable.Warn, "query repeated after a timeout"
		}
		w.main(at.Add(time.Duration(i)*19*time.Second), level, "db-1", message, event.Shape{Kind: event.KindDatabase, Action: event.ActionRollback, Actor: shop, Target: db, Outcome: event.OutcomeFailure, Reason: "connection timed out", Request: &event.Request{ID: w.next("req"), DurationMS: 30_000}})
	}
	w.main(at.Add(6*time.Minute), immutable.Critical, "db-1", "database does not answer", event.Shape{Kind: event.KindSystem, Action: event.ActionAlert, Actor: &event.Actor{Type: event.ActorSystem, Name: "monitoring"}, Target: db, Outcome: event.OutcomeFailure})
	w.main(at.Add(24*time.Minute), immutable.Audit, "ci-1", "rolled back shop in production", event.Shape{Kind: event.KindDeployment, Action: event.ActionRollBack, Actor: w.actor(&people[0]), Target: &event.Target{Type: "service", Name: "shop"}, Outcome: event.OutcomeSuccess, Source: &event.Source{Provider: "github"}})
	w.main(at.Add(29*time.Minute), immutable.System, "db-1", "database answers again", event.Shape{Kind: event.KindSystem, Action: event.ActionMessage, Actor: &event.Actor{Type: event.ActorSystem, Name: "monitoring"}, Target: db, Outcome: event.OutcomeSuccess})
}
