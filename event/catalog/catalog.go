// Package catalog holds events to what a log has agreed on: which types of event there are, and a JSON Schema for the metadata of
// each. A catalogue is one JSON document:
//
//	{
//	  "mode": "strict",
//	  "unknown": "accept",
//	  "shape": true,
//	  "types": {
//	    "payment.charge": {"required": ["amount", "currency"], "properties": {"amount": {"type": "integer"}}},
//	    "kind:authentication": {"$ref": "immutable:authentication"}
//	  }
//	}
//
// An event's types are its action and, with "kind:" before it, its kind (package event). It must be valid under the schema of each
// that is in the catalogue. Schemas are of draft 2020-12; "$ref" leads to the schemas that this package has, Names, and nowhere else.
package catalog

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/text/language"
	"golang.org/x/text/message"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/event"
	"github.com/tree-of-life-system/immutable/internal/entry"
)

// Modes say what becomes of an event that is not valid.
const (
	Strict = "strict" // it is refused, with the pointer to what is wrong
	Warn   = "warn"   // it is taken, and marked: see KeyFault
	Off    = "off"    // nothing is checked
)

// What becomes of events of which the catalogue has no type.
const (
	Accept = "accept"
	Refuse = "refuse" // as if it were not valid
)

// KeyFault is the member of metadata that marks an event that was taken although it is not valid: an object with pointer and error.
const KeyFault = "catalogueFault"

// Limits of a catalogue.
const (
	MaxBytes = 64 << 10
	MaxTypes = 256
	maxDepth = 32 // of a schema's nesting
	maxText  = 300
)

// Document is a catalogue as JSON.
type Document struct {
	Mode    string                     `json:"mode"`              // Strict, Warn or Off
	Unknown string                     `json:"unknown,omitempty"` // Accept (also "") or Refuse
	Shape   bool                       `json:"shape,omitempty"`   // every event's well-known members have the form of package event
	Types   map[string]json.RawMessage `json:"types,omitempty"`   // by action, or "kind:" and a kind: a JSON Schema of metadata
}

// Catalogue is a document that is ready for use, by any number of goroutines.
type Catalogue struct {
	Document
	shape *jsonschema.Schema // nil without Shape
	types map[string]*jsonschema.Schema
}

//go:embed schemas.json
var schemas []byte

const scheme = "immutable:"

// Names are the schemas that "$ref" can lead to: "immutable:shape", and one for each kind of event.
func Names() []string {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(schemas, &all); err != nil {
		panic("catalog: schemas.json: " + err.Error())
	}
	names := make([]string, 0, len(all))
	for name := range maps.Keys(all) {
		names = append(names, scheme+name)
	}
	slices.Sort(names)
	return names
}

// own loads the schemas of this package, and no others: a schema makes nobody read a file or ask a server.
type own struct{}

func (own) Load(url string) (any, error) {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(schemas, &all); err != nil {
		return nil, err
	}
	name, ok := strings.CutPrefix(url, scheme)
	if raw, found := all[name]; ok && found {
		return jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	}
	return nil, fmt.Errorf("there is no schema %q; there are %s", shorten(url), strings.Join(Names(), ", "))
}

// Parse reads a catalogue.
func Parse(data []byte) (*Catalogue, error) {
	if len(data) > MaxBytes {
		return nil, fmt.Errorf("a catalogue of %d bytes; at most %d", len(data), MaxBytes)
	}
	c := &Catalogue{types: map[string]*jsonschema.Schema{}}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&c.Document); err != nil {
		return nil, fmt.Errorf("catalogue: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("catalogue: there is something after the JSON object")
	}
	if c.Mode != Strict && c.Mode != Warn && c.Mode != Off {
		return nil, fmt.Errorf("catalogue: mode is %q; want strict, warn or off", shorten(c.Mode))
	}
	if c.Unknown != "" && c.Unknown != Accept && c.Unknown != Refuse {
		return nil, fmt.Errorf("catalogue: unknown is %q; want accept or refuse", shorten(c.Unknown))
	}
	if len(c.Types) > MaxTypes {
		return nil, fmt.Errorf("catalogue: %d types; at most %d", len(c.Types), MaxTypes)
	}
	return c, c.compile()
}

func (c *Catalogue) compile() error {
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	compiler.AssertFormat()
	compiler.UseLoader(own{})
	if c.Shape {
		s, err := compiler.Compile(scheme + "shape")
		if err != nil {
			return fmt.Errorf("compile the schema of the shape: %w", err)
		}
		c.shape = s
	}
	for i, name := range slices.Sorted(maps.Keys(c.Types)) {
		if err := checkType(name); err != nil {
			return err
		}
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader(c.Types[name]))
		if err == nil {
			err = bounded(v, 0)
		}
		url := fmt.Sprintf("catalogue:%d", i)
		if err == nil {
			err = compiler.AddResource(url, v)
		}
		if err == nil {
			c.types[name], err = compiler.Compile(url)
		}
		if err != nil {
			return fmt.Errorf("catalogue: types[%q]: %s", name, shorten(strings.ReplaceAll(err.Error(), url, "schema")))
		}
	}
	return nil
}

func checkType(name string) error {
	if kind, ok := strings.CutPrefix(name, "kind:"); ok {
		if !slices.Contains(event.Kinds(), event.Kind(kind)) {
			return fmt.Errorf("catalogue: types[%q]: there is no kind %q", shorten(name), shorten(kind))
		}
		return nil
	}
	if name == "" || len(name) > 100 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != "" {
		return fmt.Errorf("catalogue: types[%q]: want an action of 1 to 100 letters, digits and . _ -, or kind: and a kind", shorten(name))
	}
	return nil
}

