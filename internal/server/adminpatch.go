package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"reflect"
	"strings"
)

// readPatch reads the body of a change of settings.
func (r *request) readPatch() ([]byte, error) {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "application/merge-patch+json" && kind != "application/json" {
		return nil, fault("unsupported-media-type", "the Content-Type must be application/merge-patch+json")
	}
	return r.readSettings()
}

// patched applies a JSON merge patch (RFC 7396) to settings: members that are null become their defaults, members that are not
// there stay, and one that the settings do not have is refused. T is a struct of settings; now is not changed.
func patched[T any](now T, change []byte) (out T, err error) {
	before, err := json.Marshal(now)
	if err != nil {
		return out, fmt.Errorf("encode settings: %w", err)
	}
	after, err := mergePatch(before, change)
	if err == nil {
		err = exactNames(after, reflect.TypeFor[T]())
	}
	if err != nil {
		return out, fault("bad-json", err.Error())
	}
	d := json.NewDecoder(bytes.NewReader(after))
	d.DisallowUnknownFields()
	if err := d.Decode(&out); err != nil {
		return out, fault("bad-json", strings.TrimPrefix(err.Error(), "json: "))
	}
	return out, nil
}

// mergePatch applies a patch, which must be an object, to an object.
func mergePatch(target, patch []byte) ([]byte, error) {
	if err := uniqueNames(patch); err != nil {
		return nil, err
	}
	change, err := decodeAny(patch)
	if err != nil {
		return nil, err
	}
	if _, ok := change.(map[string]any); !ok {
		return nil, errors.New("a change of settings is an object with the members that change")
	}
	value, err := decodeAny(target)
	if err != nil {
		return nil, err
	}
	return json.Marshal(merge(value, change))
}

// exactNames refuses members that t does not have under exactly this name: encoding/json takes "Title" for "title".
func exactNames(data []byte, t reflect.Type) error {
	v, err := decodeAny(data)
	if err != nil {
		return err
	}
	return namesOf(v, t, "")
}

func namesOf(v any, t reflect.Type, path string) error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch v := v.(type) {
	case map[string]any:
		if t.Kind() == reflect.Map {
			return nil // its names are data
		}
		fields := map[string]reflect.Type{}
		if t.Kind() == reflect.Struct {
			for _, f := range reflect.VisibleFields(t) {
				if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && f.IsExported() {
					fields[name] = f.Type
				}
			}
		}
		for name, value := range v {
			if fields[name] == nil {
				return fmt.Errorf("unknown member %q", path+name)
			}
			if err := namesOf(value, fields[name], path+name+"."); err != nil {
				return err
			}
		}
	case []any:
		for i, value := range v {
			if t.Kind() != reflect.Slice {
				return nil // decoding says what is wrong
			}
			if err := namesOf(value, t.Elem(), fmt.Sprintf("%s%d.", path, i)); err != nil {
				return err
			}
		}
	}
	return nil
}

func decodeAny(data []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	return v, d.Decode(&v)
}

// merge is MergePatch of RFC 7396, section 2.
func merge(target, change any) any {
	members, ok := change.(map[string]any)
	if !ok {
		return change
	}
	out, ok := target.(map[string]any)
	if !ok {
		out = map[string]any{}
	}
	for name, value := range members {
		if value == nil {
			delete(out, name)
		} else {
			out[name] = merge(out[name], value)
		}
	}
	return out
}
