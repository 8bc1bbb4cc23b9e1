package page

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/browsertest"
	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/evidence"
	. "github.com/tree-of-life-system/immutable/internal/evidence/evidencetest"
	"github.com/tree-of-life-system/immutable/proof"
)

// bundle has hostile entries, a rotation, a witness, a policy and a time.
func bundle() (*Log, *evidence.Bundle) {
	l := New("browser")
	l.Fill(3)
	l.Append(Hostile())
	l.Rotate()
	l.Fill(4)
	l.Append(entry.Event{Level: entry.Audit, Message: strings.Repeat("a long message without any space ", 8) + strings.Repeat("x", 300), Hostname: "host", PID: 7})
	witness := Key(proof.TypeCosignature, "witness.example/a", "a")
	b := l.Bundle(evidence.Statement{From: 1, To: 10}, Indexes(1, 10), witness)
	b.Policy = fmt.Appendf(nil, "witness A %s\nquorum A\n", witness.Key())
	b.Times = []evidence.Time{{Checkpoint: l.Note(7, witness), Consistency: l.Consistency(7, 10)}, {Checkpoint: l.Note(8), Consistency: l.Consistency(8, 10), Stamp: []byte{1}}}
	return l, b
}

func write(t *testing.T, name string, file []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, file, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestBrowserAgreesWithTheVerifier opens an untouched bundle and a sample of flipped ones in a browser. The same verifier runs
// there, so the verdicts have to be the same.
func TestBrowserAgreesWithTheVerifier(t *testing.T) {
	b := browsertest.Start(t)
	_, sample := bundle()
	data := Data(sample)
	tb := open(b, write(t, "good.html", With(data)), 1200, false)
	if got := tb.Eval("document.documentElement.dataset.verdict"); got != "consistent" {
		t.Fatalf("verdict %s, want consistent: %s", got, tb.Eval("document.getElementById('verdict').innerText"))
	}
	quiet(tb)
	tb.Close()
	// A few as pages of their own, and many more by handing them to the verifier of a page that is open.
	tb = open(b, write(t, "verifier.html", Empty()), 1200, false)
	for i, mark := range []string{`\"message\":\"`, `"checkpoint":"`, `"proof":["`, `"statement"`, `"count":`, `example.com`, `+`, `"epochs":"`, `"consistency":["`, `"index":`, `"leaf":"`, `\"timestamp\":\"`, ``} {
		at := bytes.Index(data, []byte(mark)) + len(mark)
		flipped := bytes.Clone(data)
		flipped[at] ^= 1
		if want := evidence.Verify(flipped, evidence.Options{}).Verdict; want != evidence.Refuted {
			t.Errorf("byte %d, after %s: outside the browser %s, want refuted", at, mark, want)
		}
		if i < 3 {
			own := open(b, write(t, "flipped.html", With(flipped)), 1200, false)
			if got := own.Eval("document.documentElement.dataset.verdict"); got != "refuted" {
				t.Errorf("byte %d, after %s: %s, want refuted", at, mark, got)
			}
			quiet(own)
			own.Close()
		}
	}
	text, err := json.Marshal(string(data))
	if err != nil {
		t.Fatal(err)
	}
	got := tb.Eval(fmt.Sprintf(`(() => {
		const data = new TextEncoder().encode(%s), said = {};
		for (let i = 30; i < data.length; i += 211) {
			data[i] ^= 1;
			const a = JSON.parse(immutableVerify(data, "", "", ""));
			data[i] ^= 1;
			said[i] = a.report ? a.report.verdict : a.error;
		}
		return JSON.stringify(said);
	})()`, text))
	var said map[int]string
	if err := json.Unmarshal([]byte(got), &said); err != nil || len(said) < 50 {
		t.Fatalf("%d answers: %v", len(said), err)
	}
	for at, verdict := range said {
		flipped := bytes.Clone(data)
		flipped[at] ^= 1
		if want := string(evidence.Verify(flipped, evidence.Options{}).Verdict); verdict != want {
			t.Errorf("byte %d: %s in the browser, %s outside", at, verdict, want)
		}
	}
	t.Logf("%d flipped bytes verified in the browser as outside it", len(said))
	quiet(tb)
	tb.Close()
}

// TestPageShowsHostileTextAsText opens entries that try to break out of the page, in its three shapes.
func TestPageShowsHostileTextAsText(t *testing.T) {
	b := browsertest.Start(t)
	l, sample := bundle()
	file := write(t, "evidence.html", With(Data(sample)))
	for _, view := range []struct {
		name  string
		width int
		dark  bool
	}{{"wide", 1280, false}, {"narrow", 360, false}, {"dark", 1280, true}, {"narrow-dark", 360, true}} {
		tb := open(b, file, view.width, view.dark)
		tb.Eval("document.querySelectorAll('td.m button')[2].click()")
		tb.Screenshot(view.name+"-1.png", 0, view.width)
		tb.Screenshot(view.name+"-2.png", 1500, view.width)
		tb.Eval("document.querySelectorAll('td.m button').forEach((b, i) => { if (i !== 2) b.click(); })")
		if got := tb.Eval("document.querySelectorAll('tr.e').length"); got != "9" {
			t.Errorf("%s: %s rows, want 9", view.name, got)
		}
		if got := tb.Eval("document.title"); got != "Evidence: "+Origin {
			t.Errorf("%s: title %q", view.name, got)
		}
		if got := tb.Eval("document.querySelectorAll('main img, main script').length"); got != "0" {
			t.Errorf("%s: an entry made %s elements", view.name, got)
		}
		text := tb.Eval("document.querySelector('#rows').innerText")
		for _, want := range []string{"</script><script>document.title='broken'</script>", `\u202egnp.exe\u2066`, "12345678901234567890"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s: the entries do not show %q", view.name, want)
			}
		}
		if strings.ContainsAny(text, "\u202e\u2066\u200b\u2028") {
			t.Errorf("%s: a character that reorders or hides text is shown as it is", view.name)
		}
		if got := tb.Eval("document.documentElement.scrollWidth <= innerWidth"); got != "true" {
			t.Errorf("%s: the page is wider than the window: %s", view.name, tb.Eval("document.documentElement.scrollWidth"))
		}
		checkContrast(t, tb, view.name)
		quiet(tb)
		tb.Close()
	}
	tb := open(b, file, 1000, false)
	tb.Eval(`document.getElementById("search").value = "GNP.exe"; document.getElementById("search").dispatchEvent(new Event("input"))`)
	if got := tb.Eval("document.querySelectorAll('tr.e').length + ' ' + document.getElementById('count').innerText"); got != "1 1 of 9 entries" {
		t.Errorf("searching: %s", got)
	}
	paste := func(id, text string) string {
		value, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		return tb.Eval(fmt.Sprintf(`document.getElementById(%q).value = %s; document.getElementById("know").requestSubmit(); document.documentElement.dataset.verdict + " " + document.getElementById("know-error").innerText`, id, value))
	}
	if got := paste("keys", l.Epochs[1][1].Key().String()); got != "proven " {
		t.Errorf("with a pinned key: %q", got)
	}
	tb.Screenshot("proven.png", 0, 1000)
	if got := paste("keys", New("other").Epochs[0][0].Key().String()); got != "refuted " {
		t.Errorf("with the key of another log: %q", got)
	}
	if got := paste("keys", "nonsense"); !strings.Contains(got, "verifier keys: parse key") {
		t.Errorf("with a key that is none: %q", got)
	}
	paste("keys", "")
	if got := paste("checkpoint", string(l.Note(7))); got != "proven " {
		t.Errorf("with a checkpoint: %q", got)
	}
	if got := paste("policy", string(sample.Policy)); got != "proven " {
		t.Errorf("with a policy: %q", got)
	}
	if got := paste("policy", "quorum\n"); !strings.Contains(got, "policy:") {
		t.Errorf("with a policy that is none: %q", got)
	}
	tb.Call("Emulation.setEmulatedMedia", map[string]any{"media": "print"}, nil)
	if got := tb.Eval(`getComputedStyle(document.getElementById("know")).display`); got != "none" {
		t.Errorf("printed, the form is shown as %s", got)
	}
	tb.Screenshot("print.png", 0, 1000)
	quiet(tb)
	tb.Close()
}

