package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"sync"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

func readRoutes() []route {
	return []route{
		{Method: "GET", Pattern: logPath + "/entries", Permission: tenant.PermRead, Query: []string{"q", "level", "since", "until", "from", "limit", "cursor", "order", "verified"}, ID: "listEntries", Handle: listEntries},
		{Method: "GET", Pattern: logPath + "/entries/{index}", Permission: tenant.PermRead, ID: "getEntry", Handle: getEntry},
		{Method: "GET", Pattern: logPath + "/entries/{index}/block", Permission: tenant.PermRead, ID: "getBlock", Handle: getBlock},
	}
}

const (
	defaultPage = 100
	maxPage     = 10_000  // entries
	pageBytes   = 4 << 20 // a page ends after the entry that takes it over this
	smallPage   = 64 << 10
)

// listEntries answers with one page of the entries that are selected, and with what they are proven against.
func listEntries(r *request) error {
	q, limit, spelling, err := r.pageQuery()
	if err != nil {
		return err
	}
	action := "read"
	if q.Text != "" {
		action = "search"
	}
	end, err := r.beginRead(action, spelling)
	if err != nil {
		return err
	}
	p := page{r: r, q: q, limit: limit}
	err = p.collect()
	defer p.release()
	if err != nil {
		end(0, err)
		return err
	}
	if err := p.end(); err != nil {
		end(0, err)
		return err
	}
	err = r.send(http.StatusOK, "application/json", p.out)
	end(uint64(p.n), err)
	return err
}

// pageQuery reads the parameters of a page.
func (r *request) pageQuery() (q immutable.Query, limit int, spelling string, err error) {
	if q, spelling, err = r.filter(); err != nil {
		return q, 0, "", err
	}
	if q.From, err = r.number("from", 0, 0, math.MaxInt64); err != nil {
		return q, 0, "", err
	}
	n, err := r.number("limit", defaultPage, 1, maxPage)
	if err != nil {
		return q, 0, "", err
	}
	if q.Verified, err = r.flag("verified"); err != nil {
		return q, 0, "", err
	}
	switch order := r.param("order"); order {
	case "", "desc":
	case "asc":
		q.Reverse = true
	default:
		return q, 0, "", fault("bad-parameter", fmt.Sprintf("order: want desc (the newest first) or asc, not %q", order))
	}
	q.Cursor, q.Limit = r.param("cursor"), int(n)+1 // one more shows whether there is a next page
	return q, int(n), spelling, nil
}

// page is an answer that is being put together.
type page struct {
	r     *request
	q     immutable.Query
	limit int

	out       []byte
	n         int
	next      string // cursor of the next page, or ""
	explained immutable.Explain

	give func() // of the memory that a large page takes, or nil
}

// pages are buffers of small pages, for the next one.
var pages = sync.Pool{New: func() any { return new(make([]byte, 0, smallPage+immutable.MaxEntryBytes)) }}

// release lets go of the page's memory, once it was sent.
func (p *page) release() {
	if p.give != nil {
		p.give()
		return // it has outgrown its first buffer
	}
	pages.Put(&p.out)
}

func (p *page) collect() error {
	p.out = append((*pages.Get().(*[]byte))[:0], `{"entries":[`...)
	if q := &p.q; q.Text != "" || len(q.Levels) > 0 || !q.Since.IsZero() || !q.Until.IsZero() { // else it is a few groups
		done, err := p.r.placeToSearch()
		if err != nil {
			return err
		}
		defer done()
	}
	p.q.Explain = &p.explained
	var last immutable.Entry
	for e, err := range p.r.log.Search(p.r.Context(), p.q) {
		if err != nil {
			return err
		}
		if p.n == p.limit || len(p.out) > pageBytes {
			p.next, err = p.q.CursorAfter(last)
			return err
		}
		if p.n > 0 {
			p.out = append(p.out, ',')
		}
		if p.give == nil && len(p.out)+len(e.Line) > smallPage {
			if p.give, err = p.r.takeMemory(pageBytes); err != nil {
				return err
			}
		}
		p.out = appendEntry(p.out, &e)
		p.n++
		last = e
	}
	return nil
}

// end appends what the entries are proven against: the tree of this moment, which has all of them, and the newest checkpoint.
func (p *page) end() error {
	root, size := p.r.log.Root()
	note, err := p.r.log.Checkpoint()
	if err != nil {
		return err
	}
	text, err := json.Marshal(string(note))
	if err != nil {
		return fmt.Errorf("encode the checkpoint: %w", err)
	}
	p.out = append(p.out, `],"next":`...)
	if p.next == "" {
		p.out = append(p.out, "null"...)
	} else {
		p.out = append(append(append(p.out, '"'), p.next...), '"') // base64url
	}
	p.out = strconv.AppendUint(append(p.out, `,"retired":`...), p.explained.Retired, 10)
	p.out = strconv.AppendUint(append(p.out, `,"size":`...), size, 10)
	p.out = append(append(p.out, `,"root":"`...), root.Base64()...) // roots are in base64 everywhere, as in checkpoints
	p.out = append(append(append(p.out, `","checkpoint":`...), text...), "}\n"...)
	return nil
}

// index is the path's {index}.
func (r *request) index() (uint64, error) {
	index, err := strconv.ParseUint(r.PathValue("index"), 10, 63)
	if err != nil || strconv.FormatUint(index, 10) != r.PathValue("index") {
		return 0, fault("bad-parameter", "the index in the path must be a whole number from 0, spelled without leading zeros")
	}
	return index, nil
}

// one reads the entry that the path names, and records it. One of a level that the principal may not read is not there.
func (r *request) one(action string) (e immutable.Entry, end func(uint64, error), err error) {
	index, err := r.index()
	if err != nil {
		return e, nil, err
	}
	if end, err = r.beginRead(action, "index="+strconv.FormatUint(index, 10)); err != nil {
		return e, nil, err
	}
	e, err = r.log.Entry(r.Context(), index)
	if err == nil && !r.principal.SeesLevel(e.Level) {
		err = fault("not-found", nothingHere)
	}
	if err != nil {
		end(0, err)
		return e, nil, err
	}
	return e, end, nil
}

func getEntry(r *request) error {
	e, end, err := r.one("read")
	if err != nil {
		return err
	}
	err = r.send(http.StatusOK, "application/json", append(appendEntry(nil, &e), '\n'))
	end(1, err)
	return err
}

// getBlock answers with the entry's place in the chain.
func getBlock(r *request) error {
	e, end, err := r.one("read")
	if err != nil {
		return err
	}
	b, err := r.log.Block(r.Context(), e.Index)
	if err == nil {
		err = r.json(http.StatusOK, b)
	}
	end(1, err)
	return err
}

// cursorProblem is the problem with a cursor, or nil.
func cursorProblem(err error) *problem {
	if errors.Is(err, immutable.ErrCursor) {
		return fault("bad-parameter", "cursor: it is none, or of another query; begin again without it")
	}
	return nil
}