// bounded keeps validation within the size of the schema times that of the event: references within a schema could make it grow
// without end, so they lead to the schemas of this package only.
func bounded(v any, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("nested deeper than %d", maxDepth)
	}
	switch v := v.(type) {
	case map[string]any:
		for name, x := range v {
			if ref, ok := x.(string); name == "$dynamicRef" || name == "$recursiveRef" || name == "$ref" && (!ok || !slices.Contains(Names(), ref)) {
				return fmt.Errorf("%s may be one of %s", name, strings.Join(Names(), ", "))
			}
			if name == "$id" || name == "$schema" || name == "$vocabulary" {
				return fmt.Errorf("%s has no place here: schemas are of draft 2020-12 and have no addresses", name)
			}
			if err := bounded(x, depth+1); err != nil {
				return err
			}
		}
	case []any:
		for _, x := range v {
			if err := bounded(x, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// Fault says what of an event is not as the catalogue wants it. It wraps an *immutable.FieldError.
type Fault struct {
	Event   int    // its number among those that were checked
	Pointer string // JSON pointer into the metadata; "" is the whole
	Msg     string
}

func (f *Fault) Error() string {
	return fmt.Sprintf("event %d: metadata%s: %s", f.Event, f.Pointer, f.Msg)
}

// Unwrap makes it the error of an event that the log refuses.
func (f *Fault) Unwrap() error {
	return &immutable.FieldError{Field: "metadata" + f.Pointer, Offset: -1, Msg: f.Msg}
}

// Check holds events to the catalogue. In strict mode the error is the *Fault of the first that is not valid. In the mode warn it
// returns the events with those that are not valid marked, copied where needed, and how many they are; one that cannot be marked,
// since its source signed it or it is full, is counted all the same.
func (c *Catalogue) Check(events ...immutable.Event) (out []immutable.Event, faults int, err error) {
	out = events
	if c.Mode == Off {
		return out, 0, nil
	}
	for i := range events {
		f := c.fault(&events[i])
		if f == nil {
			continue
		}
		f.Event = i
		if c.Mode == Strict {
			return nil, faults + 1, f
		}
		if faults++; faults == 1 {
			out = slices.Clone(events)
		}
		mark(&out[i], f)
	}
	return out, faults, nil
}

// fault is what is wrong with one event, or nil. Metadata that the log's format refuses is the log's to refuse.
func (c *Catalogue) fault(e *immutable.Event) *Fault {
	v, ok := stored(e)
	if !ok {
		return nil
	}
	if f := validate(c.shape, v); f != nil {
		return f
	}
	m, _ := v.(map[string]any)
	action, _ := m[event.KeyAction].(string)
	kind, _ := m[event.KeyKind].(string)
	known := false
	for _, name := range [...]string{action, "kind:" + kind} {
		s, found := c.types[name]
		if !found {
			continue
		}
		known = true
		if f := validate(s, v); f != nil {
			return f
		}
	}
	if !known && c.Unknown == Refuse {
		return &Fault{Pointer: "/" + event.KeyAction, Msg: fmt.Sprintf("the catalogue has no type for the action %q or the kind %q", shorten(action), shorten(kind))}
	}
	return nil
}

// stored is the metadata as the log would have it, unless its format refuses it.
func stored(e *immutable.Event) (v any, ok bool) {
	line, err := entry.Append(nil, &immutable.Event{Metadata: e.Metadata, RawMetadata: e.RawMetadata})
	if err == nil {
		var kept immutable.Entry
		if kept, err = immutable.ParseEntry(0, line); err == nil {
			v, err = jsonschema.UnmarshalJSON(bytes.NewReader(kept.Metadata))
		}
	}
	return v, err == nil
}

var english = message.NewPrinter(language.English)

// validate returns the first, deepest fault.
func validate(s *jsonschema.Schema, v any) *Fault {
	if s == nil {
		return nil
	}
	err := s.Validate(v)
	if err == nil {
		return nil
	}
	e, ok := errors.AsType[*jsonschema.ValidationError](err)
	if !ok {
		return &Fault{Msg: shorten(err.Error())}
	}
	for len(e.Causes) > 0 {
		e = e.Causes[0]
	}
	var pointer strings.Builder
	for _, part := range e.InstanceLocation {
		pointer.WriteString("/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(part))
	}
	return &Fault{Pointer: shorten(pointer.String()), Msg: shorten(e.ErrorKind.LocalizedString(english))}
}

// mark adds the fault to an event's metadata, where it has a place.
func mark(e *immutable.Event, f *Fault) {
	if e.Producer != nil {
		return
	}
	marked := *e
	value := map[string]any{"pointer": f.Pointer, "error": f.Msg}
	if len(e.RawMetadata) > 0 {
		text, err := json.Marshal(value)
		raw := bytes.TrimRight(e.RawMetadata, " \t\r\n")
		if err != nil || len(raw) < 2 {
			return
		}
		comma := ","
		if len(bytes.TrimSpace(raw[1:len(raw)-1])) == 0 {
			comma = ""
		}
		marked.RawMetadata = fmt.Appendf(nil, "%s%s%q:%s}", raw[:len(raw)-1], comma, KeyFault, text)
	} else {
		marked.Metadata = maps.Clone(e.Metadata)
		if marked.Metadata == nil {
			marked.Metadata = immutable.Fields{}
		}
		marked.Metadata[KeyFault] = value
	}
	if _, err := entry.Append(nil, &marked); err == nil {
		*e = marked
	}
}

// shorten bounds what an error quotes.
func shorten(s string) string {
	if len(s) <= maxText {
		return strings.ToValidUTF8(s, "\uFFFD")
	}
	return strings.ToValidUTF8(s[:maxText], "") + "…"
}
