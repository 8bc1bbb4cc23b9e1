package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable/internal/browsertest"
	"github.com/tree-of-life-system/immutable/internal/demo"
	"github.com/tree-of-life-system/immutable/internal/monitor"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// demonstration is a service over the data of `immutable serve --demo`.
func demonstration(t *testing.T) *service {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "demo")
	if _, err := demo.Fill(t.Context(), demo.Options{Dir: dir, End: time.Now(), Seed: 1}); err != nil {
		t.Fatal(err)
	}
	return serveIn(t, dir, withAll)
}

// TestDeskPagesAreAccessible opens each page of the navigation over the demonstration, in wide and narrow windows, light and dark:
// nothing is wider than the window, axe-core finds nothing, and nothing is asked for elsewhere. With IMMUTABLE_SCREENSHOTS it
// takes the pictures of README.md.
func TestDeskPagesAreAccessible(t *testing.T) {
	b := browsertest.Start(t)
	sv := demonstration(t)
	for _, l := range []string{"main", demo.Billing, "system"} {
		var job monitor.Job
		path := "/api/v1/tenants/default/logs/" + l + "/verifications"
		sv.post(path, "{}").want(t, http.StatusAccepted, &job)
		deadline(t, func() bool {
			sv.get(path+"/"+job.ID).want(t, http.StatusOK, &job)
			return job.Phase != "queued" && job.Phase != "running"
		}, "the verification")
	}
	for _, window := range []struct {
		width int
		dark  bool
	}{{1280, false}, {360, true}, {3840, false}, {1280, true}, {360, false}} {
		name := fmt.Sprintf("%d", window.width)
		if window.dark {
			name += "-dark"
		}
		tb := b.Open("http://"+sv.addr+"/", window.width, window.dark, `document.querySelector("#token")`)
		checkPage(t, tb, name, "sign in")
		tb.Type(rootToken)
		tb.Press("Enter")
		tb.Await(`document.querySelector("main .card .standing")`)
		checkPage(t, tb, name, "overview")
		tb.Eval(`location.hash = "#/default/main/explore"`)
		tb.Await(`document.querySelectorAll(".row").length > 5 && document.querySelector(".bars .bar")`)
		pages := strings.Fields(tb.Eval(`[...document.querySelectorAll("header nav a")].map((a) => a.getAttribute("href")).join("\n")`))
		if len(pages) < 3 {
			t.Fatalf("the navigation has %v", pages)
		}
		for _, page := range pages[1:] {
			short := page[strings.LastIndex(page, "/")+1:]
			tb.Eval(fmt.Sprintf(`location.hash = "#/"; location.hash = %q`, page))
			tb.Await(fmt.Sprintf(`document.title.toLowerCase().startsWith(%q) && document.querySelector("main h1, main h2, main form")`, short))
			tb.Await(`!document.querySelector("main [aria-busy=true]")`)
			checkPage(t, tb, name, short)
		}
		for _, section := range []string{"logs", "sources", "sinks", "alerts", "keys", "tenants"} {
			tb.Eval(fmt.Sprintf(`location.hash = "#/default/-/manage?section=%s"`, section))
			tb.Await(fmt.Sprintf(`document.querySelector(".tabs [aria-current]")?.href.endsWith(%q) && document.querySelector("main [aria-busy=false]")`, section))
			checkPage(t, tb, name, "manage "+section)
		}
		tb.Eval(`location.hash = "#/default/main/explore?q=source.ip:203.0.113.42 outcome:success"`)
		tb.Await(`document.querySelector(".row .message")`)
		tb.Eval(`document.querySelector(".list").focus()`)
		tb.Press("j")
		tb.Press("Enter")
		tb.Await(`document.querySelector(".panel .verdict.green")`)
		checkPage(t, tb, name, "entry")
		tb.Quiet(sv.own)
		tb.Eval(`[...document.querySelectorAll("header button")].find((e) => e.innerText === "Sign out").click()`)
		tb.Await(`document.querySelector("#token")`)
		tb.Close()
	}
	if os.Getenv("IMMUTABLE_AXE") == "" {
		t.Skip("the pages fit and are quiet; IMMUTABLE_AXE names no axe-core, so its rules were not checked")
	}
}

