package siem

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// schema is the source of OCSF's schema, as far as the validator reads it.
type schema struct {
	attributes map[string]attribute // of the dictionary
	types      map[string]struct {
		Regex  string `json:"regex"`
		MaxLen int    `json:"max_len"`
		Range  []int  `json:"range"`
		Type   string `json:"type"`
	}
	objects, classes, profiles map[string]definition
	categories                 map[string]struct {
		UID     int    `json:"uid"`
		Caption string `json:"caption"`
	}
	byUID map[int]string // class_uid -> name
	known map[string]resolved
	forms map[string]*regexp.Regexp
}

type attribute struct {
	Type        string `json:"type"`
	IsArray     bool   `json:"is_array"`
	Requirement string `json:"requirement"`
	Sibling     string `json:"sibling"`
	Profile     any    `json:"profile"`
	Enum        map[string]struct {
		Caption string `json:"caption"`
	} `json:"enum"`
}

type definition struct {
	Name        string                     `json:"name"`
	UID         int                        `json:"uid"`
	Caption     string                     `json:"caption"`
	Category    string                     `json:"category"`
	Extends     string                     `json:"extends"`
	Attributes  map[string]json.RawMessage `json:"attributes"`
	Constraints map[string][]string        `json:"constraints"`
}

const schemaDir = "../../../shared/data/ocsf-schema"

