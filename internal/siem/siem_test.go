package siem

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/event"
)

// actions are all of package event's, and what sources make up.
func actions(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("../../event/action.go")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, m := range regexp.MustCompile(`(?m)^\s+Action\w+\s+= "([a-z.]+)"`).FindAllStringSubmatch(string(text), -1) {
		all = append(all, m[1])
	}
	if len(all) < 50 {
		t.Fatalf("%d actions", len(all))
	}
	return append(all, "", "GetObject", "odd..", ".", strings.Repeat("x", 300))
}

// shapes are events of every kind: with every action, with everything and with nothing in them.
func shapes(t *testing.T) []event.Shape {
	full := event.Shape{
		Actor:  &event.Actor{Type: event.ActorUser, ID: "u1", Name: "Ann <&>", Email: "ann@example.com", Session: "s-1"},
		Target: &event.Target{Type: "thing", ID: "t1", Name: "/var/lib/thing.txt"}, Outcome: event.OutcomeSuccess, Reason: "why",
		Source:  &event.Source{IP: "203.0.113.42", Port: 443, Host: "laptop", UserAgent: "curl/8", Provider: "sshd"},
		Request: &event.Request{ID: "r1", Method: "get", Path: "/a?b=c", Status: 200, TraceID: "4bf92f3577b34da6a3ce929d0e0e4736", SpanID: "00f067aa0ba902b7", DurationMS: 1.5},
		Extra:   immutable.Fields{"sha": "abc123", "statement": "select 1", "raw": "the line", "n": json.Number("12345678901234567890")},
	}
	odd := event.Shape{
		Actor: &event.Actor{Type: "robot", Email: "no address"}, Target: &event.Target{Type: "group", Name: `C:\Users\x`}, Outcome: "other",
		Source: &event.Source{IP: "fe80::1%eth0", Port: 99999, Provider: "x"}, Request: &event.Request{Method: "BREW", Status: -1, DurationMS: -4},
	}
	user := event.Shape{Actor: &event.Actor{Type: event.ActorAnonymous}, Target: &event.Target{Type: "user", Name: "bob"}, Outcome: event.OutcomeDenied}
	unsaid := event.Shape{Actor: &event.Actor{Type: event.ActorSystem}, Outcome: event.OutcomeUnknown, Source: &event.Source{IP: "::ffff:192.0.2.1"}}
	var all []event.Shape
	for _, kind := range append(event.Kinds(), "", "something else") {
		for i, action := range actions(t) {
			for j, s := range []event.Shape{full, odd, user, unsaid, {}} {
				if (i+j)%7 != 0 && os.Getenv("IMMUTABLE_LONG") == "" { // everything with everything would take long
					continue
				}
				s.Kind, s.Action = kind, action
				all = append(all, s)
			}
		}
	}
	return all
}