func checkWidth(t *testing.T, tb *browsertest.Tab, what string) {
	t.Helper()
	if got := tb.Eval(`document.documentElement.scrollWidth <= window.innerWidth ? "" : document.documentElement.scrollWidth + " pixels: " +
		[...document.querySelectorAll("body *")].filter((e) => e.getBoundingClientRect().right > window.innerWidth + 1).slice(0, 3).map((e) => e.tagName + "." + e.className).join(", ")`); got != "" {
		t.Errorf("%s is wider than its window: %s", what, got)
	}
}

func checkPage(t *testing.T, tb *browsertest.Tab, window, page string) {
	t.Helper()
	checkWidth(t, tb, page+" at "+window)
	if page != "sign in" {
		if got := tb.Eval(`Boolean(document.querySelector("header .demo"))`); got != "true" {
			t.Errorf("%s at %s does not say that the data is made up", page, window)
		}
	}
	tb.Axe(page + " at " + window)
	width := 0
	if _, err := fmt.Sscan(window, &width); err != nil {
		width = 360
	}
	if width <= 1280 {
		tb.Screenshot(strings.ReplaceAll(page, " ", "-")+"-"+window+".png", 0, width)
	}
}

// TestDeskInvestigatesAcrossLogs follows an address and a service through all logs of a tenant.
func TestDeskInvestigatesAcrossLogs(t *testing.T) {
	b := browsertest.Start(t)
	sv := demonstration(t)
	sv.post(mainLog+"/entries", `{"message":"stripe was told","metadata":{"actor":{"name":"stripe"},"demo":true}}`).want(t, http.StatusCreated, nil)
	tb := sv.signIn(b, "#/default/-/investigate", 1280, false)
	tb.Await(`document.querySelectorAll("main .card .values button").length > 15`)
	tb.Eval(`[...document.querySelectorAll("main .values button")].find((e) => e.innerText.includes("203.0.113.42")).click()`)
	tb.Await(`location.hash.includes("203.0.113.42") && document.querySelectorAll(".timeline li").length === 50 && document.querySelector("main .bars .bar") && document.querySelector("main .facts")`)
	if got := tb.Eval(`document.querySelector("main .facts dd").innerText + " " + document.querySelector(".timeline li").innerText.replace(/\s+/g, " ")`); !strings.HasPrefix(got, "184 ") || !strings.Contains(got, "second factor refused") {
		t.Errorf("the address's timeline begins with %s", got)
	}
	checkPage(t, tb, "1280", "investigate address")
	for _, n := range []int{100, 150, 184} {
		tb.Eval(`[...document.querySelectorAll("main button")].find((e) => e.innerText === "Older entries").click()`)
		tb.Await(fmt.Sprintf(`document.querySelectorAll(".timeline li").length === %d && !document.querySelector("main button:disabled")`, n))
	}
	tb.Await(`document.querySelector("main").innerText.includes("That is all.")`)
	if got := tb.Eval(`[...document.querySelectorAll(".timeline time")].map((e) => e.dateTime).every((x, i, all) => i === 0 || x <= all[i - 1])`); got != "true" {
		t.Error("the timeline is not in the order of time")
	}

	tb.Eval(`location.hash = "#/default/-/investigate?kind=actor&value=stripe"`)
	tb.Await(`document.querySelector(".timeline li")?.innerText.includes("stripe was told") && document.querySelectorAll("main .facts dt").length >= 3`)
	if got := tb.Eval(`[...new Set([...document.querySelectorAll(".timeline li > .faint")].map((e) => e.innerText.split(" ")[0]))].sort().join()`); got != "billing,main" {
		t.Errorf("the timeline is of the logs %s", got)
	}
	tb.Eval(`location.hash = "#/default/-/investigate?kind=object&value=" + encodeURIComponent('<img src=x onerror=window.hacked=1>"\\')`)
	tb.Await(`document.querySelector("main .empty")`)
	if got := tb.Eval(`String(window.hacked) + document.querySelectorAll("main img").length`); got != "undefined0" {
		t.Errorf("text became markup: %s", got)
	}
	tb.Quiet(sv.own)
	tb.Close()
}

