// Package indextest makes the reference corpus of the search benchmarks: audit lines of 26 kinds, with the fields and about the
// entropy that docs/search-index.md gives figures for. Tests and benchmarks only.
package indextest

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/tree-of-life-system/immutable/internal/entry"
)

// What the benchmarks look for.
const (
	RareWord  = "zanzibar"     // in one entry
	Address   = "203.0.113.42" // ip of 25 entries
	addresses = 25
)

// A Corpus makes the lines 0 … Size-1 in order; the same for the same seed.
type Corpus struct {
	Size int
	rng  *rand.Rand
	at   int
	time int64
}

// New begins a corpus of size lines.
func New(size int, seed uint64) *Corpus {
	rng := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // a corpus repeats from its seed
	return &Corpus{Size: size, rng: rng, time: 1_767_225_600_000_000_000}
}

type template struct {
	weight int // of 1000
	level  entry.Level
	text   string // with fields in braces
	fields string
}

// "payment" is in 10 percent of the lines, "ledger-db-1" and "ledger-db-2" in 6.
var templates = []template{
	{52, entry.Revenue, "payment captured for order {n}", "customer amount currency"},
	{26, entry.Warn, "payment declined by issuer, code {code}", "customer amount currency"},
	{14, entry.Error, "payment gateway timeout after {ms} ms", "customer attempt"},
	{8, entry.Critical, "payment refund failed for invoice {hex10}", "customer amount"},
	{95, entry.Info, "request completed in {ms} ms", "ip method status"},
	{90, entry.Info, "session opened for {user}", "ip session"},
	{60, entry.Info, "session closed for {user}", "session"},
	{50, entry.Security, "login failed for {user}", "ip attempt"},
	{45, entry.Security, "login succeeded for {user}", "ip session"},
	{20, entry.Security, "password changed by {user}", "ip"},
	{15, entry.Security, "token revoked for {user}", "ip actor"},
	{60, entry.Audit, "record viewed by {user}", "actor object"},
	{40, entry.Audit, "record updated by {user}", "actor object"},
	{10, entry.Audit, "record deleted by {user}", "actor object"},
	{12, entry.Audit, "permission granted to {user}", "actor role"},
	{8, entry.Audit, "permission removed from {user}", "actor role"},
	{35, entry.Info, "query on ledger-db-1 took {ms} ms", "duration"},
	{25, entry.Info, "query on ledger-db-2 took {ms} ms", "duration"},
	{50, entry.Info, "cache miss for key {hex8}", "region"},
	{55, entry.Info, "job {n} finished", "duration region"},
	{20, entry.Warn, "job {n} retried", "attempt region"},
	{9, entry.Error, "job {n} failed: connection reset by peer", "region"},
	{60, entry.Info, "message delivered to queue orders", "region bytes"},
	{70, entry.Revenue, "invoice issued", "invoice customer amount"},
	{50, entry.Revenue, "subscription renewed", "customer amount currency"},
	{21, entry.Error, "upstream returned {code} from api gateway", "ip method status"},
}

var (
	methods    = []string{"GET", "GET", "GET", "GET", "POST", "POST", "PUT", "DELETE"}
	statuses   = []int{200, 200, 200, 200, 201, 204, 301, 400, 403, 404, 500, 503}
	currencies = []string{"EUR", "EUR", "EUR", "USD", "USD", "GBP", "CHF"}
	regions    = []string{"eu-west-1", "eu-central-1", "us-east-1", "ap-south-1"}
	roles      = []string{"admin", "auditor", "clerk", "viewer"}
	given      = []string{"ann", "bob", "carla", "dmitri", "elif", "farid", "greta", "hugo", "ines", "jonas", "kim", "lena", "mateo", "nora", "oscar", "priya"}
)

