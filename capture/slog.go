package capture

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/capture/internal/meta"
)

// Levels of slog for the log's own ones: logger.Log(ctx, capture.LevelAudit, "…").
const (
	LevelCritical = slog.LevelError + 4*(iota+1)
	LevelAudit
	LevelSecurity
	LevelRevenue
	LevelSystem
)

// HandlerOptions say how a Handler works. The zero value, and nil, are the defaults.
type HandlerOptions struct {
	// Level is the least level that is recorded: nil is slog.LevelInfo.
	Level slog.Leveler

	// Levels says which level of the log stands for one of slog's. Others become the level below them of this table: INFO,
	// WARN from slog.LevelWarn on, ERROR from slog.LevelError, CRITICAL, AUDIT, SECURITY, REVENUE and SYSTEM from the constants of
	// this package on.
	Levels map[slog.Level]immutable.Level

	// AddSource records function, file and line under "code".
	AddSource bool

	// Next gets every record too: a text handler to standard error, say. What the log and its client themselves log goes there
	// only. May be nil.
	Next slog.Handler
}

// Handler is a slog.Handler that records to a Recorder. Attributes become metadata, groups nested objects; the record's time is the
// event's. Values under secrets' names are left out. Whatever a value is, the record is not lost: what is no JSON is written as text.
type Handler struct {
	rec  *Recorder
	opts HandlerOptions
	next slog.Handler
	with []scope // what WithAttrs and WithGroup gave, outermost first; the first is the top
}

// scope is a group and the attributes in it.
type scope struct {
	name  string
	attrs []slog.Attr
}

// Limits of one record.
const (
	maxMessage = 16 << 10 // bytes of a message
	maxValue   = 16 << 10 // bytes of a value as text
	maxForeign = 1 << 20  // bytes of a value's JSON that is looked at
	maxAttrs   = 1000     // attributes, those in groups too
	maxNesting = 32       // groups in groups
)

// NewHandler returns a Handler. opts may be nil.
func NewHandler(rec *Recorder, opts *HandlerOptions) *Handler {
	h := &Handler{rec: rec, with: make([]scope, 1)}
	if opts != nil {
		h.opts = *opts
	}
	h.next = h.opts.Next
	return h
}

// Enabled implements slog.Handler.
func (h *Handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.records(level) || h.next != nil && h.next.Enabled(ctx, level)
}

func (h *Handler) records(level slog.Level) bool {
	least := slog.LevelInfo
	if h.opts.Level != nil {
		least = h.opts.Level.Level()
	}
	return level >= least
}

// WithAttrs implements slog.Handler.
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	if len(attrs) == 0 {
		return h
	}
	own := *h
	own.with = slices.Clone(h.with)
	last := &own.with[len(own.with)-1]
	last.attrs = slices.Concat(last.attrs, attrs)
	if h.next != nil {
		own.next = h.next.WithAttrs(attrs)
	}
	return &own
}

// WithGroup implements slog.Handler.
func (h *Handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	own := *h
	own.with = append(slices.Clone(h.with), scope{name: name})
	if h.next != nil {
		own.next = h.next.WithGroup(name)
	}
	return &own
}

// Handle implements slog.Handler. It returns the Recorder's error, or the next handler's.
func (h *Handler) Handle(ctx context.Context, record slog.Record) error {
	var err error
	if h.records(record.Level) && !fromLog(record.PC) {
		err = h.append(ctx, &record)
	}
	if h.next != nil && h.next.Enabled(ctx, record.Level) {
		if nerr := h.next.Handle(ctx, record); err == nil {
			err = nerr
		}
	}
	return err
}

// append records a record: written at once where that can be, else by maps of its attributes.
func (h *Handler) append(ctx context.Context, record *slog.Record) error {
	e := immutable.Event{Level: h.level(record.Level), Message: Text(record.Message, maxMessage), EventTime: eventTime(record.Time)}
	w := writer{redact: h.rec.redact, o: meta.New()}
	defer w.o.Free()
	if !h.opts.AddSource && w.scopes(h.with, record) {
		e.RawMetadata = w.o.Bytes()
	} else {
		e.Metadata = h.fields(record)
	}
	return h.rec.Append(ctx, e)
}

// fields are the metadata of a record.
func (h *Handler) fields(record *slog.Record) immutable.Fields {
	b := builder{redact: h.rec.redact, left: maxAttrs}
	top := make(map[string]any, record.NumAttrs()+4)
	b.scopes(top, h.with, record)
	if h.opts.AddSource && record.PC != 0 {
		f, _ := runtime.CallersFrames([]uintptr{record.PC}).Next()
		top["code"] = map[string]any{"function": Text(f.Function, maxValue), "file": Text(f.File, maxValue), "line": f.Line}
	}
	if b.left < 0 {
		top["captureOmittedAttrs"] = -b.left
	}
	return top
}

// eventTime is a time that an entry can hold, else none.
func eventTime(t time.Time) time.Time {
	if t.IsZero() || t.Year() < 0 || t.Year() > 9999 {
		return time.Time{}
	}
	return t
}

func (h *Handler) level(l slog.Level) immutable.Level {
	if own, ok := h.opts.Levels[l]; ok {
		return own
	}
	switch {
	case l >= LevelSystem:
		return immutable.System
	case l >= LevelRevenue:
		return immutable.Revenue
	case l >= LevelSecurity:
		return immutable.Security
	case l >= LevelAudit:
		return immutable.Audit
	case l >= LevelCritical:
		return immutable.Critical
	case l >= slog.LevelError:
		return immutable.Error
	case l >= slog.LevelWarn:
		return immutable.Warn
	}
	return immutable.Info
}

