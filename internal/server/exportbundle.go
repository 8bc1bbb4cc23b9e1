package server

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/tree-of-life-system/immutable"
)

// bundleMemory is what making a bundle may take: its entries, the document and the page around it.
const bundleMemory = 64 << 20

// evidenceBundle answers with an evidence bundle of the entries that are selected: a page that verifies itself in a browser, or
// with format=json the document in it.
func evidenceBundle(r *request) error {
	format := r.param("format")
	if format != "" && format != "html" && format != "json" {
		return fault("bad-parameter", fmt.Sprintf("format: want html or json, not %q", format))
	}
	q, spelling, err := r.filter()
	if err != nil {
		return err
	}
	o := immutable.BundleOptions{Query: q.Text, Levels: q.Levels, Since: q.Since, Until: q.Until, Program: "immutable serve"}
	if o.From, err = r.number("from", 0, 0, maxIndex); err != nil {
		return err
	}
	if o.To, err = r.number("to", 0, 1, maxIndex); err != nil {
		return err
	}
	if o.To > 0 && o.From >= o.To {
		return fault("bad-parameter", "from must be below to, which is the index after the last entry")
	}
	if _, err := immutable.ParseFilter(q.Text, q.Now); err != nil {
		return err
	}
	if len(r.log.VerifierKeys()) == 0 {
		return fault("conflict", "this log has no signatures, so there is nothing that a bundle could show")
	}
	give, err := r.takeMemory(bundleMemory)
	if err != nil {
		return err
	}
	defer give()
	end, err := r.beginRead("bundle", spelling)
	if err != nil {
		return err
	}
	document, err := r.log.Bundle(r.Context(), o)
	if err != nil {
		end(0, err)
		return bundleProblem(err)
	}
	rep, err := immutable.VerifyBundle(document, immutable.VerifyBundleOptions{})
	if err != nil {
		end(0, err)
		return err
	}
	kind, suffix, body := "application/json", ".json", document
	if format != "json" {
		kind, suffix, body = "text/html; charset=utf-8", ".html", immutable.BundlePage(document)
	}
	r.w.Header().Set("Content-Disposition", fmt.Sprintf(`attachment; filename="%s-%s-evidence%s"`, r.tenant.Name(), r.log.Name(), suffix))
	r.extendWrite()
	err = r.send(http.StatusOK, kind, body)
	end(uint64(rep.Entries), err)
	return err
}

// bundleProblem says what a client can do about a bundle that could not be made.
func bundleProblem(err error) error {
	if errors.Is(err, immutable.ErrTooLarge) {
		return fault("too-large", err.Error())
	}
	if errors.Is(err, immutable.ErrNotFound) {
		return fault("not-found", "no entry under the newest checkpoint is selected, and a bundle cannot show that there is none; an entry is under a checkpoint a second after it was appended")
	}
	return err
}
