// Package revenue adds up the money in a log's entries, and compares it with what a payment provider exports. Amounts are whole
// numbers of a currency's minor unit, as the entries have them, and sums are exact. It reads nothing by itself: pure.
package revenue

import (
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable"
)

// Text selects the entries that can have money: what Add looks at.
const Text = "exists:amount exists:currency"

// MaxItems bounds how many different payments are added up at once, which is some 60 MB.
const MaxItems = 200_000

// Class is what an amount is.
type Class string

const (
	Charged  Class = "charged"  // came in
	Refunded Class = "refunded" // went back
	Disputed Class = "disputed" // is asked back through the bank; not part of the net
	PaidOut  Class = "paidOut"  // moved to the own bank account; not part of the net
	Intent   Class = "intent"   // a payment intent: the same money as its charge, so it is in no sum
)

// Item is one payment, refund or the like, and the entry that counts for it.
type Item struct {
	Index    uint64
	Time     time.Time // when the log took the entry
	ID       string    // the provider's; empty for entries without one, which count once each
	Class    Class
	Amount   int64 // minor unit
	Currency string
	Plan     string
	Customer string
}

// Ledger has each payment once, however many entries tell of it. The zero value is empty.
type Ledger struct {
	Items   []Item
	Left    map[string]uint64 // entries that have an amount and are in no sum, by why
	byID    map[string]int    // class and ID to Items
	entries uint64
}

// Entries is how many entries were looked at.
func (l *Ledger) Entries() uint64 { return l.entries }

// metadata are the members that matter, under the names of docs/webhooks.md and docs/events.md.
type metadata struct {
	Amount   json.Number `json:"amount"`
	Currency string      `json:"currency"`
	Plan     string      `json:"plan"`
	Customer string      `json:"customerId"`
	ID       string      `json:"stripeId"`
	Status   string      `json:"status"`
	Action   string      `json:"action"`
	Outcome  string      `json:"outcome"`
	Target   struct {
		Type string `json:"type"`
	} `json:"target"`
}

// Add takes an entry. Entries come in the order of the log; the first that says a payment went through counts for it, and one that
// says later that it failed after all takes it back.
func (l *Ledger) Add(e *immutable.Entry) error {
	l.entries++
	var m metadata
	if err := json.Unmarshal(e.Metadata, &m); err != nil {
		l.leave("the amount or another member is of another type")
		return nil //nolint:nilerr // it is counted among those in no sum
	}
	amount, err := m.Amount.Int64()
	if err != nil || amount == math.MinInt64 || m.Currency == "" || len(m.Currency) > 16 {
		l.leave("no whole amount with a currency")
		return nil //nolint:nilerr // as above
	}
	class, why := classify(e.Level, &m, amount)
	if class == "" {
		l.leave(why)
		return nil
	}
	it := Item{Index: e.Index, Time: e.Timestamp, ID: m.ID, Class: class, Amount: abs(amount), Currency: strings.ToLower(m.Currency), Plan: m.Plan, Customer: m.Customer}
	key := string(class) + "\x00" + it.ID
	if it.ID != "" {
		if i, known := l.byID[key]; known {
			if why != "" {
				l.Items[i].Amount, l.Items[i].Index = 0, e.Index // it failed after all
			}
			l.leave("another entry tells of the same payment")
			return nil
		}
	}
	if why != "" {
		l.leave(why)
		return nil
	}
	if len(l.Items) == MaxItems {
		return fmt.Errorf("there are more than %d payments: take a shorter time", MaxItems)
	}
	if it.ID != "" {
		if l.byID == nil {
			l.byID = map[string]int{}
		}
		l.byID[key] = len(l.Items)
	}
	l.Items = append(l.Items, it)
	return nil
}

func (l *Ledger) leave(why string) {
	if l.Left == nil {
		l.Left = map[string]uint64{}
	}
	l.Left[why]++
}

func abs(n int64) int64 {
	if n < 0 {
		return -n
	}
	return n
}

const (
	failed  = "failed, cancelled or waiting"
	nothing = "no payment: an invoice, a subscription or the like, whose payments are told of by themselves"
)

