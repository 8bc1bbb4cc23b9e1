package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// request is one request on its way through the server. tenant and log are those of the path, where it has them; principal
// may have them. On public routes principal is nil.
type request struct {
	*http.Request
	s *Server
	w reply

	route     *route
	principal *tenant.Principal
	tenant    *tenant.Tenant
	log       *tenant.Log
	values    url.Values
}

// reply is the answer, and what was begun of it.
type reply struct {
	http.ResponseWriter
	status int // 0: nothing was sent yet
}

func (w *reply) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *reply) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (w *reply) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (r *request) pattern() string {
	if r.route == nil {
		return ""
	}
	return r.route.Pattern
}

// control sets deadlines of the connection, and flushes.
func (r *request) control() *http.ResponseController { return http.NewResponseController(&r.w) }

// limits are the server's.
func (r *request) limits() *Limits { return &r.s.o.Limits }

// beginRead records in the tenant's system log that the principal reads, before the first byte leaves. end says how much it
// was, and must be called. On a route that everybody may read nobody is recorded.
func (r *request) beginRead(action, filter string) (end func(entries uint64, err error), err error) {
	if r.principal == nil {
		return func(uint64, error) {}, nil
	}
	return r.tenant.BeginRead(r.Context(), r.principal, tenant.Read{Log: r.log.Name(), Action: action, Filter: filter, Page: r.pageText()})
}

// pageText is which part of what is selected the request is for.
func (r *request) pageText() string {
	var parts []string
	for _, name := range []string{"from", "to", "limit", "order", "cursor"} {
		if v := r.param(name); v != "" {
			parts = append(parts, name+"="+v)
		}
	}
	return strings.Join(parts, " ")
}

// json answers with a value.
func (r *request) json(status int, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	return r.send(status, "application/json", append(data, '\n'))
}

// send answers with a whole body. That the client may be gone is its own business.
func (r *request) send(status int, kind string, body []byte) error {
	h := r.w.Header()
	h.Set("Content-Type", kind)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	r.extendWrite()
	r.w.WriteHeader(status)
	_, _ = r.w.Write(body)
	return nil
}

// extendWrite gives the client Limits.Patience to take the next bytes. A server that has no deadlines is not an error.
func (r *request) extendWrite() {
	_ = r.control().SetWriteDeadline(time.Now().Add(r.limits().Patience))
}