// Next makes the next line: its event, and its timestamp in Unix nanoseconds.
func (c *Corpus) Next(e *entry.Event) (unixNano int64) {
	r := c.rng
	c.time += int64(r.ExpFloat64()*8e8)/1000*1000 + 1000
	pick, t := r.IntN(1000), 0
	for ; pick >= templates[t].weight; t++ {
		pick -= templates[t].weight
	}
	message := c.fill(templates[t].text)
	if c.at == c.Size*3/5 {
		message += " " + RareWord
	}
	var m strings.Builder
	m.WriteByte('{')
	for f := range strings.FieldsSeq(templates[t].fields) {
		c.field(&m, f)
	}
	if n := max(c.Size/addresses, 1); c.at%n == n/2 && !strings.Contains(m.String(), `"ip"`) {
		fmt.Fprintf(&m, `"ip":%q,`, Address)
	} else if c.at%n == n/2 {
		s := m.String()
		from := strings.Index(s, `"ip":"`) + 6
		rest := s[from:]
		m.Reset()
		m.WriteString(s[:from] + Address + rest[strings.IndexByte(rest, '"'):])
	}
	if r.IntN(10) < 8 {
		fmt.Fprintf(&m, `"request_id":"%016x",`, r.Uint64())
	}
	*e = entry.Event{Level: templates[t].level, Message: message, RawMetadata: []byte(strings.TrimSuffix(m.String(), ",") + "}")}
	e.Hostname = fmt.Sprintf("app-%d", 1+r.IntN(4))
	e.PID = uint32(1000 + 7*r.IntN(12))
	c.at++
	return c.time
}

// zipf is a number below n, small ones more often.
func (c *Corpus) zipf(n int) int {
	x := c.rng.Float64()
	return int(float64(n) * x * x * x)
}

func (c *Corpus) user() string {
	n := c.zipf(4000)
	return fmt.Sprintf("%s%d", given[n%len(given)], n/len(given))
}

// fill replaces the fields of a template.
func (c *Corpus) fill(text string) string {
	from := strings.IndexByte(text, '{')
	if from < 0 {
		return text
	}
	to := strings.IndexByte(text, '}')
	var v string
	switch text[from+1 : to] {
	case "n":
		v = fmt.Sprint(100000 + c.rng.IntN(900000))
	case "ms":
		v = fmt.Sprint(1 + int(c.rng.ExpFloat64()*40))
	case "code":
		v = fmt.Sprint(statuses[7+c.rng.IntN(5)])
	case "user":
		v = c.user()
	case "hex8":
		v = fmt.Sprintf("%08x", c.rng.Uint32())
	case "hex10":
		v = fmt.Sprintf("%010x", c.rng.Uint64()>>24)
	}
	return text[:from] + v + text[to+1:]
}

func (c *Corpus) field(m *strings.Builder, name string) {
	r := c.rng
	switch name {
	case "ip":
		n := c.zipf(40000)
		fmt.Fprintf(m, `"ip":"%d.%d.%d.%d",`, 10+n%7*13, n>>12&255, n>>4&255, 1+n&15*16)
	case "customer":
		fmt.Fprintf(m, `"customer":"C%05d",`, c.zipf(30000))
	case "amount":
		fmt.Fprintf(m, `"amount":%d.%02d,`, 1+int(r.ExpFloat64()*80), 5*r.IntN(20))
	case "currency":
		fmt.Fprintf(m, `"currency":%q,`, currencies[r.IntN(len(currencies))])
	case "attempt":
		fmt.Fprintf(m, `"attempt":%d,`, 1+c.zipf(9))
	case "method":
		fmt.Fprintf(m, `"method":%q,`, methods[r.IntN(len(methods))])
	case "status":
		fmt.Fprintf(m, `"status":%d,`, statuses[r.IntN(len(statuses))])
	case "session":
		fmt.Fprintf(m, `"session":"%012x",`, r.Uint64()>>16)
	case "invoice":
		fmt.Fprintf(m, `"invoice":"%010x",`, r.Uint64()>>24)
	case "actor":
		fmt.Fprintf(m, `"actor":%q,`, c.user())
	case "object":
		fmt.Fprintf(m, `"object":{"type":"file","id":%d},`, c.zipf(90000))
	case "role":
		fmt.Fprintf(m, `"role":%q,`, roles[r.IntN(len(roles))])
	case "duration":
		fmt.Fprintf(m, `"duration":%d,`, int(r.ExpFloat64()*40000))
	case "region":
		fmt.Fprintf(m, `"region":%q,`, regions[r.IntN(len(regions))])
	case "bytes":
		fmt.Fprintf(m, `"bytes":%d,`, 200+r.IntN(4000))
	}
}
