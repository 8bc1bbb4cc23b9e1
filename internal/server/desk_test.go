package server

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/access"
	"github.com/tree-of-life-system/immutable/internal/alert"
	"github.com/tree-of-life-system/immutable/internal/browsertest"
	"github.com/tree-of-life-system/immutable/internal/desk"
	"github.com/tree-of-life-system/immutable/internal/sink"
	"github.com/tree-of-life-system/immutable/internal/source"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// signIn opens the dashboard at an address behind # and signs in as a person does, with the keyboard.
func (sv *service) signIn(b *browsertest.Browser, hash string, width int, dark bool) *browsertest.Tab {
	sv.t.Helper()
	tb := b.Open("http://"+sv.addr+"/"+hash, width, dark, `document.querySelector("#token")`)
	tb.Type(rootToken)
	tb.Press("Enter")
	tb.Await(`!document.querySelector("#token") && document.querySelector("main h1")`)
	return tb
}

// own says whether an address is of this service: the only one that the dashboard may ask. The browser's own controls have
// pictures in data URLs.
func (sv *service) own(url string) bool {
	return strings.HasPrefix(url, "http://"+sv.addr+"/") || strings.HasPrefix(url, "data:image/svg+xml;base64,")
}

// withAll gives a service what runs beside its API.
func withAll(o *Options) {
	withMonitor(o)
	o.Alerts = alert.New(alert.Options{Installation: o.Installation})
	o.Registry = source.New(source.Options{Installation: o.Installation})
	o.Sinks = sink.New(sink.Options{Installation: o.Installation})
}

// fillWith appends n events in one batch.
func (sv *service) fillWith(n int, event func(i int) map[string]any) {
	sv.t.Helper()
	events := make([]map[string]any, n)
	for i := range events {
		events[i] = event(i)
	}
	body, err := json.Marshal(events)
	if err != nil {
		sv.t.Fatal(err)
	}
	sv.post(mainLog+"/entries", string(body)).want(sv.t, http.StatusCreated, nil)
}

func TestDeskExploresByKeyboardAndLive(t *testing.T) {
	b := browsertest.Start(t)
	sv := serve(t, withAll)
	sv.fillWith(500, func(i int) map[string]any {
		return map[string]any{
			"level": []string{"INFO", "AUDIT", "SECURITY", "REVENUE"}[i%4], "message": fmt.Sprintf("user login %d", i),
			"metadata": map[string]any{"actor": map[string]any{"name": fmt.Sprintf("user%d", i%7)}, "outcome": "success"},
		}
	})
	tb := sv.signIn(b, "", 1280, false)
	tb.Await(`document.querySelector("main .card .standing") && document.querySelector("main").innerText.includes("500")`)
	tb.Screenshot("desk-overview.png", 0, 1280)

	tb.Eval(`location.hash = "#/default/main/explore"`)
	tb.Await(`document.querySelectorAll(".row").length > 10 && document.querySelector(".bars .bar")`)
	if got := tb.Eval(`document.querySelector(".row .message").innerText`); got != "user login 499" {
		t.Errorf("the newest entry is %q", got)
	}
	if got := tb.Eval(`document.querySelectorAll(".row").length < 100`); got != "true" {
		t.Error("rows that are out of sight have elements")
	}
	tb.Eval(`document.querySelector(".list").scrollTop = 200 * 34`)
	tb.Await(`[...document.querySelectorAll(".row .message")].some((m) => m.innerText === "user login 290")`)
	tb.Screenshot("desk-explore.png", 0, 1280)

	// A query, the second entry, its panel.
	tb.Press("/")
	tb.Await(`document.activeElement.id === "query"`)
	tb.Type("actor.name:user3 level:SECURITY")
	tb.Press("Enter")
	tb.Await(`location.hash.includes("user3") && /^1[78] /.test(document.querySelector(".chartline strong")?.innerText)`)
	tb.Eval(`document.querySelector(".list").focus()`)
	tb.Press("j")
	tb.Press("j")
	tb.Press("Enter")
	tb.Await(`document.querySelector(".panel .verdict.green")`)
	if got := tb.Eval(`document.querySelectorAll(".panel .merkle li").length > 8`); got != "true" {
		t.Error("the way to the root is not drawn")
	}
	tb.Screenshot("desk-entry.png", 0, 1280)
	tb.Press("Escape")
	tb.Await(`!document.querySelector(".panel")`)

	// What is appended now shows, without a question.
	tb.Eval(`location.hash = "#/default/main/explore?q=later"`)
	tb.Await(`document.querySelector(".empty")`)
	tb.Eval(`[...document.querySelectorAll("button")].find((b) => b.innerText === "Live").click()`)
	tb.Await(`document.querySelector('button[aria-pressed="true"]')`)
	for i := range 3 {
		sv.post(mainLog+"/entries", fmt.Sprintf(`{"message":"later %d"}`, i)).want(t, http.StatusCreated, nil)
	}
	tb.Await(`document.querySelector(".row .message")?.innerText.startsWith("later ")`)
	tb.Quiet(sv.own)

	// A mistake is shown under its place. The browser notes the refusal, too.
	tb.Eval(`location.hash = "#/default/main/explore?q=" + encodeURIComponent("level:AUDIT AND (")`)
	tb.Await(`document.querySelector("#mistake pre")?.innerText.includes("^")`)
	tb.Close()
}

