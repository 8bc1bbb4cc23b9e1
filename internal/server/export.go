package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/export"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// exportRoutes are what takes entries out of a log, many at a time.
func exportRoutes() []route {
	return []route{
		{Method: "GET", Pattern: logPath + "/export", Permission: tenant.PermExport, Query: slices.Concat(filterParameters, []string{"format", "from", "limit", "verified"}), ID: "exportEntries", Handle: exportEntries},
		{Method: "GET", Pattern: logPath + "/bundle", Permission: tenant.PermExport, Query: slices.Concat(filterParameters, []string{"format", "from", "to"}), ID: "evidenceBundle", Handle: evidenceBundle},
	}
}

// Trailers of an export. A client that has not got them, or an export cut before them, has not got all.
const (
	entriesTrailer  = "Immutable-Entries"
	completeTrailer = "Immutable-Complete"
)

// exportFormat is one way to write entries.
type exportFormat struct {
	kind   string // media type
	suffix string
	head   string
	row    func(dst []byte, origin string, size uint64, e *immutable.Entry) ([]byte, error) // size is the newest checkpoint's
}

var exportFormats = map[string]exportFormat{
	"jsonl": {"application/x-ndjson", ".jsonl", "", func(dst []byte, _ string, _ uint64, e *immutable.Entry) ([]byte, error) {
		return append(append(dst, e.Line...), '\n'), nil
	}},
	"marked": {"application/x-ndjson", ".jsonl", "", formatted("json")},
	"ocsf":   {"application/x-ndjson", ".jsonl", "", formatted("ocsf")},
	"ecs":    {"application/x-ndjson", ".jsonl", "", formatted("ecs")},
	"csv": {"text/csv; charset=utf-8; header=present", ".csv", CSVColumns + "\r\n", func(dst []byte, _ string, _ uint64, e *immutable.Entry) ([]byte, error) {
		return AppendCSV(dst, e)
	}},
}

func formatted(format string) func(dst []byte, origin string, size uint64, e *immutable.Entry) ([]byte, error) {
	return func(dst []byte, origin string, size uint64, e *immutable.Entry) ([]byte, error) {
		return export.Append(dst, format, origin, size, e)
	}
}

// exportEntries sends the entries that are selected, the oldest first, as of the moment of the request, of any number. What goes
// wrong in the middle cuts the connection, and the trailers are missing: no export ends early in silence.
func exportEntries(r *request) error {
	name := r.param("format")
	if name == "" {
		name = "jsonl"
	}
	if name == "tiles" {
		return exportTiles(r)
	}
	format, ok := exportFormats[name]
	if !ok {
		return fault("bad-parameter", fmt.Sprintf("format: want jsonl, marked, ocsf, ecs, csv or tiles, not %q", name))
	}
	q, spelling, err := r.filter()
	if err != nil {
		return err
	}
	if q.From, err = r.number("from", 0, 0, maxIndex); err != nil {
		return err
	}
	limit, err := r.number("limit", 0, 0, 1<<31-1)
	if err != nil {
		return err
	}
	q.Limit = int(limit)
	if q.Verified, err = r.flag("verified"); err != nil {
		return err
	}
	if _, err := immutable.ParseFilter(q.Text, q.Now); err != nil {
		return err
	}
	root, size := r.log.Root()
	covered := export.CheckpointSize(r.log)
	h := r.w.Header()
	if oldest := r.oldest(); oldest > 0 { // nothing is left out unsaid
		h.Set("Immutable-Oldest", strconv.FormatUint(oldest, 10))
	}
	h.Set("Immutable-Size", strconv.FormatUint(size, 10))
	h.Set("Immutable-Root", root.Base64())
	return r.export(format.kind, format.suffix, name+" "+spelling, func(ctx context.Context, x *exporter) error {
		x.put([]byte(format.head))
		for e, err := range r.log.Entries(ctx, q) {
			if err != nil {
				return err
			}
			if e.Index >= size {
				return nil // came after the headers
			}
			if x.piece, err = format.row(x.piece, r.log.Origin(), covered, &e); err != nil {
				return err
			}
			x.entries++
			if err := x.flushAt(maxPiece); err != nil {
				return err
			}
		}
		return nil
	})
}

// export answers with what write makes, when the read is on record. The tenant has a quarter of the places for exports.
func (r *request) export(kind, suffix, filter string, write func(context.Context, *exporter) error) error {
	h := r.w.Header()
	h.Set("Content-Type", kind)
	h.Set("Content-Disposition", fmt.Sprintf(`attachment; filename="%s-%s%s"`, r.tenant.Name(), r.log.Name(), suffix))
	if r.Method == http.MethodHead {
		r.w.WriteHeader(http.StatusOK)
		return nil
	}
	if !r.s.exports.try(r.tenant.Name(), 1) {
		return fault("busy", "too many exports are under way, of this tenant or of all").after(retryStreams)
	}
	defer r.s.exports.give(r.tenant.Name(), 1)
	end, err := r.beginRead("export", filter)
	if err != nil {
		return err
	}
	h.Set("Trailer", entriesTrailer+", "+completeTrailer)
	x := &exporter{r: r, piece: pieces.get(), checked: time.Now()}
	err = x.run(write)
	pieces.put(x.piece)
	end(x.entries, err)
	if err != nil {
		return err // a problem, or where something was sent the end of the connection
	}
	h.Set(entriesTrailer, strconv.FormatUint(x.entries, 10))
	h.Set(completeTrailer, "true")
	if r.w.status == 0 {
		r.w.WriteHeader(http.StatusOK)
	}
	return nil
}

// run writes, in the turns of its tenant.
func (x *exporter) run(write func(context.Context, *exporter) error) error {
	ctx, name := x.r.Context(), x.r.tenant.Name()
	if err := x.r.s.turns.take(ctx, name); err != nil {
		return err
	}
	defer func() {
		if !x.waits {
			x.r.s.turns.give(name)
		}
	}()
	if err := write(ctx, x); err != nil {
		return err
	}
	return x.flushAt(1)
}

// exporter sends in pieces, to a client that has Limits.Patience for each.
type exporter struct {
	r       *request
	piece   []byte
	entries uint64
	checked time.Time // when it was last asked whether the principal may still read
	waits   bool      // it has no turn, and gets none any more
}

func (x *exporter) put(p []byte) { x.piece = append(x.piece, p...) }

// Write sends in pieces.
func (x *exporter) Write(p []byte) (int, error) {
	x.put(p)
	return len(p), x.flushAt(maxPiece)
}

// flushAt sends when there are so many bytes.
func (x *exporter) flushAt(n int) error {
	if len(x.piece) < n {
		return nil
	}
	if time.Since(x.checked) > recheck {
		x.checked = time.Now()
		if err := x.r.s.o.Installation.StillValid(x.r.principal); err != nil {
			return err
		}
	}
	// While a slow client takes this, others read.
	turns, name := x.r.s.turns, x.r.tenant.Name()
	turns.give(name)
	x.waits = true
	x.r.extendWrite()
	_, err := x.r.w.Write(x.piece)
	x.piece = x.piece[:0]
	if err == nil {
		err = turns.take(x.r.Context(), name)
		x.waits = err != nil
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%w: the client did not take them in time", errSlow)
	case err != nil:
		return fmt.Errorf("the client went away: %w", errors.Join(context.Canceled, err))
	}
	return nil
}