// decode reads a small JSON object of settings: strictly, one value, no unknown members, none twice.
func (r *request) decode(v any) error {
	if err := r.wants("application/json"); err != nil {
		return err
	}
	data, err := r.readSettings()
	if err != nil {
		return err
	}
	err = uniqueNames(data)
	if err == nil {
		err = exactNames(data, reflect.TypeOf(v))
	}
	if err != nil {
		return fault("bad-json", err.Error())
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fault("bad-json", strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

// readSettings reads the body of a change of settings.
func (r *request) readSettings() ([]byte, error) {
	const maxSettings = 1 << 20
	if r.Header.Get("Content-Encoding") != "" {
		return nil, fault("unsupported-encoding", "this address takes a body as it is, without Content-Encoding")
	}
	body := &patientBody{r: r, patient: r.limits().Patience, until: time.Now().Add(r.limits().BodyTime)}
	data, err := io.ReadAll(io.LimitReader(body, maxSettings+1))
	if err != nil {
		return nil, bodyError(err)
	}
	if len(data) > maxSettings {
		return nil, fault("too-large", fmt.Sprintf("the body has more than %d bytes", maxSettings))
	}
	return data, r.stillValid()
}

// stillValid says whether the principal would be let in now. Behind a body, which its sender may draw out, it is asked again: a
// token that is revoked meanwhile does nothing more.
func (r *request) stillValid() error {
	if r.principal == nil {
		return nil // nobody was let in
	}
	return r.s.o.Installation.StillValid(r.principal)
}

// uniqueNames checks that data is one JSON value in which no object has a name twice: encoding/json takes the last one, and
// whoever checked the body before us may take the first.
func uniqueNames(data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var open []map[string]bool // of objects nil is never used; of arrays nil
	name := false
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) && len(open) == 0 {
			return nil
		}
		if err != nil {
			return err
		}
		if text, ok := token.(string); ok && name {
			top, folded := open[len(open)-1], strings.ToLower(text) // encoding/json does not tell case apart
			if top[folded] {
				return fmt.Errorf("the member %q stands twice", text)
			}
			top[folded], name = true, false
			continue
		}
		switch token {
		case json.Delim('{'):
			open = append(open, map[string]bool{})
		case json.Delim('['):
			open = append(open, nil)
		case json.Delim('}'), json.Delim(']'):
			open = open[:len(open)-1]
		}
		if len(open) == 0 {
			if _, err := d.Token(); !errors.Is(err, io.EOF) {
				return errors.New("there are bytes after the JSON value")
			}
			return nil
		}
		name = open[len(open)-1] != nil
	}
}

// wants checks the body's media type.
func (r *request) wants(kind string) error {
	got, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || got != kind {
		return fault("unsupported-media-type", "the Content-Type must be "+kind)
	}
	return nil
}

// checkParameters refuses query parameters that the route does not take, or that stand twice: a filter with a slip in its name
// would select everything.
func (r *request) checkParameters() error {
	var err error
	if r.values, err = url.ParseQuery(r.URL.RawQuery); err != nil {
		return fault("bad-parameter", "the query string cannot be read: "+err.Error())
	}
	for name, values := range r.values {
		if !slices.Contains(r.route.Query, name) {
			if len(r.route.Query) == 0 {
				return fault("bad-parameter", fmt.Sprintf("no parameter %q: this address takes none", name))
			}
			return fault("bad-parameter", fmt.Sprintf("no parameter %q; there are: %s", name, strings.Join(r.route.Query, ", ")))
		}
		if len(values) > 1 {
			return fault("bad-parameter", fmt.Sprintf("the parameter %s stands twice", name))
		}
	}
	return nil
}

// param is a query parameter's value, or "".
func (r *request) param(name string) string { return r.values.Get(name) }

// number is a query parameter that is a whole number from least to most; otherwise is its value where it is not given.
func (r *request) number(name string, otherwise, least, most uint64) (uint64, error) {
	text, given := r.param(name), r.values.Has(name)
	if !given {
		return otherwise, nil
	}
	return wholeNumber(name, text, least, most)
}

// wholeNumber reads decimal digits without a sign, blanks or leading zeros: one spelling of each number.
func wholeNumber(name, text string, least, most uint64) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n < least || n > most || strconv.FormatUint(n, 10) != text {
		return 0, fault("bad-parameter", fmt.Sprintf("%s: want a whole number from %d to %d, not %q", name, least, most, text))
	}
	return n, nil
}

// flag is a query parameter that is true or false; false where it is not given.
func (r *request) flag(name string) (bool, error) {
	switch text := r.param(name); text {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	default:
		return false, fault("bad-parameter", fmt.Sprintf("%s: want true or false, not %q", name, text))
	}
}

// time is a query parameter in RFC 3339. Times before now are for q, since:-24h, where all pages of an answer mean the same now.
func (r *request) time(name string) (time.Time, error) {
	text := r.param(name)
	if text == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil || t.UTC().Year() < 0 || t.UTC().Year() > 9999 {
		return time.Time{}, fault("bad-parameter", fmt.Sprintf("%s: want a time such as 2026-01-31T12:00:00Z, not %q; for one before now write q=%s:-24h", name, text, name))
	}
	return t.UTC(), nil
}

// filterParameters are those that filter takes.
var filterParameters = []string{"q", "level", "since", "until"}

// filter is what the parameters q, level, since and until select, narrowed to the levels that the principal may read. With it
// comes its spelling for the record of reads.
func (r *request) filter() (q immutable.Query, spelling string, err error) {
	q.Text, q.Now = r.param("q"), r.s.o.Now()
	if r.values.Has("level") {
		for name := range strings.SplitSeq(r.param("level"), ",") {
			l, err := immutable.ParseLevel(name)
			if err != nil {
				return q, "", fault("bad-parameter", "level: "+err.Error())
			}
			q.Levels = append(q.Levels, l)
		}
	}
	if q.Since, err = r.time("since"); err != nil {
		return q, "", err
	}
	if q.Until, err = r.time("until"); err != nil {
		return q, "", err
	}
	var parts []string
	for _, name := range filterParameters {
		if v := r.param(name); v != "" {
			parts = append(parts, name+"="+v)
		}
	}
	return r.log.ReadQuery(r.principal, q), strings.Join(parts, " "), nil
}

// gone reports that the client does not wait for an answer any more.
func (r *request) gone() bool { return errors.Is(r.Context().Err(), context.Canceled) }