func TestDeskShowsHostileTextAsText(t *testing.T) {
	b := browsertest.Start(t)
	sv := serve(t, nil)
	hostile := []string{
		`<script>window.hacked=1</script>`, `<img src=x onerror=window.hacked=1>`, `"><svg onload=window.hacked=1>`, `javascript:window.hacked=1`, "\u202Eevil",
		`{{constructor.constructor('window.hacked=1')()}}`,
	}
	for _, set := range []string{"naughty-strings", "injection-strings"} {
		found, _ := filepath.Glob("../../../shared/data/" + set + "/*.txt")
		for _, name := range found {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(data)) {
				if line = strings.TrimRight(line, "\r\n"); line != "" && len(line) < 2000 {
					hostile = append(hostile, strings.ToValidUTF8(line, "?"))
				}
			}
		}
	}
	hostile = hostile[:min(len(hostile), 600)]
	sv.fillWith(len(hostile), func(i int) map[string]any {
		return map[string]any{"message": hostile[i], "metadata": map[string]any{"value": hostile[i], "actor": map[string]any{"name": hostile[i]}}}
	})
	tb := sv.signIn(b, "#/default/main/explore?entry=1", 1280, false)
	tb.Await(`document.querySelector(".panel .verdict.green")`)
	tb.Eval(`(async () => { const list = document.querySelector(".list"); for (let y = 0; y < list.scrollHeight; y += 400) { list.scrollTop = y; await new Promise(requestAnimationFrame); } })()`)
	tb.Eval(`document.querySelectorAll(".facets details").forEach((d) => { d.open = true; })`)
	tb.Await(`document.querySelectorAll(".facets li").length > 5`)
	if got := tb.Eval(`String(window.hacked) + document.querySelectorAll("main script, main img, main iframe, main [onerror], main [onload]").length`); got != "undefined0" {
		t.Errorf("text became markup: %s", got)
	}
	tb.Quiet(sv.own)
	tb.Close()
}