func loadSchema(t *testing.T) *schema {
	t.Helper()
	if _, err := os.Stat(schemaDir); errors.Is(err, fs.ErrNotExist) {
		t.Skip("there is no ../shared/data/ocsf-schema beside the repository")
	}
	s := &schema{objects: map[string]definition{}, classes: map[string]definition{}, profiles: map[string]definition{}, byUID: map[int]string{}, known: map[string]resolved{}, forms: map[string]*regexp.Regexp{}}
	readSchema(t, "dictionary.json", &struct {
		Attributes any `json:"attributes"`
		Types      any `json:"types"`
	}{&s.attributes, &struct {
		Attributes any `json:"attributes"`
	}{&s.types}})
	readSchema(t, "categories.json", &struct {
		Attributes any `json:"attributes"`
	}{&s.categories})
	for dir, into := range map[string]map[string]definition{"objects": s.objects, "events": s.classes, "profiles": s.profiles} {
		err := filepath.WalkDir(filepath.Join(schemaDir, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Ext(path) != ".json" {
				return err
			}
			var def definition
			rel, err := filepath.Rel(schemaDir, path)
			readSchema(t, rel, &def)
			into[def.Name] = def
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for name := range s.classes {
		if c := s.class(name); c.uid >= 0 {
			s.byUID[c.uid] = name
		}
	}
	return s
}

func readSchema(t *testing.T, name string, into any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(schemaDir, filepath.FromSlash(name)))
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// resolved is a class or an object with what it inherits.
type resolved struct {
	uid, category int
	caption       string
	categoryName  string
	attributes    map[string]attribute
	constraints   map[string][]string
	profiles      []string
}

func (s *schema) class(name string) resolved {
	r := s.resolve(s.classes, name)
	own := s.classes[name]
	category := own.Category
	for up := own; category == "" && up.Extends != ""; category = up.Category {
		up = s.classes[up.Extends]
	}
	if name == "base_event" {
		return resolved{0, 0, own.Caption, "Uncategorized", r.attributes, r.constraints, r.profiles}
	}
	if own.UID == 0 {
		r.uid = -1
		return r
	}
	c := s.categories[category]
	r.category, r.categoryName, r.uid, r.caption = c.UID, c.Caption, 1000*c.UID+own.UID, own.Caption
	return r
}

func (s *schema) resolve(all map[string]definition, name string) resolved {
	d, ok := all[name]
	r := resolved{attributes: map[string]attribute{}, constraints: map[string][]string{}}
	if !ok {
		return r
	}
	if d.Extends != "" {
		r = s.resolve(all, d.Extends)
	}
	maps.Copy(r.constraints, d.Constraints)
	if len(d.Constraints) == 0 && d.Constraints != nil {
		r.constraints = map[string][]string{}
	}
	for _, x := range includes(d.Attributes["$include"]) {
		name := strings.TrimSuffix(filepath.Base(x), ".json")
		r.profiles = append(r.profiles, name)
		for k, raw := range s.profiles[name].Attributes {
			s.merge(&r, k, raw, name)
		}
	}
	for k, raw := range d.Attributes {
		if k != "$include" {
			s.merge(&r, k, raw, "")
		}
	}
	return r
}

func includes(raw json.RawMessage) (list []string) {
	if json.Unmarshal(raw, &list) != nil {
		var one string
		if json.Unmarshal(raw, &one) == nil {
			list = []string{one}
		}
	}
	return list
}

// merge adds what one place says of an attribute to what the dictionary and those before say.
func (s *schema) merge(r *resolved, name string, raw json.RawMessage, profile string) {
	a, ok := r.attributes[name]
	if !ok {
		a = s.attributes[name]
	}
	enum := a.Enum
	a.Enum = nil
	if profile != "" && !ok {
		a.Profile = profile
	} else if profile == "" {
		a.Profile = nil
	}
	if json.Unmarshal(raw, &a) != nil {
		return
	}
	merged := map[string]struct {
		Caption string `json:"caption"`
	}{}
	maps.Copy(merged, enum)
	maps.Copy(merged, a.Enum)
	if len(merged) > 0 {
		a.Enum = merged
	}
	if profile != "" {
		a.Requirement = strings.Replace(a.Requirement, "required", "required by "+profile, 1)
	}
	r.attributes[name] = a
}

func (s *schema) cached(key string, f func() resolved) resolved {
	if _, ok := s.known[key]; !ok {
		s.known[key] = f()
	}
	return s.known[key]
}

// form is the regular expression of a type.
func (s *schema) form(text string) *regexp.Regexp {
	if s.forms[text] == nil {
		s.forms[text] = regexp.MustCompile(text)
	}
	return s.forms[text]
}

// validate says what is wrong with an event.
func (s *schema) validate(line []byte) []string {
	d := json.NewDecoder(bytes.NewReader(line))
	d.UseNumber()
	var o map[string]any
	if err := d.Decode(&o); err != nil {
		return []string{err.Error()}
	}
	uid, err := whole(o["class_uid"])
	name, ok := s.byUID[uid]
	if err != nil || !ok {
		return []string{fmt.Sprintf("class_uid %v is no class", o["class_uid"])}
	}
	c := s.cached("class "+name, func() resolved { return s.class(name) })
	v := &validator{s: s}
	if m, ok := o["metadata"].(map[string]any); ok {
		if list, ok := m["profiles"].([]any); ok {
			for _, p := range list {
				v.profiles = append(v.profiles, fmt.Sprint(p))
				if _, known := s.profiles[fmt.Sprint(p)]; !known {
					v.wrong("metadata.profiles: there is no profile %v", p)
				}
			}
		}
	}
	v.object("", o, c.attributes, c.constraints)
	activity, _ := whole(o["activity_id"])
	for member, want := range map[string]any{
		"category_uid": c.category, "category_name": c.categoryName, "class_name": c.caption, "type_uid": 100*uid + activity,
		"type_name": c.caption + ": " + fmt.Sprint(o["activity_name"]),
	} {
		if fmt.Sprint(o[member]) != fmt.Sprint(want) {
			v.wrong("%s is %v, want %v", member, o[member], want)
		}
	}
	return v.all
}

type validator struct {
	s        *schema
	profiles []string
	all      []string
}

func (v *validator) wrong(format string, args ...any) {
	v.all = append(v.all, fmt.Sprintf(format, args...))
}

func (v *validator) object(at string, o map[string]any, attributes map[string]attribute, constraints map[string][]string) {
	for name, a := range attributes {
		if _, there := o[name]; a.Requirement == "required" && !there && a.Profile == nil {
			v.wrong("%s%s is required", at, name)
		}
	}
	for name, value := range o {
		a, ok := attributes[name]
		switch {
		case !ok:
			v.wrong("%s%s is no attribute", at, name)
			continue
		case a.Profile != nil && !slices.Contains(v.profiles, fmt.Sprint(a.Profile)):
			v.wrong("%s%s is of the profile %v, which metadata.profiles has not", at, name, a.Profile)
		}
		if !a.IsArray {
			v.value(at+name, value, &a, o)
			continue
		}
		list, isList := value.([]any)
		if !isList || len(list) == 0 {
			v.wrong("%s%s is an array with elements, not %v", at, name, value)
		}
		for i, x := range list {
			v.value(fmt.Sprintf("%s%s[%d]", at, name, i), x, &a, o)
		}
	}
	if any := constraints["at_least_one"]; len(any) > 0 && !slices.ContainsFunc(any, func(n string) bool { return o[n] != nil }) {
		v.wrong("%s: at least one of %v", at, any)
	}
	if one := constraints["just_one"]; len(one) > 0 {
		n := 0
		for _, name := range one {
			if o[name] != nil {
				n++
			}
		}
		if n != 1 {
			v.wrong("%s: just one of %v", at, one)
		}
	}
}

// value checks one value: its type, the limits of the type, and its enum with its sibling.
func (v *validator) value(at string, value any, a *attribute, beside map[string]any) {
	switch a.Type {
	case "integer_t", "long_t", "timestamp_t", "port_t":
		n, err := whole(value)
		if err != nil {
			v.wrong("%s: %v is no integer", at, value)
			return
		}
		if r := v.s.types[a.Type].Range; len(r) == 2 && (n < r[0] || n > r[1]) {
			v.wrong("%s: %d is not within %v", at, n, r)
		}
		v.enum(at, fmt.Sprint(n), a, beside)
	case "boolean_t":
		if _, ok := value.(bool); !ok {
			v.wrong("%s: %v is no boolean", at, value)
		}
	case "json_t", "object", "object_t":
	case "float_t":
		if _, ok := value.(json.Number); !ok {
			v.wrong("%s: %v is no number", at, value)
		}
	default:
		if t, scalar := v.s.types[a.Type]; scalar {
			text, ok := value.(string)
			if !ok {
				v.wrong("%s: %v is no string", at, value)
				return
			}
			if t.MaxLen > 0 && len(text) > t.MaxLen || t.Regex != "" && !v.s.form(t.Regex).MatchString(text) {
				v.wrong("%s: %q is no %s", at, text, a.Type)
			}
			v.enum(at, text, a, beside)
			return
		}
		o, ok := value.(map[string]any)
		if _, known := v.s.objects[a.Type]; !known || !ok {
			v.wrong("%s: %v is no object of type %q", at, value, a.Type)
			return
		}
		r := v.s.cached(a.Type, func() resolved { return v.s.resolve(v.s.objects, a.Type) })
		v.object(at+".", o, r.attributes, r.constraints)
	}
}

func (v *validator) enum(at, value string, a *attribute, beside map[string]any) {
	if len(a.Enum) == 0 || at == "class_uid" || at == "category_uid" { // those two are compared with the class
		return
	}
	e, ok := a.Enum[value]
	if !ok {
		v.wrong("%s: %s is not in the enum", at, value)
		return
	}
	sibling := a.Sibling
	if strings.HasSuffix(at, "activity_id") {
		sibling = "activity_name"
	}
	if text, there := beside[sibling].(string); sibling != "" && there && value != "99" && text != e.Caption {
		v.wrong("%s is %s, and %s is %q, not %q", at, value, sibling, text, e.Caption)
	} else if sibling != "" && value == "99" && text == "" {
		v.wrong("%s is 99, and there is no %s", at, sibling)
	}
}

func whole(v any) (int, error) {
	n, ok := v.(json.Number)
	if !ok {
		return 0, fmt.Errorf("%v is no number", v)
	}
	i, err := n.Int64()
	return int(i), err
}
