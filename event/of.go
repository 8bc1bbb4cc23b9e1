package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	"github.com/tree-of-life-system/immutable"
)

// Of reads the shape from an entry's metadata. What has no well-known name is in Extra, and so is a well-known name whose value
// has another form, such as an actor that is a string: the error then names the first of those, and the shape is good for the
// rest. Members of actor, target, source and request that are not well known are left out.
func Of(f immutable.Fields) (Shape, error) {
	s := Shape{Extra: maps.Clone(f)}
	var first error
	for _, w := range s.wellKnown() {
		v, found := f[w.name]
		if !found {
			continue
		}
		raw, err := json.Marshal(v)
		if err == nil {
			err = w.read(raw)
		}
		if err != nil {
			if first == nil {
				first = fmt.Errorf("metadata.%s: %w", w.name, err)
			}
			continue
		}
		delete(s.Extra, w.name)
	}
	return s, first
}

// Parse is Of for metadata as it stands in an entry's line. Numbers in Extra are json.Number.
func Parse(metadata []byte) (Shape, error) {
	if len(metadata) == 0 {
		return Shape{}, nil
	}
	d := json.NewDecoder(bytes.NewReader(metadata))
	d.UseNumber()
	var f immutable.Fields
	if err := d.Decode(&f); err != nil {
		return Shape{}, fmt.Errorf("metadata is no JSON object: %w", err)
	}
	return Of(f)
}

// wellKnown is a name of metadata, and what reads its value into the shape.
type wellKnown struct {
	name string
	read func(raw []byte) error
}

func (s *Shape) wellKnown() []wellKnown {
	return []wellKnown{
		{KeyKind, func(raw []byte) error { return readText(raw, &s.Kind) }},
		{KeyAction, func(raw []byte) error { return readText(raw, &s.Action) }},
		{KeyActor, func(raw []byte) error { return readObject(raw, &s.Actor) }},
		{KeyTarget, func(raw []byte) error { return readObject(raw, &s.Target) }},
		{KeyOutcome, func(raw []byte) error { return readText(raw, &s.Outcome) }},
		{KeyReason, func(raw []byte) error { return readText(raw, &s.Reason) }},
		{KeySource, func(raw []byte) error { return readObject(raw, &s.Source) }},
		{KeyRequest, func(raw []byte) error { return readObject(raw, &s.Request) }},
	}
}

func readText[T ~string](raw []byte, to *T) error {
	if raw[0] != '"' {
		return errors.New("want a string")
	}
	return json.Unmarshal(raw, to)
}

// readObject leaves to as it is on an error.
func readObject[T any](raw []byte, to **T) error {
	if raw[0] != '{' {
		return errors.New("want an object")
	}
	v := new(T)
	if err := json.Unmarshal(raw, v); err != nil {
		if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return fmt.Errorf("%s: want %s, not %s", e.Field, e.Type, e.Value)
		}
		return err
	}
	*to = v
	return nil
}