// TestDeskVerifiesInTheBrowser has the browser check receipts, bundles and checkpoints, good and tampered.
func TestDeskVerifiesInTheBrowser(t *testing.T) {
	b := browsertest.Start(t)
	sv := serve(t, withAll)
	for range 3 {
		sv.fillWith(100, func(i int) map[string]any { return map[string]any{"message": fmt.Sprintf("entry %d", i)} })
		if err := sv.log("default", "main").RotateKeys(t.Context()); err != nil { // it keeps a checkpoint
			t.Fatal(err)
		}
	}
	receipt := sv.get(mainLog+"/entries/7/receipt").want(t, http.StatusOK, nil).body
	bundle := sv.get(mainLog+"/bundle?format=json&from=5&to=9").want(t, http.StatusOK, nil).body
	tb := sv.signIn(b, "#/default/main/verify", 1280, false)
	tb.Await(`document.querySelector("#file")`)
	give := func(name string, data []byte, want string) {
		t.Helper()
		text, err := json.Marshal(string(data))
		if err != nil {
			t.Fatal(err)
		}
		tb.Eval(fmt.Sprintf(`(() => { document.querySelector(".drop + div").replaceChildren(); const d = new DataTransfer(); d.items.add(new File([%s], %q));
			const f = document.querySelector("#file"); f.files = d.files; f.dispatchEvent(new Event("change")); })()`, text, name))
		tb.Await(fmt.Sprintf(`document.querySelector(".drop + div").innerText.includes(%q)`, want))
	}
	give("receipt.json", receipt, "Recomputed in this browser")
	for _, change := range [][2]string{{"entry 7", "entry 8"}, {`"index":7`, `"index":6`}, {`index 7`, `index 6`}, {`"origin":"log.example/test`, `"origin":"log.example/other`}} {
		tampered := bytes.Replace(receipt, []byte(change[0]), []byte(change[1]), 1)
		if bytes.Equal(tampered, receipt) {
			t.Fatalf("%q is not in the receipt", change[0])
		}
		give("tampered.json", tampered, "Refuted")
	}
	// A server that shows another entry than the one that it proves.
	if got := tb.Eval(fmt.Sprintf(`(async () => { const { proven } = await import("/desk/entry.js"), receipt = %s, line = JSON.parse(receipt.line);
		const says = async (shown) => [await proven(receipt, shown)].flat().map((e) => e.textContent).join(" ");
		return (await says(line)).includes("Recomputed") && (await says({ ...line, message: "another" })).includes("Refuted"); })()`, receipt)); got != "true" {
		t.Error("what is shown is not compared with what is proven")
	}
	give("bundle.json", bundle, "CONSISTENT")
	tampered := bytes.Replace(bundle, []byte("entry 6"), []byte("entry X"), 1)
	if bytes.Equal(tampered, bundle) {
		t.Fatal("the entry is not in the bundle")
	}
	give("bundle.json", tampered, "REFUTED")
	give("nothing.json", []byte("{}"), "cannot be verified")
	tb.Eval(`document.querySelector('form button[type="submit"]').click()`)
	tb.Await(`document.querySelector("form .verdict.green")`)
	tb.Eval(`[...document.querySelectorAll("button")].find((b) => b.innerText === "Verify now").click()`)
	tb.Await(`document.querySelector(".card.green .standing")?.innerText.includes("Proven") && document.querySelector("td .verdictword.green")`)
	tb.Screenshot("desk-verify.png", 0, 1280)
	tb.Quiet(sv.own)
	tb.Close()
}

func TestDeskFitsEveryWindow(t *testing.T) {
	b := browsertest.Start(t)
	sv := serve(t, withAll)
	sv.fillWith(2, func(i int) map[string]any {
		return map[string]any{"level": "AUDIT", "message": strings.Repeat("long", 20*i)}
	})
	tb := sv.signIn(b, "", 1280, false)
	for _, view := range []struct {
		name  string
		width int
		dark  bool
	}{{"narrow", 360, false}, {"narrow-dark", 360, true}, {"wide", 3840, false}, {"dark", 1280, true}} {
		tb.Size(view.width, 900)
		tb.Dark(view.dark)
		for _, page := range []string{"#/", "#/default/main/explore?entry=1", "#/default/main/verify"} {
			tb.Eval(fmt.Sprintf(`location.hash = %q`, page))
			title := map[string]string{"#/": "Overview"}[page]
			if title == "" {
				title = strings.ToUpper(page[len("#/default/main/"):][:1]) + strings.Split(page[len("#/default/main/"):], "?")[0][1:]
			}
			tb.Await(fmt.Sprintf(`document.querySelector("nav a[aria-current]")?.innerText === %q && document.querySelector("main .facts, main .row, main table")`, title))
			if got := tb.Eval(`document.documentElement.scrollWidth <= window.innerWidth`); got != "true" {
				t.Errorf("%s: %s is wider than its window: %s pixels", view.name, title, tb.Eval(`document.documentElement.scrollWidth`))
			}
			tb.Screenshot("desk-"+view.name+"-"+strings.ToLower(title)+".png", 0, view.width)
		}
	}
	tb.Quiet(sv.own)
	tb.Close()
}

