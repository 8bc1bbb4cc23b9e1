package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// specification is openapi.json, as far as tests read it.
type specification struct {
	Paths map[string]map[string]struct {
		OperationID string              `json:"operationId"`
		Security    *[]map[string][]any `json:"security"`
		Parameters  []struct {
			Ref      string `json:"$ref"`
			Name, In string
		}
		RequestBody *struct {
			Content map[string]any
		}
		Responses map[string]struct {
			Content map[string]struct{ Schema any }
		}
	}
	Components struct {
		Schemas map[string]any
	}
}

var readSpecification = sync.OnceValues(func() (*specification, error) {
	var spec specification
	return &spec, json.Unmarshal(openAPIDocument, &spec)
})

// schemas compiles the schemas of openapi.json, made strict: a member that they do not have is a mistake in them.
var schemas = sync.OnceValues(func() (*jsonschema.Compiler, error) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(openAPIDocument))
	if err != nil {
		return nil, err
	}
	strict(doc)
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertFormat()
	return c, c.AddResource("openapi.json", doc)
})

// strict closes every object schema that has properties and does not say whether it is open.
func strict(v any) {
	switch v := v.(type) {
	case map[string]any:
		_, object := v["properties"].(map[string]any)
		if _, says := v["additionalProperties"]; object && !says {
			v["additionalProperties"] = false
		}
		for _, x := range v {
			strict(x)
		}
	case []any:
		for _, x := range v {
			strict(x)
		}
	}
}

var compiled sync.Map // pointer -> *jsonschema.Schema

// validate checks JSON against the schema at a pointer into openapi.json.
func validate(pointer string, data []byte) error {
	c, err := schemas()
	if err != nil {
		return err
	}
	schema, ok := compiled.Load(pointer)
	if !ok {
		compiling.Lock()
		s, err := c.Compile("openapi.json#" + pointer)
		compiling.Unlock()
		if err != nil {
			return err
		}
		schema, _ = compiled.LoadOrStore(pointer, s)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("not JSON: %w", err)
	}
	return schema.(*jsonschema.Schema).Validate(v)
}

var compiling sync.Mutex

// documented is a route's path in openapi.json.
func documented(rt *route) string {
	return strings.NewReplacer("{path...}", "{path}", "{$}", "").Replace(rt.Pattern)
}

// conforms checks an answer against openapi.json: status, media type and body.
func conforms(t testing.TB, s *Server, req *http.Request, a got) {
	t.Helper()
	if req.Method == http.MethodHead {
		return
	}
	kind, _, err := mime.ParseMediaType(a.header.Get("Content-Type"))
	if err != nil && len(a.body) > 0 {
		t.Errorf("%s %s: the answer has no media type", req.Method, req.URL.Path)
		return
	}
	if kind == "application/problem+json" {
		if err := validate("/components/schemas/Problem", a.body); err != nil {
			t.Errorf("%s %s: %v: %.500s", req.Method, req.URL.Path, err, a.body)
		}
		return
	}
	rt := s.find(req)
	if rt == nil {
		t.Errorf("%s %s: status %d without a problem, and there is no such route", req.Method, req.URL.Path, a.status)
		return
	}
	spec, err := readSpecification()
	if err != nil {
		t.Fatal(err)
	}
	at := strings.NewReplacer("~", "~0", "/", "~1").Replace(documented(rt))
	response, ok := spec.Paths[documented(rt)][strings.ToLower(rt.Method)].Responses[strconv.Itoa(a.status)]
	if !ok {
		t.Errorf("%s %s: openapi.json does not have status %d", rt.Method, rt.Pattern, a.status)
		return
	}
	if len(response.Content) == 0 && len(a.body) == 0 {
		return
	}
	content, ok := response.Content[kind]
	if !ok {
		t.Errorf("%s %s: openapi.json does not have the media type %q with status %d", rt.Method, rt.Pattern, kind, a.status)
		return
	}
	bodies := [][]byte{a.body}
	switch {
	case content.Schema == nil:
		return
	case kind == "application/x-ndjson":
		bodies = bytes.Split(bytes.TrimSuffix(a.body, []byte("\n")), []byte("\n"))
	case kind != "application/json":
		return // a string
	}
	pointer := fmt.Sprintf("/paths/%s/%s/responses/%d/content/%s/schema", at, strings.ToLower(rt.Method), a.status, strings.ReplaceAll(kind, "/", "~1"))
	for _, body := range bodies {
		if err := validate(pointer, body); err != nil {
			t.Errorf("%s %s: %v: %.1000s", rt.Method, rt.Pattern, err, body)
			return
		}
	}
}

