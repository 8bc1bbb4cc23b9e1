package entry

import (
	"bytes"
	"encoding"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// appendMap writes the members in byte order of their keys. depth is the map's own, limit the length dst may reach.
func appendMap(dst []byte, limit int, m map[string]any, depth int) ([]byte, *FieldError) {
	if m == nil {
		return append(dst, "null"...), nil
	}
	// A member takes at least five bytes, so a map that cannot fit is refused before it is sorted.
	if len(m) > (limit-len(dst))/5+1 {
		return dst, tooLarge()
	}
	if depth > MaxDepth {
		return dst, fault("", -1, deepMsg)
	}
	var few [8]member
	members := few[:0]
	for k, v := range m {
		members = append(members, member{k, v})
	}
	sortMembers(members)
	dst = append(dst, '{')
	for i := range members {
		if i > 0 {
			dst = append(dst, ',')
		}
		key := members[i].key
		var err *FieldError
		if dst, err = appendName(dst, limit, key); err != nil {
			return dst, err
		}
		if dst, err = appendValue(dst, limit, members[i].value, depth+1); err != nil {
			return dst, err.under(pathKey(key))
		}
		if len(dst) > limit {
			return dst, tooLarge()
		}
	}
	return append(dst, '}'), nil
}

type member struct {
	key   string
	value any
}

func sortMembers(m []member) {
	if len(m) > 16 {
		slices.SortFunc(m, func(a, b member) int { return strings.Compare(a.key, b.key) })
		return
	}
	for i := 1; i < len(m); i++ {
		for j := i; j > 0 && m[j].key < m[j-1].key; j-- {
			m[j], m[j-1] = m[j-1], m[j]
		}
	}
}

func appendName(dst []byte, limit int, key string) ([]byte, *FieldError) {
	if len(key) > limit-len(dst) {
		return dst, tooLarge()
	}
	dst, bad := appendQuoted(dst, key)
	if bad >= 0 {
		return dst, fault(pathKey(key), bad, "in the member name: "+invalidUTF8)
	}
	return append(dst, ':'), nil
}

func appendLimited(dst []byte, limit int, s string) ([]byte, *FieldError) {
	if len(s) > limit-len(dst) {
		return dst, tooLarge()
	}
	dst, bad := appendQuoted(dst, s)
	if bad >= 0 {
		return dst, fault("", bad, invalidUTF8)
	}
	return dst, nil
}

// appendValue writes a Go value. depth is that of v if it is a container.
func appendValue(dst []byte, limit int, v any, depth int) ([]byte, *FieldError) {
	switch v := v.(type) {
	case string:
		return appendLimited(dst, limit, v)
	case int:
		return strconv.AppendInt(dst, int64(v), 10), nil
	case bool:
		return strconv.AppendBool(dst, v), nil
	case nil:
		return append(dst, "null"...), nil
	case map[string]any:
		return appendMap(dst, limit, v, depth)
	case Fields:
		return appendMap(dst, limit, v, depth)
	case []any:
		return appendSlice(dst, limit, v, depth)
	case []string:
		return appendStrings(dst, limit, v, depth)
	case float64:
		return appendFloat(dst, v, 64)
	case int64:
		return strconv.AppendInt(dst, v, 10), nil
	case uint64:
		return appendUint(dst, v), nil
	case int32:
		return strconv.AppendInt(dst, int64(v), 10), nil
	case uint32:
		return appendUint(dst, uint64(v)), nil
	case float32:
		return appendFloat(dst, float64(v), 32)
	case uint:
		return appendUint(dst, uint64(v)), nil
	case uint8:
		return appendUint(dst, uint64(v)), nil
	case uint16:
		return appendUint(dst, uint64(v)), nil
	case int8:
		return strconv.AppendInt(dst, int64(v), 10), nil
	case int16:
		return strconv.AppendInt(dst, int64(v), 10), nil
	case time.Time:
		return appendTime(dst, v)
	case time.Duration:
		return appendLimited(dst, limit, v.String())
	case []byte:
		return appendBytes(dst, limit, v)
	case json.Number:
		return appendNumber(dst, limit, string(v))
	case json.RawMessage:
		if v == nil {
			return append(dst, "null"...), nil
		}
		return appendRaw(dst, v, limit, depth, false)
	}
	return appendOther(dst, limit, reflect.ValueOf(v), depth)
}

func appendSlice(dst []byte, limit int, values []any, depth int) ([]byte, *FieldError) {
	if values == nil {
		return append(dst, "null"...), nil
	}
	if depth > MaxDepth {
		return dst, fault("", -1, deepMsg)
	}
	dst = append(dst, '[')
	for i, v := range values {
		if i > 0 {
			dst = append(dst, ',')
		}
		var err *FieldError
		if dst, err = appendValue(dst, limit, v, depth+1); err != nil {
			return dst, err.under(pathIndex(i))
		}
		if len(dst) > limit {
			return dst, tooLarge()
		}
	}
	return append(dst, ']'), nil
}

func appendStrings(dst []byte, limit int, values []string, depth int) ([]byte, *FieldError) {
	if values == nil {
		return append(dst, "null"...), nil
	}
	if depth > MaxDepth {
		return dst, fault("", -1, deepMsg)
	}
	dst = append(dst, '[')
	for i, v := range values {
		if i > 0 {
			dst = append(dst, ',')
		}
		var err *FieldError
		if dst, err = appendLimited(dst, limit, v); err != nil {
			return dst, err.under(pathIndex(i))
		}
	}
	return append(dst, ']'), nil
}

// appendFloat writes the shortest decimal that reads back as f, in the notation of encoding/json.
func appendFloat(dst []byte, f float64, bits int) ([]byte, *FieldError) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return dst, fault("", -1, fmt.Sprintf("%v; JSON has no such number: write a string or leave it out", f))
	}
	format := byte('f')
	if a := math.Abs(f); a != 0 {
		if bits == 64 && (a < 1e-6 || a >= 1e21) || bits == 32 && (float32(a) < 1e-6 || float32(a) >= 1e21) {
			format = 'e'
		}
	}
	dst = strconv.AppendFloat(dst, f, format, -1, bits)
	if n := len(dst); format == 'e' && dst[n-4] == 'e' && dst[n-3] == '-' && dst[n-2] == '0' {
		dst[n-2] = dst[n-1] // e-09 is written e-9
		dst = dst[:n-1]
	}
	return dst, nil
}

