package hooks

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/event"
)

type stripeBody struct {
	ID      text `json:"id"`
	Type    text `json:"type"`
	Account text `json:"account"`
	Live    text `json:"livemode"`
	Request maybe[struct {
		ID text `json:"id"`
	}] `json:"request"`
	Data maybe[struct {
		Object maybe[stripeObject] `json:"object"`
	}] `json:"data"`
}

type stripeObject struct {
	ID           text              `json:"id"`
	Object       text              `json:"object"`
	Customer     idOr              `json:"customer"`
	Amount       text              `json:"amount"`
	AmountDue    text              `json:"amount_due"`
	AmountPaid   text              `json:"amount_paid"`
	AmountTotal  text              `json:"amount_total"`
	Total        text              `json:"total"`
	UnitAmount   text              `json:"unit_amount"`
	Currency     text              `json:"currency"`
	Status       text              `json:"status"`
	Subscription idOr              `json:"subscription"`
	Plan         maybe[stripePlan] `json:"plan"`
	Items        maybe[stripeList] `json:"items"`
	Lines        maybe[stripeList] `json:"lines"`
}

type stripeList struct {
	Data maybe[[]struct {
		Plan  maybe[stripePlan] `json:"plan"`
		Price maybe[stripePlan] `json:"price"`
	}] `json:"data"`
}

type stripePlan struct {
	ID         text `json:"id"`
	Amount     text `json:"amount"`
	UnitAmount text `json:"unit_amount"`
	Currency   text `json:"currency"`
	Nickname   text `json:"nickname"`
}

// idOr is a reference: the id, or the object that has it where it was expanded.
type idOr string

func (x *idOr) UnmarshalJSON(data []byte) error {
	if data[0] == '{' {
		var o struct {
			ID text `json:"id"`
		}
		err := json.Unmarshal(data, &o)
		*x = idOr(o.ID)
		return err
	}
	return (*text)(x).UnmarshalJSON(data)
}

var (
	stripeRevenue  = []string{"charge.", "invoice.", "payout.", "refund.", "application_fee.refund", "issuing_dispute."}
	stripeSecurity = []string{"radar.", "review.", "billing.alert.", "account.application.", "account.external_account.", "person."}
)

// stripe keeps amounts as Stripe spells them: in the currency's minor unit.
func stripe(d *Delivery, body []byte) (event.Shape, error) {
	var b stripeBody
	if err := object(body, &b); err != nil {
		return event.Shape{}, err
	}
	if b.ID == "" || b.Type == "" {
		return event.Shape{}, refuse(ReasonMalformed, "the body has no id or no type, as every event of Stripe's has")
	}
	d.ID, d.Name = string(b.ID), string(b.Type)
	d.Event.Level, d.Event.Message = immutable.Audit, "Stripe "+words(d.Name)
	s := event.Shape{Kind: event.KindRevenue, Action: dotted(d.Name), Extra: immutable.Fields{}}
	kind, _, _ := strings.Cut(d.Name, ".")
	switch {
	case hasPrefix(d.Name, stripeSecurity...):
		d.Event.Level, s.Kind = immutable.Security, event.KindSecurity
	case hasPrefix(d.Name, stripeRevenue...) || strings.Contains(d.Name, ".dispute.") || strings.Contains(d.Name, ".refund"):
		d.Event.Level = immutable.Revenue
	case !slices.Contains([]string{"customer", "subscription_schedule", "plan", "price", "product", "payment_intent", "checkout", "credit_note", "coupon"}, kind):
		s.Kind = event.KindAPI
	}
	o := b.Data.v.Object.v
	plan := o.Plan.v
	if o.Object == "plan" || o.Object == "price" {
		plan.ID = o.ID
	}
	for _, list := range []stripeList{o.Items.v, o.Lines.v} {
		if plan.ID == "" && len(list.Data.v) > 0 {
			if plan = list.Data.v[0].Plan.v; plan.ID == "" {
				plan = list.Data.v[0].Price.v
			}
		}
	}
	if o.Object == "customer" {
		o.Customer = idOr(o.ID)
	}
	put(s.Extra, "customerId", o.Customer)
	if amount := first(o.Amount, o.AmountPaid, o.AmountDue, o.AmountTotal, o.Total, o.UnitAmount, plan.Amount, plan.UnitAmount); number(amount) {
		s.Extra["amount"] = json.Number(amount)
	}
	put(s.Extra, "currency", first(o.Currency, plan.Currency))
	put(s.Extra, "plan", plan.ID)
	put(s.Extra, "subscriptionId", o.Subscription)
	put(s.Extra, "status", o.Status)
	put(s.Extra, "stripeId", o.ID)
	put(s.Extra, "account", b.Account)
	if b.Live != "" {
		s.Extra["livemode"] = b.Live == "true"
	}
	s.Target = &event.Target{Type: string(o.Object), ID: string(o.ID)}
	s.Actor = &event.Actor{Type: event.ActorSystem, Name: "stripe"}
	s.Request = &event.Request{ID: string(b.Request.v.ID)}
	if strings.HasSuffix(d.Name, "failed") {
		s.Outcome = event.OutcomeFailure
	}
	return s, nil
}