func entries(t *testing.T, shapes []event.Shape) []immutable.Entry {
	t.Helper()
	l, err := immutable.Open(t.TempDir(), &immutable.Config{StateDir: t.TempDir(), Origin: "example.com/siem", Hostname: "host.example"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var events []immutable.Event
	for i, s := range shapes {
		e := immutable.Event{Level: immutable.Level(i % immutable.NumLevels), Message: fmt.Sprint("event ", i), Metadata: s.Fields()}
		if i%3 == 0 {
			e.EventTime, e.TraceID, e.SpanID = time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC), "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
		}
		events = append(events, e)
	}
	events = append(events, immutable.Event{Message: "", Metadata: immutable.Fields{"actor": "a string", "action": 5, "source": []any{1}}})
	if _, err := l.Append(t.Context(), events...); err != nil {
		t.Fatal(err)
	}
	var all []immutable.Entry
	for e, err := range l.Entries(t.Context(), immutable.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

func TestEveryKindIsValidOCSF(t *testing.T) {
	s := loadSchema(t)
	used, seen := map[int]bool{}, 0
	for _, e := range entries(t, shapes(t)) {
		line, err := AppendOCSF(nil, Mark{Origin: "example.com/siem", Size: e.Index + 1}, &e)
		if err != nil {
			t.Fatal(err)
		}
		if wrong := s.validate(line); len(wrong) > 0 {
			slices.Sort(wrong)
			if seen++; seen < 8 {
				t.Errorf("%s\n%s", strings.Join(wrong, "\n"), line)
			}
		}
		var o struct {
			ClassUID int    `json:"class_uid"`
			RawData  string `json:"raw_data"`
			Unmapped struct {
				Immutable Mark `json:"immutable"`
			} `json:"unmapped"`
		}
		if err := json.Unmarshal(line, &o); err != nil {
			t.Fatal(err)
		}
		used[o.ClassUID] = true
		if o.RawData != string(e.Line) || o.Unmapped.Immutable != (Mark{"example.com/siem", e.Index, e.Leaf.String(), e.Index + 1, Mapping}) {
			t.Fatalf("%s", line)
		}
		if again, err := AppendOCSF(nil, Mark{Origin: "example.com/siem", Size: e.Index + 1}, &e); err != nil || !bytes.Equal(again, line) {
			t.Fatal("the same entry is written in two ways")
		}
	}
	for _, uid := range []int{0, 1001, 1008, 2004, 3002, 3003, 3004, 3006, 3007, 6001, 6002, 6003, 6005} {
		if !used[uid] {
			t.Errorf("no event is of class %d", uid)
		}
	}
}

// The activities are the schema's own, and none of its words is spelled otherwise.
func TestActivitiesAreTheSchemas(t *testing.T) {
	s := loadSchema(t)
	for _, c := range []*class{&authentication, &authorization, &user, &group, &entity, &api, &web, &datastore, &lifecycle, &file, &eventLog, &finding} {
		r := s.class(s.byUID[c.uid])
		if r.caption != c.name || r.category != c.categoryUID || r.categoryName != c.category {
			t.Errorf("%d: %q in %d %q; the schema says %q in %d %q", c.uid, c.name, c.categoryUID, c.category, r.caption, r.category, r.categoryName)
		}
		for action, a := range c.activities {
			if got := r.attributes["activity_id"].Enum[fmt.Sprint(a.id)].Caption; got != a.name || a.id == 0 || a.id == 99 {
				t.Errorf("%s, %s: activity %d is %q, not %q", c.name, action, a.id, got, a.name)
			}
		}
	}
}

// The validator finds what is wrong: without this the test above could not fail.
func TestValidatorFindsWhatIsWrong(t *testing.T) {
	s := loadSchema(t)
	e := entries(t, []event.Shape{{Kind: event.KindAPI, Action: "object.read", Actor: &event.Actor{Name: "ann"}, Source: &event.Source{IP: "192.0.2.1"}}})[0]
	good, err := AppendOCSF(nil, Mark{Origin: "example.com/siem"}, &e)
	if err != nil {
		t.Fatal(err)
	}
	if wrong := s.validate(good); len(wrong) > 0 {
		t.Fatalf("%q: %s", wrong, good)
	}
	for change, want := range map[[2]string]string{
		{`"class_uid":6003`, `"class_uid":6999`}:                                         "is no class",
		{`"activity_id":2`, `"activity_id":77`}:                                          "not in the enum",
		{`"activity_name":"Read"`, `"activity_name":"X"`}:                                "activity_name",
		{`"api":{"operation"`, `"api":{"op"`}:                                            "api.operation is required",
		{`"ip":"192.0.2.1"`, `"ip":"nowhere"`}:                                           "is no ip_t",
		{`"severity_id":1`, `"severity_id":"1"`}:                                         "is no integer",
		{`"src_endpoint":{`, `"source":{`}:                                               "src_endpoint is required",
		{`["host","record_integrity"]`, `["host"]`}:                                      "of the profile record_integrity",
		{`"category_uid":6`, `"category_uid":3`}:                                         "category_uid is 3",
		{`"user":{"name":"ann",`, `"user":{"full":"ann",`}:                               "is no attribute",
		{`"raw_data_hash":{"algorithm":"SHA-256"`, `"raw_data_hash":{"algorithm":"MD5"`}: "algorithm_id",
	} {
		bad := bytes.Replace(good, []byte(change[0]), []byte(change[1]), 1)
		if bytes.Equal(bad, good) {
			t.Fatalf("%s is not in %s", change[0], good)
		}
		if wrong := strings.Join(s.validate(bad), "\n"); !strings.Contains(wrong, want) {
			t.Errorf("%s: got %q, want %q", change[1], wrong, want)
		}
	}
}

// ecsFields are those of ECS 8.17 that are written, with their types; a * is what a name must begin with.
var ecsFields = map[string]string{
	"@timestamp": "date", "message": "text", "ecs.version": "keyword", "log.level": "keyword", "log.logger": "keyword",
	"event.kind": "enum:alert asset enrichment event metric state pipeline_error signal", "event.id": "keyword", "event.created": "date",
	"event.category": "list:api authentication configuration database driver email file host iam intrusion_detection library malware network package process registry session threat vulnerability web",
	"event.type":     "list:access admin allowed change connection creation deletion denied device end error group indicator info installation protocol start user",
	"event.outcome":  "enum:failure success unknown", "event.sequence": "long", "event.original": "keyword", "event.module": "keyword", "event.severity": "long",
	"event.action": "keyword", "event.reason": "keyword", "event.provider": "keyword", "event.dataset": "keyword", "event.duration": "long",
	"host.hostname": "keyword", "host.name": "keyword", "process.pid": "long", "user.id": "keyword", "user.name": "keyword", "user.email": "keyword",
	"user.target.id": "keyword", "user.target.name": "keyword", "group.id": "keyword", "group.name": "keyword", "source.ip": "ip", "source.address": "keyword",
	"source.domain": "keyword", "source.port": "long", "user_agent.original": "keyword", "http.request.method": "keyword", "http.request.id": "keyword",
	"http.response.status_code": "long", "url.original": "keyword", "url.path": "keyword", "trace.id": "keyword", "span.id": "keyword", "file.path": "keyword",
	"file.name": "keyword", "service.name": "keyword", "related.ip": "ips", "related.user": "keywords", "related.hosts": "keywords", "labels.*": "keyword",
}

// ecsTypes are what ECS expects of event.type in each category.
var ecsTypes = map[string]string{
	"api": "access admin allowed change creation deletion denied end info start user", "authentication": "start end info",
	"configuration": "access change creation deletion info", "database": "access change info error", "file": "access change creation deletion info",
	"host": "access change end info start", "iam": "admin change creation deletion group info user", "intrusion_detection": "allowed denied info",
	"package": "access change deletion info installation start", "process": "access change end info start", "web": "access error info",
}

func TestEveryKindIsECS(t *testing.T) {
	for _, e := range entries(t, shapes(t)) {
		line, err := AppendECS(nil, Mark{Origin: "example.com/siem", Size: 9}, &e)
		if err != nil {
			t.Fatal(err)
		}
		d := json.NewDecoder(bytes.NewReader(line))
		d.UseNumber()
		var o map[string]any
		if err := d.Decode(&o); err != nil {
			t.Fatal(err)
		}
		if wrong := ecsWrong("", o); wrong != "" {
			t.Fatalf("%s: %s", wrong, line)
		}
		ev := o["event"].(map[string]any)
		if o["@timestamp"] == nil || o["ecs"] == nil || ev["original"] != string(e.Line) {
			t.Fatalf("%s", line)
		}
		if list, ok := ev["category"].([]any); ok {
			for _, x := range ev["type"].([]any) {
				if !slices.Contains(strings.Fields(ecsTypes[list[0].(string)]), x.(string)) {
					t.Fatalf("event.type %v is not expected of event.category %v: %s", x, list[0], line)
				}
			}
		}
	}
	for _, k := range event.Kinds() {
		if _, ok := categories[k]; !ok {
			t.Errorf("the kind %s has no category", k)
		}
	}
}

func ecsWrong(at string, o map[string]any) string {
	for name, v := range o {
		full := at + name
		want, ok := ecsFields[full]
		if !ok {
			want, ok = ecsFields[at+"*"]
		}
		if inner, isObject := v.(map[string]any); isObject && !ok {
			if wrong := ecsWrong(full+".", inner); wrong != "" {
				return wrong
			}
			continue
		}
		if !ok {
			return full + " is no field of ECS"
		}
		if !ecsIs(v, want) {
			return fmt.Sprintf("%s: %v is no %s", full, v, want)
		}
	}
	return ""
}

var ipForm = regexp.MustCompile(`^[0-9a-f.:]{2,39}$`)

func ecsIs(v any, want string) bool {
	kind, values, _ := strings.Cut(want, ":")
	switch kind {
	case "long":
		n, ok := v.(json.Number)
		_, err := n.Int64()
		return ok && err == nil
	case "list", "keywords", "ips":
		list, ok := v.([]any)
		one := map[string]string{"list": "enum:" + values, "keywords": "keyword", "ips": "ip"}[kind]
		return ok && len(list) > 0 && !slices.ContainsFunc(list, func(x any) bool { return !ecsIs(x, one) })
	}
	s, ok := v.(string)
	if !ok || s == "" {
		return false
	}
	switch kind {
	case "date":
		_, err := time.Parse(time.RFC3339Nano, s)
		return err == nil
	case "enum":
		return slices.Contains(strings.Fields(values), s)
	case "ip":
		return ipForm.MatchString(s)
	}
	return true
}