func appendBytes(dst []byte, limit int, b []byte) ([]byte, *FieldError) {
	if b == nil {
		return append(dst, "null"...), nil
	}
	if len(b) > limit-len(dst) {
		return dst, tooLarge()
	}
	dst = append(dst, '"')
	dst = base64.StdEncoding.AppendEncode(dst, b)
	return append(dst, '"'), nil
}

func appendNumber(dst []byte, limit int, s string) ([]byte, *FieldError) {
	if len(s) > limit-len(dst) {
		return dst, tooLarge()
	}
	at := len(dst)
	dst = append(dst, s...)
	if s == "" || (s[0] != '-' && s[0]-'0' > 9) {
		return dst, fault("", -1, "json.Number "+pathKey(s)+" is not a JSON number")
	}
	end, err := number(dst, at)
	if err != nil {
		err.Offset -= at
		return dst, err
	}
	if end != len(dst) {
		return dst, fault("", end-at, "json.Number has bytes after its number")
	}
	return dst, nil
}

// appendOther writes the types that appendValue does not name. Methods of the value's own come first, as in encoding/json.
func appendOther(dst []byte, limit int, v reflect.Value, depth int) ([]byte, *FieldError) {
	if k := v.Kind(); (k == reflect.Pointer || k == reflect.Interface) && v.IsNil() {
		return append(dst, "null"...), nil
	}
	if t, ok := v.Interface().(*time.Time); ok {
		return appendTime(dst, *t)
	}
	if marshals(v.Type()) {
		return appendMarshaled(dst, limit, v.Interface(), depth)
	}
	if v.CanAddr() && marshals(reflect.PointerTo(v.Type())) {
		return appendMarshaled(dst, limit, v.Addr().Interface(), depth)
	}
	if e, ok := v.Interface().(error); ok {
		text, err := errorText(e)
		if err != nil {
			return dst, err
		}
		return appendLimited(dst, limit, text)
	}
	switch v.Kind() {
	case reflect.Bool:
		return strconv.AppendBool(dst, v.Bool()), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return strconv.AppendInt(dst, v.Int(), 10), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return appendUint(dst, v.Uint()), nil
	case reflect.Float32:
		return appendFloat(dst, v.Float(), 32)
	case reflect.Float64:
		return appendFloat(dst, v.Float(), 64)
	case reflect.String:
		return appendLimited(dst, limit, v.String())
	case reflect.Pointer, reflect.Interface:
		// The pointer counts as a level, so that a pointer to itself ends.
		if depth > MaxDepth {
			return dst, fault("", -1, deepMsg)
		}
		return appendElem(dst, limit, v.Elem(), depth+1)
	case reflect.Slice, reflect.Array:
		if v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8 && !marshals(reflect.PointerTo(v.Type().Elem())) {
			return appendBytes(dst, limit, v.Bytes())
		}
		return appendList(dst, limit, v, depth)
	case reflect.Map:
		if v.Type().Key().Kind() == reflect.String && !marshals(v.Type().Key()) {
			return appendReflectMap(dst, limit, v, depth)
		}
	}
	return appendMarshaled(dst, limit, v.Interface(), depth)
}