// number says whether a value was a whole number.
func number(t text) bool {
	s := strings.TrimPrefix(string(t), "-")
	return s != "" && len(s) <= 18 && !strings.ContainsFunc(s, func(c rune) bool { return c < '0' || c > '9' }) && (s == "0" || s[0] != '0')
}

type linearBody struct {
	Action text                    `json:"action"`
	Type   text                    `json:"type"`
	URL    text                    `json:"url"`
	Org    text                    `json:"organizationId"`
	Actor  maybe[linearUser]       `json:"actor"`
	Data   maybe[linearData]       `json:"data"`
	From   maybe[map[string]fixed] `json:"updatedFrom"`
}

// fixed is a value that is not looked at.
type fixed struct{}

func (*fixed) UnmarshalJSON([]byte) error { return nil }

type linearUser struct {
	ID    text `json:"id"`
	Name  text `json:"name"`
	Email text `json:"email"`
	Type  text `json:"type"`
}

type linearData struct {
	ID         text              `json:"id"`
	Title      text              `json:"title"`
	Name       text              `json:"name"`
	Body       text              `json:"body"`
	Identifier text              `json:"identifier"`
	Number     text              `json:"number"`
	IssueID    text              `json:"issueId"`
	UserID     text              `json:"userId"`
	CreatorID  text              `json:"creatorId"`
	Priority   text              `json:"priorityLabel"`
	Issue      maybe[linearIs]   `json:"issue"`
	User       maybe[linearUser] `json:"user"`
	Assignee   maybe[linearUser] `json:"assignee"`
	State      maybe[linearIs]   `json:"state"`
	Team       maybe[linearIs]   `json:"team"`
}

type linearIs struct {
	ID    text `json:"id"`
	Name  text `json:"name"`
	Title text `json:"title"`
	Key   text `json:"key"`
}

var linearPast = map[text]string{"create": "created", "update": "updated", "remove": "removed", "restore": "restored", "set": "set", "revoked": "revoked"}

func linear(d *Delivery, h http.Header, body []byte) (event.Shape, error) {
	var b linearBody
	if err := object(body, &b); err != nil {
		return event.Shape{}, err
	}
	d.ID = h.Get("Linear-Delivery")
	kind := first(b.Type, text(clip(h.Get("Linear-Event"))))
	d.Name = string(kind) + "." + string(b.Action)
	d.Event.Level = immutable.Audit
	past := linearPast[b.Action]
	if past == "" {
		past = words(string(b.Action))
	}
	d.Event.Message = strings.TrimSpace("Linear " + strings.ToLower(spaced(string(kind))) + " " + past)
	s := event.Shape{Kind: event.KindContent, Action: dotted(spaced(string(kind)), string(b.Action)), Extra: immutable.Fields{}}
	if kind == "OAuthApp" || kind == "User" || hasPrefix(string(kind), "Alert", "OAuth") {
		d.Event.Level, s.Kind = immutable.Security, event.KindSecurity
	}
	x := b.Data.v
	issue := first(x.IssueID, x.Issue.v.ID)
	title := first(x.Title, x.Issue.v.Title, x.Name)
	if kind == "Issue" {
		issue = x.ID
	}
	put(s.Extra, "issueId", issue)
	put(s.Extra, "title", title)
	put(s.Extra, "assignee", x.Assignee.v.Name)
	put(s.Extra, "status", x.State.v.Name)
	put(s.Extra, "priority", x.Priority)
	put(s.Extra, "team", first(x.Team.v.Key, x.Team.v.Name))
	put(s.Extra, "text", x.Body)
	put(s.Extra, "url", b.URL)
	put(s.Extra, "organizationId", b.Org)
	identifier := x.Identifier
	if identifier == "" && x.Team.v.Key != "" && x.Number != "" {
		identifier = x.Team.v.Key + "-" + x.Number
	}
	put(s.Extra, "identifier", identifier)
	if names := keys(b.From.v); len(names) > 0 {
		s.Extra["changes"] = names
	}
	s.Target = &event.Target{Type: strings.ToLower(string(kind)), ID: string(x.ID), Name: string(title)}
	switch actor := b.Actor.v; {
	case actor != (linearUser{}):
		s.Actor = &event.Actor{Type: event.ActorUser, ID: string(actor.ID), Name: string(actor.Name), Email: string(actor.Email)}
	case x.User.v != (linearUser{}):
		s.Actor = &event.Actor{Type: event.ActorUser, ID: string(x.User.v.ID), Name: string(x.User.v.Name)}
	case b.Action == "create" && first(x.UserID, x.CreatorID) != "":
		s.Actor = &event.Actor{Type: event.ActorUser, ID: string(first(x.UserID, x.CreatorID))}
	}
	return s, nil
}