// classify says what an amount is. With a class and a reason, it is one that did not go through.
func classify(level immutable.Level, m *metadata, amount int64) (class Class, why string) {
	switch object := kindOf(m.ID, m.Target.Type); object {
	case "charge":
		class = Charged
		if !strings.HasSuffix(m.Action, ".succeeded") && !strings.HasSuffix(m.Action, ".captured") && m.Action != "payment.charge" {
			if m.Outcome == "failure" || m.Status == "failed" {
				return class, failed
			}
			return "", "a charge that changed: its money is in the entry that says it succeeded"
		}
	case "refund":
		class = Refunded
	case "dispute":
		class = Disputed
	case "payout":
		if class = PaidOut; m.Status != "" && m.Status != "paid" {
			return class, failed
		}
	case "payment_intent":
		if class = Intent; !strings.HasSuffix(m.Action, ".succeeded") {
			return "", nothing
		}
	case "":
		// An entry of an application of its own: at level REVENUE, and the sign says which way.
		if level != immutable.Revenue || strings.HasPrefix(m.Action, "invoice.") || strings.HasPrefix(m.Action, "subscription.") {
			return "", nothing
		}
		switch {
		case strings.Contains(m.Action, "dispute"):
			class = Disputed
		case strings.Contains(m.Action, "payout"):
			class = PaidOut
		case amount < 0 || strings.Contains(m.Action, "refund"):
			class = Refunded
		default:
			class = Charged
		}
	default:
		return "", nothing
	}
	if m.Outcome == "failure" || slices.Contains([]string{"failed", "canceled", "pending", "requires_action"}, m.Status) {
		return class, failed
	}
	return class, ""
}

// kindOf is the type of a provider's object, by its id where that says it. Empty where nothing does.
func kindOf(id, target string) string {
	prefix, _, found := strings.Cut(id, "_")
	if !found {
		if id == "" {
			return ""
		}
		return target
	}
	switch prefix {
	case "ch", "py":
		return "charge"
	case "re", "pyr":
		return "refund"
	case "dp", "du":
		return "dispute"
	case "po":
		return "payout"
	case "pi":
		return "payment_intent"
	}
	return "other"
}

// Sum is what a currency has in one group.
type Sum struct {
	Currency string `json:"currency"`
	Exponent int    `json:"exponent"` // digits of the minor unit: 2 means that 1999 is 19.99
	Group    string `json:"group"`    // a plan, or the first day of a period; empty where that is unknown, and in totals
	Charged  string `json:"charged"`  // whole numbers of the minor unit, as text: they may be larger than a double holds exactly
	Refunded string `json:"refunded"`
	Net      string `json:"net"` // charged less refunded
	Disputed string `json:"disputed"`
	PaidOut  string `json:"paidOut"`
	Charges  int    `json:"charges"`
	Refunds  int    `json:"refunds"`
	Disputes int    `json:"disputes"`
	Payouts  int    `json:"payouts"`
}

// Groupings are what sums can be by.
func Groupings() []string { return []string{"currency", "plan", "day", "week", "month"} }

// Sums adds up, by one of Groupings, in the order of currency and group.
func (l *Ledger) Sums(by string) []Sum {
	type key struct{ currency, group string }
	type total struct {
		amounts map[Class]*big.Int
		n       map[Class]int
	}
	totals := map[key]*total{}
	for i := range l.Items {
		it := &l.Items[i]
		if it.Amount == 0 || it.Class == Intent {
			continue
		}
		k := key{it.Currency, group(it, by)}
		t := totals[k]
		if t == nil {
			t = &total{map[Class]*big.Int{Charged: {}, Refunded: {}, Disputed: {}, PaidOut: {}}, map[Class]int{}}
			totals[k] = t
		}
		t.amounts[it.Class].Add(t.amounts[it.Class], big.NewInt(it.Amount))
		t.n[it.Class]++
	}
	out := make([]Sum, 0, len(totals))
	for k, t := range totals {
		net := new(big.Int).Sub(t.amounts[Charged], t.amounts[Refunded])
		out = append(out, Sum{
			k.currency, Exponent(k.currency), k.group, t.amounts[Charged].String(), t.amounts[Refunded].String(), net.String(), t.amounts[Disputed].String(), t.amounts[PaidOut].String(),
			t.n[Charged], t.n[Refunded], t.n[Disputed], t.n[PaidOut],
		})
	}
	slices.SortFunc(out, func(a, b Sum) int {
		if c := strings.Compare(a.Currency, b.Currency); c != 0 {
			return c
		}
		return strings.Compare(a.Group, b.Group)
	})
	return out
}

func group(it *Item, by string) string {
	day := it.Time.UTC()
	switch by {
	case "plan":
		return it.Plan
	case "day":
	case "week": // ISO 8601: from Monday on
		day = day.AddDate(0, 0, -(int(day.Weekday())+6)%7)
	case "month":
		return day.Format("2006-01")
	default:
		return ""
	}
	return day.Format(time.DateOnly)
}

// Exponent is how many digits a currency's minor unit has where Stripe gives amounts in it: docs.stripe.com/currencies, "Zero-decimal
// currencies" and "Three-decimal currencies"; ISK and UGX are counted with two for compatibility, as it says there.
func Exponent(currency string) int {
	switch strings.ToLower(currency) {
	case "bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf":
		return 0
	case "bhd", "jod", "kwd", "omr", "tnd":
		return 3
	}
	return 2
}
