package revenue

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
)

// ledgerOf adds entries of level REVENUE with this metadata, an hour apart.
func ledgerOf(t testing.TB, metadata ...string) *Ledger {
	t.Helper()
	l := &Ledger{}
	for i, m := range metadata {
		e := immutable.Entry{Index: uint64(i), Timestamp: time.Date(2026, 11, 29, 22, 0, 0, 0, time.UTC).Add(time.Duration(i) * time.Hour), Level: immutable.Revenue, Metadata: json.RawMessage(m)}
		if err := l.Add(&e); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

func charge(id, currency, plan string, amount int64) string {
	return fmt.Sprintf(`{"action":"charge.succeeded","stripeId":%q,"currency":%q,"plan":%q,"amount":%d,"status":"succeeded","target":{"type":"charge"}}`, id, currency, plan, amount)
}

func TestSumsCountEachPaymentOnce(t *testing.T) {
	l := ledgerOf(
		t,
		charge("ch_1", "EUR", "team", 9900), charge("ch_1", "eur", "team", 9900), // the same twice
		charge("ch_2", "eur", "starter", 1900), charge("ch_3", "jpy", "team", 14800),
		`{"action":"charge.updated","stripeId":"ch_2","currency":"eur","amount":1900}`,
		`{"action":"charge.refunded","stripeId":"ch_2","currency":"eur","amount":1900}`,
		`{"action":"refund.created","stripeId":"re_1","currency":"eur","amount":900,"status":"succeeded"}`,
		`{"action":"refund.updated","stripeId":"re_1","currency":"eur","amount":900,"status":"succeeded"}`,
		`{"action":"charge.failed","stripeId":"ch_9","currency":"eur","amount":7,"status":"failed","outcome":"failure"}`,
		`{"action":"invoice.paid","stripeId":"in_1","currency":"eur","amount":9900}`,
		`{"action":"payment_intent.succeeded","stripeId":"pi_1","currency":"eur","amount":9900}`,
		`{"action":"charge.dispute.created","stripeId":"dp_1","currency":"eur","amount":1900,"status":"needs_response"}`,
		`{"action":"payout.paid","stripeId":"po_1","currency":"eur","amount":5000,"status":"paid"}`,
		`{"amount":250,"currency":"eur","plan":"team"}`, `{"amount":-50,"currency":"eur"}`, // of an application of its own
		`{"amount":1.5,"currency":"eur"}`, `{"amount":"x","currency":"eur"}`, `{"amount":5}`, `{"amount":-9223372036854775808,"currency":"eur"}`,
	)
	var got []string
	for _, s := range l.Sums("currency") {
		got = append(got, fmt.Sprintf("%s/%d +%s -%s =%s !%s >%s %d %d %d %d", s.Currency, s.Exponent, s.Charged, s.Refunded, s.Net, s.Disputed, s.PaidOut, s.Charges, s.Refunds, s.Disputes, s.Payouts))
	}
	want := []string{"eur/2 +12050 -950 =11100 !1900 >5000 3 2 1 1", "jpy/0 +14800 -0 =14800 !0 >0 1 0 0 0"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	var left uint64
	for _, n := range l.Left {
		left += n
	}
	if counted := uint64(len(l.Items)); l.Entries() != 19 || left+counted != 19 {
		t.Errorf("%d entries, %d left, %d counted: %v", l.Entries(), left, counted, l.Left)
	}
}

// TestSumsAreExact adds numbers that doubles cannot hold.
func TestSumsAreExact(t *testing.T) {
	const big = 9007199254740993 // 2^53 + 1
	l := ledgerOf(t, charge("ch_1", "usd", "", big), charge("ch_2", "usd", "", big), charge("ch_3", "usd", "", 9e17), charge("ch_4", "usd", "", 9e18), charge("ch_5", "usd", "", 9e18))
	if s := l.Sums("currency"); len(s) != 1 || s[0].Charged != "18918014398509481986" {
		t.Errorf("%+v", s)
	}
}

func TestSumsByPlanAndPeriod(t *testing.T) {
	l := ledgerOf(t, charge("ch_1", "eur", "team", 1), charge("ch_2", "eur", "", 2), charge("ch_3", "eur", "team", 4)) // Sunday 22:00 to Monday 00:00
	for by, want := range map[string]string{"plan": ":2 team:5", "day": "2026-11-29:3 2026-11-30:4", "week": "2026-11-23:3 2026-11-30:4", "month": "2026-11:7", "currency": ":7"} {
		var got []string
		for _, s := range l.Sums(by) {
			got = append(got, s.Group+":"+s.Charged)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("by %s: %q, want %q", by, got, want)
		}
	}
}

// TestAPaymentThatFailsLaterDoesNotCount takes a refund back that the bank refused.
func TestAPaymentThatFailsLaterDoesNotCount(t *testing.T) {
	l := ledgerOf(
		t,
		charge("ch_1", "eur", "", 100), `{"action":"refund.created","stripeId":"re_1","currency":"eur","amount":40,"status":"succeeded"}`,
		`{"action":"refund.failed","stripeId":"re_1","currency":"eur","amount":40,"status":"failed","outcome":"failure"}`,
	)
	if s := l.Sums("currency"); len(s) != 1 || s[0].Net != "100" || s[0].Refunds != 0 {
		t.Errorf("%+v", s)
	}
}

const payments = "\ufeffid,Created date (UTC),Amount,Amount Refunded,Currency,Status,Description\r\n" +
	"ch_1,2026-11-29 22:00:00,99.00,0.00,eur,Paid,\"Team, monthly\"\r\n" +
	"ch_2,2026-11-29 23:00:00,20.00,0.00,eur,Paid,\r\n" +
	"ch_3,2026-11-30 00:00:00,14800,0,jpy,Paid,\r\n" +
	"ch_4,2026-11-30 00:00:00,5.00,0.00,eur,Failed,\r\n" +
	"ch_5,2026-11-30 00:00:00,1.234,0.00,kwd,Paid,\r\n" +
	"ch_1,2026-11-29 22:00:00,99.00,0.00,eur,Paid,again\r\n"

func TestReconcileNamesEachDifference(t *testing.T) {
	l := ledgerOf(t, charge("ch_1", "eur", "team", 9900), charge("ch_2", "eur", "", 1900), charge("ch_3", "jpy", "", 14800), charge("ch_6", "eur", "", 300),
		`{"action":"payout.paid","stripeId":"po_1","currency":"eur","amount":5000,"status":"paid"}`)
	x, err := Parse([]byte(payments))
	if err != nil {
		t.Fatal(err)
	}
	r := Reconcile(l, x)
	if r.Matched != 2 || r.Differ != 1 || r.NotInLog != 1 || r.NotExport != 1 || r.Repeated != 1 || r.Skipped["status failed"] != 1 || r.Agrees() {
		t.Errorf("%+v", r)
	}
	if d := r.Differences; len(d) != 1 || d[0] != (Difference{"ch_2", Charged, 1, 3, "1900", "eur", "2000", "eur"}) {
		t.Errorf("different: %+v", d)
	}
	if m := r.MissingLog; len(m) != 1 || m[0].ID != "ch_5" || m[0].Line != 6 || m[0].Amount != "1234" {
		t.Errorf("missing in the log: %+v", m)
	}
	if m := r.MissingFile; len(m) != 1 || m[0].ID != "ch_6" || *m[0].Index != 3 {
		t.Errorf("missing in the export: %+v", m)
	}
}

// TestBalanceReportAndAPISayTheSame reads one set of payments in the three forms in which Stripe gives them.
func TestBalanceReportAndAPISayTheSame(t *testing.T) {
	l := ledgerOf(t, charge("ch_1", "eur", "", 9900), `{"action":"refund.created","stripeId":"re_1","currency":"eur","amount":900,"status":"succeeded"}`)
	for name, data := range map[string]string{
		"balance report": "balance_transaction_id,created_utc,currency,gross,fee,net,reporting_category,source_id\ntxn_1,x,eur,99.00,3.17,95.83,charge,ch_1\ntxn_2,x,eur,-9.00,0,-9.00,refund,re_1\ntxn_3,x,eur,-2.00,0,-2.00,fee,\n",
		"list":           `{"object":"list","data":[{"id":"ch_1","object":"charge","amount":9900,"currency":"eur","status":"succeeded"},{"id":"re_1","object":"refund","amount":900,"currency":"eur","status":"succeeded"},{"id":"cus_1","object":"customer"}]}`,
		"lines":          "{\"id\":\"txn_1\",\"object\":\"balance_transaction\",\"amount\":9900,\"currency\":\"eur\",\"status\":\"available\",\"source\":\"ch_1\"}\n{\"id\":\"txn_2\",\"object\":\"balance_transaction\",\"amount\":-900,\"currency\":\"eur\",\"source\":{\"id\":\"re_1\"}}\n",
	} {
		x, err := Parse([]byte(data))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if r := Reconcile(l, x); !r.Agrees() || r.Matched != 2 {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func TestParseSaysWhatIsWrong(t *testing.T) {
	for data, want := range map[string]string{
		"":                                     "empty",
		"a,b\n1,2\n":                           "no column for the",
		"id,amount,currency\nch_1,1.999,eur\n": "line 2: amount \"1.999\"",
		"id,amount,currency\nch_1,\"1,99\",eur\n": "line 2: amount",
		"id,amount,currency\nch_1,1,eur,x\n":      "line 2",
		"id,amount,currency\nch_1,1.00,\n":        "no currency",
		"id,amount,currency\nch_1,1e3,eur\n":      "line 2: amount",
		"id,amount,currency\ncus_1,1.00,eur\n":    "no charge",
		`{"id":"ch_1","object":"charge"`:          "byte",
		`[1]`:                                     "object 1",
	} {
		if _, err := Parse([]byte(data)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", data, err, want)
		}
	}
}

// TestStripesOwnObjects reads the objects of Stripe's published fixtures as an export.
func TestStripesOwnObjects(t *testing.T) {
	data, err := os.ReadFile("../../../shared/data/stripe-fixtures/fixtures3.json")
	if err != nil {
		t.Skip("no fixtures of Stripe's here: ", err)
	}
	var f struct{ Resources map[string]json.RawMessage }
	if err := json.Unmarshal(data, &f); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, name := range []string{"balance_transaction", "charge", "customer", "payout"} {
		if len(f.Resources[name]) == 0 {
			t.Fatalf("no %s among the fixtures", name)
		}
		lines = append(lines, string(f.Resources[name]))
	}
	x, err := Parse([]byte(strings.Join(lines, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	if len(x.Records) != 2 || x.Records[0] != (Record{1, "ch_1PgafuB7WZ01zgkWXYmPNZs8", Charged, 100, "usd"}) || x.Records[1].ID != x.Records[0].ID || x.Skipped["status in_transit"] != 1 {
		t.Errorf("records %+v, skipped %v", x.Records, x.Skipped)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(payments))
	f.Add([]byte(`[{"id":"ch_1","amount":1,"currency":"eur","object":"charge"}]`))
	l := ledgerOf(f, charge("ch_1", "eur", "", 9900))
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := Parse(data)
		if err != nil {
			return
		}
		r := Reconcile(l, x)
		if r.Matched+r.Differ+r.NotInLog+r.Repeated != len(x.Records) {
			t.Errorf("%d records, %+v", len(x.Records), r)
		}
		for _, rec := range x.Records {
			if rec.Amount < 0 || rec.Currency == "" {
				t.Errorf("%+v", rec)
			}
		}
	})
}