// spaced is "ProjectUpdate" as "Project Update".
func spaced(s string) string {
	var b strings.Builder
	for i, c := range s {
		if i > 0 && c >= 'A' && c <= 'Z' && s[i-1] >= 'a' && s[i-1] <= 'z' {
			b.WriteByte(' ')
		}
		b.WriteRune(c)
	}
	return b.String()
}

// keys are a map's names, sorted, at most maxList of them.
func keys[T any](m map[string]T) []any {
	var names []string
	for name := range m {
		names = append(names, clip(name))
	}
	slices.Sort(names)
	return list(names)
}

func list[T ~string](values []T) []any {
	var out []any
	for _, v := range values[:min(len(values), maxList)] {
		out = append(out, string(v))
	}
	return out
}

type notionBody struct {
	ID        text                     `json:"id"`
	Type      text                     `json:"type"`
	Workspace text                     `json:"workspace_id"`
	Name      text                     `json:"workspace_name"`
	Authors   maybe[[]notionReference] `json:"authors"`
	Entity    maybe[notionReference]   `json:"entity"`
	Data      maybe[struct {
		Properties maybe[[]text]            `json:"updated_properties"`
		Blocks     maybe[[]notionReference] `json:"updated_blocks"`
		Schema     maybe[[]notionReference] `json:"updated_schema"`
		Parent     maybe[notionReference]   `json:"parent"`
		Page       text                     `json:"page_id"`
	}] `json:"data"`
}

type notionReference struct {
	ID     text `json:"id"`
	Type   text `json:"type"`
	Name   text `json:"name"`
	Action text `json:"action"`
}

func notion(d *Delivery, body []byte) (event.Shape, error) {
	var b notionBody
	if err := object(body, &b); err != nil {
		return event.Shape{}, err
	}
	if b.ID == "" || b.Type == "" {
		return event.Shape{}, refuse(ReasonMalformed, "the body has no id or no type, as every event of Notion's has")
	}
	d.ID, d.Name = string(b.ID), string(b.Type)
	d.Event.Level, d.Event.Message = immutable.Audit, "Notion "+words(d.Name)
	s := event.Shape{Kind: event.KindContent, Action: dotted(d.Name), Extra: immutable.Fields{}}
	what := b.Entity.v
	put(s.Extra, "workspace", first(b.Name, b.Workspace))
	put(s.Extra, "workspaceId", b.Workspace)
	page := b.Data.v.Page
	switch what.Type {
	case "page":
		page = what.ID
	case "database":
		put(s.Extra, "databaseId", what.ID)
	case "data_source":
		put(s.Extra, "dataSourceId", what.ID)
	}
	put(s.Extra, "pageId", page)
	changes := b.Data.v.Properties.v
	for _, refs := range [][]notionReference{b.Data.v.Blocks.v, b.Data.v.Schema.v} {
		for _, x := range refs {
			changes = append(changes, first(x.Name, x.ID))
		}
	}
	if len(changes) > 0 {
		s.Extra["changes"] = list(changes)
	}
	s.Target = &event.Target{Type: string(what.Type), ID: string(what.ID)}
	if len(b.Authors.v) > 0 {
		a := b.Authors.v[0]
		s.Actor = &event.Actor{Type: event.ActorUser, ID: string(a.ID)}
		if a.Type == "bot" || a.Type == "agent" {
			s.Actor.Type = event.ActorService
		}
	}
	return s, nil
}