// checkContrast computes WCAG contrast of every text against what is behind it: 4.5 at least.
func checkContrast(t *testing.T, tb *browsertest.Tab, view string) {
	t.Helper()
	low := tb.Eval(`(() => {
		const rgb = (s) => s.match(/[\d.]+/g).map(Number);
		const lum = (c) => { const [r, g, b] = c.slice(0, 3).map((v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
		const behind = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
		const low = new Set();
		for (const e of document.querySelectorAll("body *")) {
			if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || !e.checkVisibility()) continue;
			const a = lum(rgb(getComputedStyle(e).color)), b = lum(behind(e));
			const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
			if (ratio < 4.5) low.add(e.tagName + "." + e.className + " " + ratio.toFixed(2));
		}
		return [...low].join(", ");
	})()`)
	if low != "" {
		t.Errorf("%s: contrast below 4.5: %s", view, low)
	}
	unnamed := tb.Eval(`[...document.querySelectorAll("input, textarea, button")].filter((e) => !(e.labels && e.labels.length) && !e.getAttribute("aria-label") && !e.innerText).map((e) => e.id || e.tagName).join(", ")`)
	if unnamed != "" {
		t.Errorf("%s: controls without a name: %s", view, unnamed)
	}
}

// TestPageFromElsewhereVerifiesADroppedFile gives files to the page without data.
func TestPageFromElsewhereVerifiesADroppedFile(t *testing.T) {
	b := browsertest.Start(t)
	_, sample := bundle()
	data := Data(sample)
	flipped := bytes.Clone(data)
	flipped[bytes.Index(flipped, []byte(`\"message\":\"`))+14] ^= 1
	tb := open(b, write(t, "verifier.html", Empty()), 1000, false)
	tb.Screenshot("empty.png", 0, 1000)
	for _, c := range []struct {
		name string
		file []byte
		want string
	}{
		{"a page", With(data), "consistent"},
		{"data", data, "consistent"},
		{"a changed page", With(flipped), "refuted"},
		{"nothing of ours", []byte("<p>hello"), "failed"},
		{"a page again", With(data), "consistent"},
	} {
		var doc struct{ Root struct{ NodeID int } }
		tb.Call("DOM.getDocument", nil, &doc)
		var node struct{ NodeID int }
		tb.Call("DOM.querySelector", map[string]any{"nodeId": doc.Root.NodeID, "selector": "#file"}, &node)
		tb.Eval(`delete document.documentElement.dataset.verdict`)
		tb.Call("DOM.setFileInputFiles", map[string]any{"nodeId": node.NodeID, "files": []string{write(t, "given.html", c.file)}}, nil)
		tb.Eval(`new Promise((done) => { const look = () => document.documentElement.dataset.verdict ? done("") : setTimeout(look, 20); look(); })`)
		if got := tb.Eval("document.documentElement.dataset.verdict"); got != c.want {
			t.Errorf("%s: %s, want %s: %s", c.name, got, c.want, tb.Eval("document.getElementById('verdict').innerText"))
		}
	}
	if got := tb.Eval("document.getElementById('rest').hidden + ' ' + document.querySelectorAll('tr.e').length"); got != "false 9" {
		t.Errorf("after a good file: %s", got)
	}
	quiet(tb)
	tb.Close()
}