// TestSessionsOverHTTP signs in and out without a browser.
func TestSessionsOverHTTP(t *testing.T) {
	sv := serve(t, nil)
	for name, body := range map[string]string{"wrong": `{"token":"imt_x_y"}`, "empty": `{"token":""}`} {
		if a := sv.do("POST", "/api/v1/session", "", strings.NewReader(body), "Content-Type", "application/json"); a.status != http.StatusUnauthorized || a.header.Get("Set-Cookie") != "" {
			t.Errorf("%s token: %d", name, a.status)
		}
	}
	good := fmt.Sprintf(`{"token":%q}`, rootToken)
	if a := sv.do("POST", "/api/v1/session", "", strings.NewReader(good), "Content-Type", "application/json", "Sec-Fetch-Site", "cross-site"); a.status != http.StatusForbidden || a.header.Get("Set-Cookie") != "" {
		t.Errorf("from another site: %d", a.status)
	}
	a := sv.do("POST", "/api/v1/session", "", strings.NewReader(good), "Content-Type", "application/json").want(t, http.StatusNoContent, nil)
	c, err := http.ParseSetCookie(a.header.Get("Set-Cookie"))
	if err != nil || c.Name != access.SessionCookie || !c.HttpOnly || c.SameSite != http.SameSiteStrictMode {
		t.Fatalf("the cookie is %v, %v", c, err)
	}
	cookie := c.Name + "=" + c.Value
	sv.do("GET", "/api/v1/whoami", "", nil, "Cookie", cookie).want(t, http.StatusOK, nil)
	if a := sv.do("POST", mainLog+"/entries", "", strings.NewReader(`{"message":"forged"}`), "Content-Type", "application/json", "Cookie", cookie, "Origin", "https://evil.example"); a.status != http.StatusUnauthorized {
		t.Errorf("another site appended: %d", a.status)
	}
	sv.do("DELETE", "/api/v1/session", "", nil, "Cookie", cookie).want(t, http.StatusNoContent, nil)
	sv.do("GET", "/api/v1/whoami", "", nil, "Cookie", cookie).want(t, http.StatusUnauthorized, nil)
	for _, action := range []tenant.Action{tenant.SessionBegin, tenant.SessionEnd} { // both are on record
		if n, err := sv.log(tenant.SystemName, tenant.SystemName).Count(t.Context(), immutable.Query{Text: fmt.Sprintf("action:%q", action)}); err != nil || n.N != 1 {
			t.Errorf("%s: %d entries, %v", action, n.N, err)
		}
	}
}

// TestDeskFilesAreSmallAndStrict holds the budget of a page, and the headers of each file.
func TestDeskFilesAreSmallAndStrict(t *testing.T) {
	sv := serve(t, nil)
	files, err := desk.Files()
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for name, f := range files {
		if name != "verifier.wasm" {
			total += len(f.Packed)
		}
		a := sv.do("GET", "/desk/"+name, "", nil, "Accept-Encoding", "identity").want(t, http.StatusOK, nil)
		if a.header.Get("Content-Security-Policy") != desk.Policy || a.header.Get("Content-Type") != f.Kind {
			t.Errorf("%s: %v", name, a.header)
		}
		z, err := gzip.NewReader(bytes.NewReader(f.Packed))
		if err != nil {
			t.Fatal(err)
		}
		if want, err := io.ReadAll(z); err != nil || !bytes.Equal(a.body, want) {
			t.Errorf("%s is not sent as it is: %v", name, err)
		}
		for _, bad := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("} {
			if name != "wasm_exec.js" && strings.HasSuffix(name, ".js") && bytes.Contains(a.body, []byte(bad)) {
				t.Errorf("%s has %s: text could become markup", name, bad)
			}
		}
		if a := sv.do("GET", "/desk/"+name, "", nil, "If-None-Match", f.Tag); a.status != http.StatusNotModified {
			t.Errorf("%s again: %d", name, a.status)
		}
	}
	if total > 100<<10 {
		t.Errorf("%d bytes: a page is to stay below 300 KB, data included", total)
	}
	sv.do("GET", "/desk/none.js", "", nil).want(t, http.StatusNotFound, nil)
}
