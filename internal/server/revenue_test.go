package server

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/revenue"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

type revenueAnswer struct {
	Sums []revenue.Sum
	Size uint64
	Left map[string]uint64
}

func TestRevenueIsSummedAndCompared(t *testing.T) {
	sv := serve(t, nil)
	sv.post(mainLog+"/entries", `[
		{"level":"REVENUE","message":"Stripe charge succeeded","metadata":{"action":"charge.succeeded","stripeId":"ch_1","amount":9900,"currency":"eur","plan":"team"}},
		{"level":"REVENUE","message":"Stripe charge succeeded","metadata":{"action":"charge.succeeded","stripeId":"ch_2","amount":1900,"currency":"eur","plan":"starter"}},
		{"level":"REVENUE","message":"Stripe refund created","metadata":{"action":"refund.created","stripeId":"re_1","amount":1900,"currency":"eur","status":"succeeded"}},
		{"level":"AUDIT","message":"no money","metadata":{"amount":5}}]`).want(t, http.StatusCreated, nil)
	var a revenueAnswer
	sv.get(mainLog+"/revenue").want(t, 200, &a)
	if len(a.Sums) != 1 || a.Sums[0].Net != "9900" || a.Sums[0].Charged != "11800" || a.Size < 4 || len(a.Left) != 0 {
		t.Errorf("%+v", a)
	}
	if sv.get(mainLog+"/revenue?by=plan&q="+url.QueryEscape("plan:team")).want(t, 200, &a); len(a.Sums) != 1 || a.Sums[0].Group != "team" || a.Sums[0].Charged != "9900" {
		t.Errorf("of one plan: %+v", a)
	}
	sv.get(mainLog+"/revenue?by=customer").problem(t, "bad-parameter")
	sv.get(mainLog+"/revenue?q="+url.QueryEscape("plan:team) OR (level:AUDIT")).problem(t, "bad-query")

	export := "id,Amount,Currency,Status\nch_1,99.00,eur,Paid\nch_2,20.00,eur,Paid\nch_3,5.00,eur,Paid\n"
	csv := func(path, body, token string) got {
		return sv.do("POST", mainLog+path, token, strings.NewReader(body), "Content-Type", "text/csv")
	}
	var c struct {
		revenue.Reconciliation
		Agrees       bool
		ExportSha256 string
	}
	csv("/revenue/comparison", export, sv.root).want(t, 200, &c)
	digest := sha256.Sum256([]byte(export))
	sum := hex.EncodeToString(digest[:])
	if c.Agrees || c.Matched != 1 || c.Differ != 1 || c.NotInLog != 1 || c.NotExport != 0 || c.Differences[0].ExportAmount != "2000" || c.ExportSha256 != sum {
		t.Errorf("%+v", c)
	}
	if list := sv.records("default", tenant.RevenueCompare); len(list) != 1 || list[0]["exportSha256"] != sum || list[0]["differ"] != float64(1) {
		t.Errorf("on record: %v", list)
	}
	csv("/revenue/comparison?until=2020-01-01T00:00:00Z", export, sv.root).want(t, 200, &c)
	if c.NotInLog != 3 {
		t.Errorf("before there was anything: %+v", c)
	}

	p := csv("/revenue/comparison", "id,Amount,Currency\nch_1,1.999,eur\n", sv.root).problem(t, "bad-export")
	if !strings.Contains(p["detail"].(string), "line 2") {
		t.Errorf("%v", p)
	}
	sv.post(mainLog+"/revenue/comparison", `[{"id":"ch_1"`).problem(t, "bad-export")
	sv.do("POST", mainLog+"/revenue/comparison", sv.root, strings.NewReader(export), "Content-Type", "image/png").problem(t, "unsupported-media-type")
	if n := len(sv.records("default", tenant.RevenueCompare)); n != 2 {
		t.Errorf("%d comparisons are on record", n)
	}

	// Who may not see the level does not see its sums, and a reader does not take exports to it.
	audit := sv.token("default", tenant.TokenSpec{Name: "audit", Role: tenant.Auditor, Levels: tenant.Levels{immutable.Audit}})
	if sv.do("GET", mainLog+"/revenue", audit, nil).want(t, 200, &a); len(a.Sums) != 0 {
		t.Errorf("another level's sums: %+v", a)
	}
	reader := sv.token("default", tenant.TokenSpec{Name: "reader", Role: tenant.Reader})
	sv.do("GET", mainLog+"/revenue", reader, nil).want(t, 200, nil)
	csv("/revenue/comparison", export, reader).problem(t, "forbidden")
}

// TestRevenueExportThatIsLarge holds that a large export gives its memory back before the ledger asks for its own.
func TestRevenueExportThatIsLarge(t *testing.T) {
	sv := serve(t, nil)
	var b strings.Builder
	b.WriteString("id,Amount,Currency\n")
	for range 20_000 {
		b.WriteString("ch_12345678901234567890,99.00,eur\n")
	}
	var c struct{ NotInLog, Repeated int }
	sv.do("POST", mainLog+"/revenue/comparison", sv.root, strings.NewReader(b.String()), "Content-Type", "text/csv").want(t, 200, &c)
	if c.NotInLog != 1 || c.Repeated != 19_999 {
		t.Errorf("%+v", c)
	}
}