// TestThousandEntriesInTheBrowser prints how long a bundle of a thousand entries takes there.
func TestThousandEntriesInTheBrowser(t *testing.T) {
	b := browsertest.Start(t)
	l := New("thousand")
	l.Fill(100_000)
	var indexes []uint64
	for i := range uint64(1000) {
		indexes = append(indexes, i*100+i%7)
	}
	data := Data(l.Bundle(evidence.Statement{Query: "scattered", To: 100_000}, indexes))
	tb := open(b, write(t, "thousand.html", With(data)), 1200, false)
	if got := tb.Eval("document.documentElement.dataset.verdict"); got != "consistent" {
		t.Fatalf("verdict %s", got)
	}
	took, err := strconv.ParseFloat(tb.Eval("document.documentElement.dataset.took"), 64)
	if err != nil {
		t.Fatal(err)
	}
	whole := tb.Eval("Math.round(performance.now())")
	t.Logf("1,000 entries of a log of 100,000, %d bytes of data: verified in %.0f ms; %s ms after the page began to load all was there", len(data), took, whole)
	quiet(tb)
	tb.Close()
}

// open opens a file and waits until its page says what came of it.
func open(b *browsertest.Browser, file string, width int, dark bool) *browsertest.Tab {
	return b.Open("file://"+file, width, dark, `location.protocol === "file:" && (document.documentElement.dataset.verdict || document.documentElement.dataset.ready)`)
}

// quiet demands that the page complained about nothing and asked for nothing but itself.
func quiet(t *browsertest.Tab) {
	t.Quiet(func(url string) bool { return strings.HasPrefix(url, "file://") && strings.HasSuffix(url, ".html") })
}