// TestDeskComparesRevenue sums the demonstration's week and drops an export on the page.
func TestDeskComparesRevenue(t *testing.T) {
	b := browsertest.Start(t)
	sv := demonstration(t)
	tb := sv.signIn(b, "#/default/billing/revenue?by=plan", 1280, false)
	tb.Await(`document.querySelectorAll("main table tbody tr").length > 8`)
	if got := tb.Eval(`[...document.querySelectorAll("main tbody tr")].find((r) => r.innerText.startsWith("team") && r.innerText.includes("JPY"))?.innerText`); !strings.Contains(got, ",") || strings.Contains(got, ".") {
		t.Errorf("yen have no decimals: %q", got)
	}
	checkPage(t, tb, "1280", "revenue sums")
	drop := func(name, text string) {
		tb.Eval(fmt.Sprintf(`(() => { const d = new DataTransfer(); d.items.add(new File([%q], %q)); document.querySelector(".drop").dispatchEvent(new DragEvent("drop", { dataTransfer: d })); })()`, text, name))
	}
	drop("payments.csv", "id,Amount,Currency,Status\nch_demo_000001,1.00,eur,Paid\nch_nobody_knows,5.00,eur,Paid\n<img src=x onerror=window.hacked=1>,5.00,eur,Paid\n")
	tb.Await(`document.querySelector("main .verdict.red")`)
	if got := tb.Eval(`document.querySelector("main").innerText`); !strings.Contains(got, "ch_nobody_knows") || !strings.Contains(got, "Only in the log") {
		t.Errorf("the comparison says %s", got)
	}
	checkPage(t, tb, "1280", "revenue compared")
	tb.Quiet(sv.own) // before a refusal, which the browser notes
	drop("broken.csv", "a,b\n1,2\n")
	tb.Await(`document.querySelector("main .problem")?.innerText.includes("header")`)
	if got := tb.Eval(`String(window.hacked)`); got != "undefined" {
		t.Error("text became markup")
	}

	// The entries behind a number are as many as it says.
	n := tb.Eval(`(() => { const a = [...document.querySelectorAll("main tbody tr")].find((r) => r.innerText.startsWith("team") && r.innerText.includes("EUR")).querySelector("a"); const n = parseInt(a.title); a.click(); return n; })()`)
	tb.Await(fmt.Sprintf(`location.hash.includes("explore") && document.querySelector(".chartline strong")?.innerText.startsWith("%s ")`, n))
	tb.Close()
}