// appendElem writes an element by its dynamic type.
func appendElem(dst []byte, limit int, v reflect.Value, depth int) ([]byte, *FieldError) {
	if v.Kind() == reflect.Interface {
		if v.IsNil() {
			return append(dst, "null"...), nil
		}
		v = v.Elem()
	}
	switch x := v.Interface().(type) {
	case time.Time, json.RawMessage:
		return appendValue(dst, limit, x, depth)
	}
	if v.CanAddr() && marshals(reflect.PointerTo(v.Type())) {
		return appendOther(dst, limit, v, depth)
	}
	return appendValue(dst, limit, v.Interface(), depth)
}

func appendList(dst []byte, limit int, v reflect.Value, depth int) ([]byte, *FieldError) {
	if v.Kind() == reflect.Slice && v.IsNil() {
		return append(dst, "null"...), nil
	}
	if depth > MaxDepth {
		return dst, fault("", -1, deepMsg)
	}
	dst = append(dst, '[')
	for i := range v.Len() {
		if i > 0 {
			dst = append(dst, ',')
		}
		var err *FieldError
		if dst, err = appendElem(dst, limit, v.Index(i), depth+1); err != nil {
			return dst, err.under(pathIndex(i))
		}
		if len(dst) > limit {
			return dst, tooLarge()
		}
	}
	return append(dst, ']'), nil
}

func appendReflectMap(dst []byte, limit int, v reflect.Value, depth int) ([]byte, *FieldError) {
	if v.IsNil() {
		return append(dst, "null"...), nil
	}
	if v.Len() > (limit-len(dst))/5+1 {
		return dst, tooLarge()
	}
	m := make(map[string]any, v.Len())
	for it := v.MapRange(); it.Next(); {
		m[it.Key().String()] = it.Value().Interface()
	}
	return appendMap(dst, limit, m, depth)
}

var (
	jsonMarshaler = reflect.TypeFor[json.Marshaler]()
	textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()
)

func marshals(t reflect.Type) bool { return t.Implements(jsonMarshaler) || t.Implements(textMarshaler) }

// appendMarshaled writes what encoding/json makes of v, checked like raw JSON.
func appendMarshaled(dst []byte, limit int, v any, depth int) ([]byte, *FieldError) {
	text, err := marshal(v)
	if err != nil {
		return dst, err
	}
	// encoding/json puts \ufffd in place of bytes that are not UTF-8; a change that nobody is told of is refused.
	if bytes.Contains(text, []byte(`\ufffd`)) {
		return dst, fault("", -1, fmt.Sprintf(`the JSON of %T has the escape \ufffd, which encoding/json writes for %s`, v, invalidUTF8))
	}
	dst, err = appendRaw(dst, text, limit, depth, false)
	if err != nil {
		err.Msg = fmt.Sprintf("in the JSON of %T: %s", v, err.Msg)
	}
	return dst, err
}

// marshal guards against a panic in somebody else's method: one bad value must not end the log's writer.
func marshal(v any) (text []byte, err *FieldError) {
	defer func() {
		if r := recover(); r != nil {
			err = fault("", -1, fmt.Sprintf("encoding %T panicked: %v", v, r))
		}
	}()
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	if failed := e.Encode(v); failed != nil {
		return nil, fault("", -1, failed.Error())
	}
	return buf.Bytes(), nil
}

func errorText(e error) (text string, err *FieldError) {
	defer func() {
		if r := recover(); r != nil {
			err = fault("", -1, fmt.Sprintf("the Error method of %T panicked: %v", e, r))
		}
	}()
	return e.Error(), nil
}