// find is the route of a request, or nil.
func (s *Server) find(req *http.Request) *route {
	var f finder
	s.mux.ServeHTTP(&f, req.Clone(req.Context()))
	if f.found == nil {
		return nil
	}
	return f.found[req.Method]
}

func TestOpenAPIDocumentHasTheTableAndNothingElse(t *testing.T) {
	spec, err := readSpecification()
	if err != nil {
		t.Fatal(err)
	}
	left := map[string]bool{}
	for path, methods := range spec.Paths {
		for method := range methods {
			left[strings.ToUpper(method)+" "+path] = true
		}
	}
	ids := map[string]bool{}
	wildcard := regexp.MustCompile(`\{(\w+)\}`)
	for _, rt := range routes() {
		path := documented(&rt)
		op, ok := spec.Paths[path][strings.ToLower(rt.Method)]
		if !ok {
			t.Errorf("%s %s is not in openapi.json", rt.Method, rt.Pattern)
			continue
		}
		delete(left, rt.Method+" "+path)
		if op.OperationID != rt.ID || ids[rt.ID] || rt.ID == "" {
			t.Errorf("%s %s: operationId %q, want the route's own %q, once", rt.Method, path, op.OperationID, rt.ID)
		}
		ids[rt.ID] = true
		if open := op.Security != nil && len(*op.Security) == 0; open != (rt.Access == public || rt.Access == signed) {
			t.Errorf("%s %s: openapi.json says public %t, the table %t", rt.Method, path, open, rt.Access == public)
		}
		if (op.RequestBody != nil) != rt.Body {
			t.Errorf("%s %s: openapi.json says it has a body: %t, the table: %t", rt.Method, path, op.RequestBody != nil, rt.Body)
		}
		var query, inPath, want []string
		for _, p := range op.Parameters {
			switch name, ref := strings.CutPrefix(p.Ref, "#/components/parameters/"); {
			case ref:
				inPath = append(inPath, name)
			case p.In == "query":
				query = append(query, p.Name)
			}
		}
		for _, m := range wildcard.FindAllStringSubmatch(path, -1) {
			want = append(want, m[1])
		}
		if !slices.Equal(inPath, want) {
			t.Errorf("%s %s: openapi.json has the path parameters %q, want %q", rt.Method, path, inPath, want)
		}
		if !slices.Equal(slices.Sorted(slices.Values(query)), slices.Sorted(slices.Values(rt.Query))) {
			t.Errorf("%s %s: openapi.json has the parameters %q, the table %q", rt.Method, path, query, rt.Query)
		}
		for status, response := range op.Responses {
			for kind := range response.Content {
				at := strings.NewReplacer("~", "~0", "/", "~1").Replace(path)
				pointer := fmt.Sprintf("/paths/%s/%s/responses/%s/content/%s/schema", at, strings.ToLower(rt.Method), status, strings.ReplaceAll(kind, "/", "~1"))
				if response.Content[kind].Schema == nil {
					continue
				}
				if err := validate(pointer, []byte("5")); err != nil && strings.Contains(err.Error(), "compil") {
					t.Errorf("%s: %v", pointer, err)
				}
			}
		}
	}
	for _, op := range slices.Sorted(maps.Keys(left)) {
		t.Errorf("openapi.json has %s, and the table has not", op)
	}
}

func TestErrorCodesAreAllDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/http-api.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\| ([0-9]+) \\|")
	found := map[string]string{}
	for _, m := range row.FindAllStringSubmatch(string(text), -1) {
		found[m[1]] = m[2]
	}
	for _, k := range kinds {
		if found[k.code] != strconv.Itoa(k.status) {
			t.Errorf("docs/http-api.md has status %q for the code %s, want %d", found[k.code], k.code, k.status)
		}
		delete(found, k.code)
	}
	for code := range found {
		t.Errorf("docs/http-api.md has the code %s, which is not in the table", code)
	}
}
