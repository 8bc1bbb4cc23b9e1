package server

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/revenue"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// revenueRoutes add up the money in a log, and compare it with what the payment provider exports.
func revenueRoutes() []route {
	return []route{
		{Method: "GET", Pattern: logPath + "/revenue", Permission: tenant.PermRead, Query: slices.Concat(filterParameters, []string{"by"}), ID: "getRevenue", Handle: getRevenue},
		{Method: "POST", Pattern: logPath + "/revenue/comparison", Permission: tenant.PermExport, Query: filterParameters, Body: true, ID: "compareRevenue", Handle: compareRevenue},
	}
}

// ledgerMemory is what the payments of a ledger take at most, roughly.
const ledgerMemory = 64 << 20

// ledger reads the payments that the request selects, on record as a search.
func (r *request) ledger(what string) (l *revenue.Ledger, about ledgerAbout, err error) {
	q, spelling, err := r.filter()
	if err != nil {
		return nil, about, err
	}
	if _, err := immutable.ParseFilter(q.Text, q.Now); err != nil { // alone, so that no parenthesis of it closes ours
		return nil, about, err
	}
	if q.Text == "" {
		q.Text = revenue.Text
	} else {
		q.Text = "(" + q.Text + ") " + revenue.Text
	}
	done, err := r.placeToSearch()
	if err != nil {
		return nil, about, err
	}
	defer done()
	end, err := r.beginRead("search", what+" "+spelling)
	if err != nil {
		return nil, about, err
	}
	root, size := r.log.Root()
	about = ledgerAbout{Size: size, Root: root.Base64(), Oldest: r.oldest()}
	l = &revenue.Ledger{}
	for e, err := range r.log.Entries(r.Context(), q) {
		if err == nil && e.Index < size {
			err = l.Add(&e)
		}
		if err != nil {
			end(l.Entries(), err)
			return nil, about, err
		}
	}
	end(l.Entries(), nil)
	about.Entries, about.Left = l.Entries(), l.Left
	if about.Left == nil {
		about.Left = map[string]uint64{}
	}
	return l, about, nil
}

// ledgerAbout says what a ledger was made of.
type ledgerAbout struct {
	Size    uint64            `json:"size"` // of the log then
	Root    string            `json:"root"`
	Oldest  uint64            `json:"oldest"`  // entries below are retired, and count nothing
	Entries uint64            `json:"entries"` // that have an amount and a currency
	Left    map[string]uint64 `json:"left"`    // of these, those in no sum, by why
}

func getRevenue(r *request) error {
	by := r.param("by")
	if by == "" {
		by = "currency"
	}
	if !slices.Contains(revenue.Groupings(), by) {
		return fault("bad-parameter", fmt.Sprintf("by: want %s, not %q", strings.Join(revenue.Groupings(), ", "), by))
	}
	give, err := r.takeMemory(ledgerMemory)
	if err != nil {
		return err
	}
	defer give()
	l, about, err := r.ledger("revenue by " + by)
	if err != nil {
		return err
	}
	return r.json(http.StatusOK, struct {
		By   string        `json:"by"`
		Sums []revenue.Sum `json:"sums"`
		ledgerAbout
	}{by, l.Sums(by), about})
}

// compareRevenue compares the log with an export that the body is. The outcome is on record with the export's digest, so that
// nobody can say later that another file was compared.
func compareRevenue(r *request) error {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || !slices.Contains([]string{"text/csv", "application/json", "application/x-ndjson"}, kind) {
		return fault("unsupported-media-type", "the Content-Type must be text/csv, application/json or application/x-ndjson")
	}
	export, sum, n, err := r.readExport()
	if err != nil {
		return err
	}
	give, err := r.takeMemory(ledgerMemory)
	if err != nil {
		return err
	}
	defer give()
	l, about, err := r.ledger("revenue compared with " + sum)
	if err != nil {
		return err
	}
	c := revenue.Reconcile(l, export)
	fields := immutable.Fields{
		"log": r.log.Name(), "exportSha256": sum, "exportBytes": n, "size": about.Size, "root": about.Root,
		"matched": c.Matched, "differ": c.Differ, "notInLog": c.NotInLog, "notInExport": c.NotExport,
	}
	if err := r.tenant.Record(r.Context(), r.principal, tenant.RevenueCompare, fields); err != nil {
		return err
	}
	return r.json(http.StatusOK, struct {
		Agrees bool   `json:"agrees"`
		Export string `json:"exportSha256"`
		*revenue.Reconciliation
		ledgerAbout
	}{c.Agrees(), sum, c, about})
}

// readExport reads the body and gives its memory back.
func (r *request) readExport() (x *revenue.Export, digest string, n int, err error) {
	data, release, err := r.readBody()
	if err != nil {
		return nil, "", 0, err
	}
	defer release()
	if x, err = revenue.Parse(data); err != nil {
		return nil, "", 0, fault("bad-export", err.Error())
	}
	sum := sha256.Sum256(data)
	return x, hex.EncodeToString(sum[:]), len(data), nil
}
