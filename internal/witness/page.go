package witness

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"html/template"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// pageLogs is how many logs one page lists.
const pageLogs = 200

// style is the page's only style; its hash stands in the page's policy, which allows nothing else.
const style = `
:root { color-scheme: light dark; --line: #8884; --bad: #b00020; --dim: #666; }
@media (prefers-color-scheme: dark) { :root { --bad: #ff8a80; --dim: #aaa; } }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
pre { overflow-x: auto; padding: .6rem; border: 1px solid var(--line); border-radius: 4px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.origin { overflow-wrap: anywhere; } .bad { color: var(--bad); font-weight: 600; } .dim { color: var(--dim); }
`

var page = template.Must(template.New("page").Parse(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Witness {{.Name}}</title>
<style>{{.Style}}</style>
</head>
<body>
<main>
<h1>Witness {{.Name}}</h1>
<p>This witness cosigns checkpoints of the logs below (C2SP tlog-witness), each only if it continues what was cosigned before. It does not look at entries.</p>
<h2>Keys</h2>
{{range .Keys}}<pre>{{.}}</pre>
{{end}}<h2>Logs</h2>
{{if .Forks}}<p class="bad">{{.Forks}} of {{.Total}} logs have signed two histories.</p>
{{end}}<div class="wide"><table>
<thead><tr><th scope="col">Origin</th><th scope="col" class="number">Size</th><th scope="col">Cosigned</th><th scope="col">Last seen</th><th scope="col" class="number">Refused</th><th scope="col">Remarks</th></tr></thead>
<tbody>
{{range .Logs}}<tr><td class="origin">{{.Origin}}</td>
<td class="number">{{if .Checkpoint}}<a href="{{.Checkpoint}}">{{.Size}}</a>{{else}}<span class="dim">none</span>{{end}}</td>
<td>{{.Cosigned}}</td><td>{{.Seen}}</td><td class="number">{{.Refused}}</td>
<td>{{range .Proofs}}<a class="bad" href="misbehaviour/{{.}}">proof of a fork</a> {{end}}{{if .WriteErr}}<span class="bad">state cannot be written</span> {{end}}{{if .Last}}<span class="dim">last refusal: {{.Last}}</span>{{end}}</td></tr>
{{else}}<tr><td colspan="6" class="dim">none is configured</td></tr>
{{end}}</tbody></table></div>
{{if .Next}}<p><a href="?from={{.Next}}" rel="next">More of {{.Total}} logs</a></p>
{{end}}<p class="dim">Forks first, then by origin. Last seen and refused count since {{.Since}}. Times are UTC.</p>
</main>
</body>
</html>
`))

type pageData struct {
	Name, Since        string
	Style              template.CSS
	Keys               []string
	Logs               []pageLog
	Total, Forks, Next int
}

type pageLog struct {
	Origin, Checkpoint, Cosigned, Seen, Last, WriteErr string
	Size, Refused                                      uint64
	Proofs                                             []string
}

func (s *Server) servePage(rw http.ResponseWriter, r *http.Request) {
	d := s.pageData()
	from, err := strconv.Atoi(r.FormValue("from"))
	if err != nil || from < 0 || from > len(d.Logs) {
		from = 0
	}
	d.Logs = d.Logs[from:]
	if len(d.Logs) > pageLogs {
		d.Logs, d.Next = d.Logs[:pageLogs], from+pageLogs
	}
	var b bytes.Buffer
	if err := page.Execute(&b, d); err != nil {
		s.logger.Error("page not rendered", "error", err)
		http.Error(rw, "the page cannot be made", http.StatusInternalServerError)
		return
	}
	sum := sha256.Sum256([]byte(style))
	h := rw.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	_, _ = rw.Write(b.Bytes()) // a reader that left loads it again
}

// pageData lists every log, those with proofs against them first.
func (s *Server) pageData() *pageData {
	d := &pageData{Name: s.name, Style: style, Since: pageTime(s.started)}
	for _, k := range s.Keys() {
		d.Keys = append(d.Keys, k.String())
	}
	s.mu.RLock()
	for _, w := range s.logs {
		d.Logs = append(d.Logs, w.forPage())
	}
	s.mu.RUnlock()
	for i := range d.Logs {
		if len(d.Logs[i].Proofs) > 0 {
			d.Forks++
		}
	}
	slices.SortFunc(d.Logs, func(a, b pageLog) int {
		return cmp.Or(cmp.Compare(min(len(b.Proofs), 1), min(len(a.Proofs), 1)), cmp.Compare(a.Origin, b.Origin))
	})
	d.Total = len(d.Logs)
	return d
}

func (w *watched) forPage() pageLog {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := pageLog{Origin: w.origin, Size: w.shown.size, Seen: "not since the start", Refused: w.refused, Last: w.last, WriteErr: w.writeErr, Proofs: slices.Clone(w.proofs)}
	if w.shown.note != nil {
		l.Checkpoint = w.hash + "/checkpoint"
		l.Cosigned = pageTime(time.Unix(int64(w.shown.time), 0))
	}
	if !w.seen.IsZero() {
		l.Seen = pageTime(w.seen)
	}
	return l
}

func pageTime(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") }