// TestDeskManages makes and changes what administrators decide, in the browser, and finds each change in the log of the log.
func TestDeskManages(t *testing.T) {
	b := browsertest.Start(t)
	sv := serve(t, withAll)
	sv.fillWith(3, func(i int) map[string]any { return map[string]any{"message": fmt.Sprint(i)} })
	tb := sv.signIn(b, "", 1280, false)
	open := func(section string) {
		tb.Eval(fmt.Sprintf(`location.hash = "#/default/-/manage?section=%s"`, section))
		tb.Await(fmt.Sprintf(`document.querySelector(".tabs [aria-current]")?.href.endsWith(%q) && document.querySelector("main [aria-busy=false]")`, "="+section))
	}
	send := func(title string, values map[string]string) {
		data, err := json.Marshal(values)
		if err != nil {
			t.Fatal(err)
		}
		tb.Eval(fmt.Sprintf(`(() => { const f = [...document.querySelectorAll("form.fields")].find((f) => f.querySelector("button").innerText === %q || f.querySelector("button").textContent === %q);
			for (const [k, v] of Object.entries(%s)) f.elements[k].value = v; f.requestSubmit(); })()`, title, title, data))
	}
	press := func(text string) {
		tb.Eval(fmt.Sprintf(`[...document.querySelectorAll("main button")].find((e) => e.innerText === %q).click()`, text))
	}
	confirm := func(name string) {
		tb.Await(`document.querySelector("dialog #confirm") && document.querySelector("dialog .danger").disabled`)
		tb.Type(name)
		tb.Press("Enter")
		tb.Await(`!document.querySelector("dialog")`)
	}

	open("tokens")
	send("Make a token", map[string]string{"name": "ann's laptop", "role": "reader", "log": "main", "days": "30"})
	tb.Await(`document.querySelector("main .card.green pre") && document.querySelector("main table").innerText.includes("ann's laptop")`)
	token := tb.Eval(`document.querySelector("main .card.green pre").innerText`)
	sv.do("GET", mainLog+"/entries", token, nil).want(t, 200, nil)
	sv.do("GET", "/api/v1/tenants/default/logs/system/entries", token, nil).problem(t, "not-found")
	press("Revoke")
	tb.Await(`document.querySelector("dialog")`)
	tb.Eval(`[...document.querySelectorAll("dialog button")].find((e) => e.innerText === "Cancel").click()`)
	tb.Await(`!document.querySelector("dialog")`)
	sv.do("GET", mainLog+"/entries", token, nil).want(t, 200, nil) // not confirmed
	press("Revoke")
	confirm("ann's laptop")
	tb.Await(`document.querySelector("main table")?.innerText.includes("revoked")`)
	sv.do("GET", mainLog+"/entries", token, nil).problem(t, "unauthenticated")

	open("logs")
	send("Set a legal hold on main", map[string]string{"id": "case-7", "reason": "Smith v. Jones"})
	tb.Await(`document.querySelector("main").innerText.includes("Smith v. Jones")`)
	press("Release")
	tb.Await(`document.querySelector("dialog #reason")`)
	tb.Type("settled") // it has the focus
	tb.Eval(`document.querySelector("dialog #confirm").focus()`)
	confirm("case-7")
	tb.Await(`!document.querySelector("main").innerText.includes("Smith v. Jones")`)
	send("Retention of main", map[string]string{"keepDays": "90", "expired": "move"})
	tb.Await(`document.querySelector("main").innerText.includes("at least 90 days")`)
	send("Make a log", map[string]string{"name": "orders"})
	tb.Await(`[...document.querySelectorAll("main h2")].some((e) => e.innerText === "orders")`)

	open("sources")
	send("Let a webhook in", map[string]string{"kind": "github", "log": "main", "title": "shop"})
	tb.Await(`document.querySelector("main .card.green pre")?.innerText.length > 20 && document.querySelector("main table").innerText.includes("/hooks/github/default/main")`)
	open("sinks")
	send("Make a sink", map[string]string{"name": "copies", "log": "main", "type": "file"})
	tb.Await(`document.querySelector("main table")?.innerText.includes("copies")`)
	press("Remove")
	confirm("copies")
	tb.Await(`document.querySelector("main .empty")`)
	open("keys")
	press("Replace the keys now")
	confirm("main")
	tb.Await(`[...document.querySelectorAll("main dd")].some((e) => e.innerText.startsWith("1, since"))`)
	open("tenants")
	send("Make a tenant", map[string]string{"name": "acme", "title": "Acme"})
	tb.Await(`document.querySelector("main table").innerText.includes("Acme")`)
	tb.Quiet(sv.own) // before refusals, which the browser notes

	open("alerts")
	send("Change the rules", map[string]string{"rules": "{"})
	tb.Await(`document.querySelector("main .problem")`)
	send("Change the rules", map[string]string{"rules": `{"nonsense":1}`})
	tb.Await(`document.querySelector("main .problem")?.innerText.includes("nonsense")`)
	tb.Close()
	for tenantName, actions := range map[string][]tenant.Action{
		"default": {tenant.TokenCreate, tenant.TokenRevoke, tenant.HoldSet, tenant.HoldRelease, tenant.LogUpdate, tenant.LogCreate, tenant.SourceCreate, tenant.SinkCreate, tenant.SinkDelete, tenant.LogRotate},
		"system":  {tenant.TenantCreate},
	} {
		for _, action := range actions {
			if len(sv.records(tenantName, action)) == 0 {
				t.Errorf("%s is not on record in %s", action, tenantName)
			}
		}
	}

	// An auditor looks, and is offered nothing that is not theirs.
	auditor := sv.token("default", tenant.TokenSpec{Name: "auditor", Role: tenant.Auditor})
	tb = b.Open("http://"+sv.addr+"/#/default/-/manage?section=logs", 1280, false, `document.querySelector("main")`)
	tb.Eval(`fetch("/api/v1/session", { method: "DELETE" })`)
	tb.Eval(`location.reload()`)
	tb.Await(`document.querySelector("#token")`)
	tb.Type(auditor)
	tb.Press("Enter")
	tb.Await(`document.querySelector("main [aria-busy=false] .card")`)
	if got := tb.Eval(`[...document.querySelectorAll("main form, main .danger, .tabs a")].map((e) => e.innerText).join()`); strings.Contains(got, "Tenants") || tb.Eval(`document.querySelectorAll("main form, main .danger").length`) != "0" {
		t.Errorf("an auditor is offered %s", got)
	}
	tb.Close()
}