// builder makes metadata of attributes.
type builder struct {
	redact *Redaction
	left   int // attributes that are still taken; negative counts those that were not
}

// scopes puts what With… gave, and the record's own attributes in the innermost group, into top. Groups without attributes are
// left out.
func (b *builder) scopes(top map[string]any, with []scope, record *slog.Record) {
	into := top
	for i, s := range with {
		empty := record.NumAttrs() == 0
		for _, inner := range with[i:] {
			empty = empty && len(inner.attrs) == 0
		}
		if empty {
			return
		}
		if s.name != "" && i <= maxNesting {
			into = child(into, s.name)
		}
		for _, a := range s.attrs {
			b.attr(into, a, i)
		}
	}
	record.Attrs(func(a slog.Attr) bool {
		b.attr(into, a, len(with))
		return true
	})
}

// child is the object of that name in into: the one that is there, if there is one.
func child(into map[string]any, name string) map[string]any {
	name = Text(name, maxName)
	if m, ok := into[name].(map[string]any); ok {
		return m
	}
	m := map[string]any{}
	into[name] = m
	return m
}

func (b *builder) attr(into map[string]any, a slog.Attr, depth int) {
	v, err := resolve(a.Value)
	if err != nil {
		v = slog.StringValue(err.Error())
	}
	if a.Key == "" && v.Kind() == slog.KindAny && v.Any() == nil { // an empty Attr
		return
	}
	if b.left--; b.left < 0 {
		return
	}
	secret := a.Key != "" && b.redact.Secret(a.Key)
	if v.Kind() == slog.KindGroup && !secret {
		b.group(into, a.Key, v.Group(), depth)
		return
	}
	if secret {
		into[Text(a.Key, maxName)] = Redacted
		return
	}
	into[Text(a.Key, maxName)] = b.value(v)
}

func (b *builder) group(into map[string]any, name string, attrs []slog.Attr, depth int) {
	if len(attrs) == 0 {
		return
	}
	if depth > maxNesting {
		b.left = min(b.left, 0) - len(attrs)
		return
	}
	if name != "" {
		into = child(into, name)
	}
	for _, a := range attrs {
		b.attr(into, a, depth+1)
	}
}

// resolve calls LogValue methods, which may panic.
func resolve(v slog.Value) (out slog.Value, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("LogValue panics: %v", p)
		}
	}()
	return v.Resolve(), nil
}

// value is v as metadata holds it.
func (b *builder) value(v slog.Value) any {
	switch v.Kind() {
	case slog.KindString:
		return Text(v.String(), maxValue)
	case slog.KindBool:
		return v.Bool()
	case slog.KindInt64:
		return v.Int64()
	case slog.KindUint64:
		return v.Uint64()
	case slog.KindFloat64:
		return number(v.Float64())
	case slog.KindDuration:
		return v.Duration().String()
	case slog.KindTime:
		if t := eventTime(v.Time()); !t.IsZero() {
			return t
		}
		return Text(v.Time().String(), maxValue)
	}
	return b.foreign(v.Any())
}

// number is f, or its text where JSON has no number for it.
func number(f float64) any {
	if f-f != 0 { // infinite, or none
		return fmt.Sprint(f)
	}
	return f
}

// foreign is a value of any type: an error's text, else what encoding/json makes of it, without what stands under secrets' names.
func (b *builder) foreign(v any) (out any) {
	defer func() {
		if p := recover(); p != nil {
			out = Text(fmt.Sprintf("its method panics: %v", p), maxValue)
		}
	}()
	if err, ok := v.(error); ok {
		if _, own := v.(json.Marshaler); !own {
			return Text(err.Error(), maxValue)
		}
	}
	data, err := json.Marshal(v)
	if err != nil { // its text might hold what its JSON would be relieved of
		return Text(fmt.Sprintf("%T: %v", v, err), maxValue)
	}
	if len(data) > maxForeign {
		return fmt.Sprintf("%T: %d bytes as JSON", v, len(data))
	}
	if data[0] == '{' || data[0] == '[' {
		if data, err = b.redact.JSON(data); err != nil {
			return Text(fmt.Sprintf("%T: %v", v, err), maxValue)
		}
	}
	if len(data) > maxValue {
		return Text(string(data), maxValue)
	}
	return json.RawMessage(data)
}

// The log and its client, whose own words are not recorded: each could cause the next.
const (
	logPackage    = "github.com/tree-of-life-system/immutable."
	clientPackage = "github.com/tree-of-life-system/immutable/client."
	innerPackages = "github.com/tree-of-life-system/immutable/internal/"
)

// origins remembers whether a place in the program is in the log: there are only so many.
var origins sync.Map // of uintptr to bool

// fromLog says whether a record was made by the log or its client.
func fromLog(pc uintptr) bool {
	if pc == 0 {
		return false
	}
	if known, ok := origins.Load(pc); ok {
		return known.(bool)
	}
	f, _ := runtime.CallersFrames([]uintptr{pc}).Next()
	is := strings.HasPrefix(f.Function, logPackage) || strings.HasPrefix(f.Function, clientPackage) || strings.HasPrefix(f.Function, innerPackages)
	origins.Store(pc, is)
	return is
}