// TestDeskReviewsADay signs yesterday's review as a person does.
func TestDeskReviewsADay(t *testing.T) {
	b := browsertest.Start(t)
	sv := demonstration(t)
	tb := sv.signIn(b, "#/default/-/review", 1280, false)
	tb.Await(`document.querySelector("main [aria-busy=false] table") && document.querySelector("main .card .actions a")`)
	if got := tb.Eval(`document.querySelectorAll("main .card .actions a").length`); got != "30" && got != "20" && got != "10" {
		t.Errorf("%s entries are drawn", got)
	}
	checkPage(t, tb, "1280", "review unsigned")
	tb.Eval(`document.querySelector("#reviewer").value = "Ann Example"; document.querySelector("#note").focus()`)
	tb.Type("looked at <b>each</b> finding")
	tb.Eval(`document.querySelector("main form.fields").requestSubmit()`)
	tb.Await(`document.querySelector("main .verdict.green")?.innerText.includes("looked at <b>each</b> finding")`)
	checkPage(t, tb, "1280", "review signed")
	if list := sv.records("default", tenant.ReviewSigned); len(list) != 1 || list[0]["reviewer"] != "Ann Example" {
		t.Errorf("on record: %v", list)
	}
	tb.Quiet(sv.own)
	tb.Close()
}

// TestDeskSavesViews keeps a query under a name, comes back to it, and deletes it.
func TestDeskSavesViews(t *testing.T) {
	b := browsertest.Start(t)
	sv := serve(t, withAll)
	sv.fillWith(9, func(i int) map[string]any {
		return map[string]any{"message": fmt.Sprint(i), "level": []string{"INFO", "AUDIT", "ERROR"}[i%3]}
	})
	tb := sv.signIn(b, "#/default/main/explore?q=level:ERROR", 1280, false)
	tb.Await(`/^3 /.test(document.querySelector(".chartline strong")?.innerText)`)
	tb.Eval(`[...document.querySelectorAll(".menu summary")].find((e) => e.innerText === "Views").click()`)
	tb.Await(`document.querySelector(".menu[open]")?.innerText.includes("No view")`)
	tb.Eval(`document.querySelector("#viewname").focus()`)
	tb.Type(`what <i>failed</i>`)
	tb.Press("Enter")
	tb.Await(`document.querySelector(".menu[open] li a")?.innerText === "what <i>failed</i>"`)
	checkWidth(t, tb, "the menu of views")
	tb.Eval(`location.hash = "#/default/main/explore"`)
	tb.Await(`/^9 /.test(document.querySelector(".chartline strong")?.innerText)`)
	tb.Eval(`[...document.querySelectorAll(".menu summary")].find((e) => e.innerText === "Views").click()`)
	tb.Await(`document.querySelector(".menu[open] li a")`)
	tb.Eval(`document.querySelector(".menu[open] li a").click()`)
	tb.Await(`location.hash.includes("ERROR") && /^3 /.test(document.querySelector(".chartline strong")?.innerText)`)
	tb.Eval(`[...document.querySelectorAll(".menu summary")].find((e) => e.innerText === "Views").click()`)
	tb.Await(`document.querySelector(".menu[open] li button")`)
	tb.Eval(`document.querySelector(".menu[open] li button").click()`)
	tb.Await(`document.querySelector(".menu[open]")?.innerText.includes("No view")`)
	tb.Quiet(sv.own)
	tb.Close()
}
