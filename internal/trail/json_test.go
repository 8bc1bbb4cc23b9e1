package trail

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/event"
	"github.com/tree-of-life-system/immutable/internal/entry"
)

// values divides a file of JSON as the command does: the values one after the other, of arrays and deliveries each element.
func values(t testing.TB, name string) (out []json.RawMessage) {
	t.Helper()
	for d := json.NewDecoder(bytes.NewReader(read(t, name))); ; {
		var v json.RawMessage
		if err := d.Decode(&v); errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var delivery struct{ Records []json.RawMessage }
		var array []json.RawMessage
		switch {
		case json.Unmarshal(v, &array) == nil:
			out = append(out, array...)
		case json.Unmarshal(v, &delivery) == nil && delivery.Records != nil:
			out = append(out, delivery.Records...)
		default:
			out = append(out, v)
		}
	}
}

func compact(t testing.TB, raw []byte) string {
	t.Helper()
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// kept holds that an event has the value that it was made of, token by token.
func kept(t *testing.T, name string, e *immutable.Event, v []byte) {
	t.Helper()
	if got := string(rawOf(t, e)); got != string(v) && got != compact(t, v) {
		t.Fatalf("%s: %s\ncame back as %s", name, v, got)
	}
}

func TestCloudTrailGoesThroughWithoutLoss(t *testing.T) {
	const sec, audit = immutable.Security, immutable.Audit
	const ok, denied = event.OutcomeSuccess, event.OutcomeDenied
	stratus := func(name string) string { return "aws." + name + ".json" }
	wants := map[string][]want{
		stratus("initial-access.console-login-without-mfa"): {
			{1, "2024-08-02T08:53:24Z", "user.login", "stratus-red-team-nmfalu-jfzdtsvchl", "", "225.01.00.16", "", ok, sec, "service=signin"},
		},
		stratus("persistence.iam-create-admin-user"): {
			{1, "2024-08-01T13:33:28Z", "privilege.grant", "christophe", "malicious-iam-user", "075.050.255.67", "", ok, sec, "operation=AttachUserPolicy"},
			{2, "2024-08-01T13:33:28Z", "token.issue", "christophe", "malicious-iam-user", "075.050.255.67", "", ok, sec, "account=229654561268"},
			{3, "2024-08-01T13:33:28Z", "user.create", "christophe", "malicious-iam-user", "075.050.255.67", "", ok, sec, "service=iam"},
		},
		stratus("defense-evasion.cloudtrail-delete"): {
			{1, "2024-07-31T12:46:41Z", "configuration.change", "christophe", "stratus-red-team-cloudtraild-trail-kvrwohmiai", "08.1.250.216", "", ok, sec, "operation=DeleteTrail"},
		},
		stratus("exfiltration.ec2-share-ami"): {
			{1, "2024-08-01T12:25:57Z", "object.update", "christophe", "ami-de1fbCab6ccB03e6D", "253.19.58.252", "", ok, audit, ""},
		},
		stratus("credential-access.secretsmanager-retrieve-secrets"): {
			{1, "2024-07-31T12:36:52Z", "object.read", "christophe", "arn:aws:secretsmanager:cn-centraleast-1r:903144391865:secret:stratus-red-team-retrieve-secret-18-4Rzn83", "253.201.144.253", "", ok, audit, ""},
			{11, "2024-07-31T12:36:48Z", "object.list", "christophe", "", "253.201.144.253", "", ok, audit, "operation=ListSecrets"},
		},
		"218007301253_CloudTrail_us-east-1_20230710T1200Z_iLj9fb7yyUG9X4Bf.json": {
			{65, "2023-07-10T11:55:24Z", "privilege.use", "inspector2.amazonaws.com", "arn:aws:iam::123837392027:role/aws-service-role/inspector2.amazonaws.com/AWSServiceRoleForAmazonInspector2", "inspector2.amazonaws.com", "", ok, sec, ""},
			{72, "2023-07-10T11:55:23Z", "rpc.call", "ec2.amazonaws.com", "", "ec2.amazonaws.com", "", ok, audit, "operation=SharedSnapshotVolumeCreated"},
		},
	}
	checked, n, keys := 0, 0, map[string]bool{}
	for _, name := range append(data(t, "cloudtrail-invictus/*.json"), data(t, "cloudtrail-stratus/*.json")...) {
		p := parser(t, CloudTrail, when)
		var es []immutable.Event
		for _, v := range values(t, name) {
			es = p.Parse(es, v)
			e := &es[len(es)-1]
			kept(t, name, e, v)
			if e.Metadata[keyParseError] != nil || e.EventTime.IsZero() || e.IdempotencyKey == "" || keys[e.IdempotencyKey] {
				t.Fatalf("%s: %s\n%v, key %s", name, v, e.Metadata[keyParseError], e.IdempotencyKey)
			}
			keys[e.IdempotencyKey] = true
			n++
		}
		for _, w := range wants[filepath.Base(name)] {
			w.check(t, name, &es[w.line-1])
			checked++
		}
		if strings.HasSuffix(name, stratus("credential-access.ec2-get-password-data")) {
			s, err := event.Of(es[0].Metadata)
			if err != nil || s.Outcome != denied || s.Actor.Type != event.ActorService || s.Actor.Name != "stratus-red-team-ec2-get-password-data-role" || s.Actor.Session != "aws-go-sdk-1722375070115152000" ||
				s.Target.Name != "i-i2jnm5swa59p4fxg" || !strings.HasPrefix(s.Reason, "Client.UnauthorizedOperation: You are not authorized") || es[0].Level != sec {
				t.Errorf("a denied call: %+v, %+v, %+v, %v", s, s.Actor, s.Target, err)
			}
			checked++
		}
	}
	if n < 1000 || checked < 8 {
		t.Errorf("%d events, %d of them checked by hand", n, checked)
	}
}

func TestKubernetesAuditGoesThroughWithoutLoss(t *testing.T) {
	const sec, audit, ok = immutable.Security, immutable.Audit, event.OutcomeSuccess
	wants := map[string]want{
		"anonymous_creates_namespace_foo.json": {1, "2018-10-25T13:58:49Z", "object.create", "system:anonymous", "foo", "192.168.99.1", "", ok, audit, "verb=create"},
		"minikube_creates_namespace_foo.json":  {1, "2018-10-26T13:52:41Z", "object.create", "minikube-user", "foo", "192.168.99.1", "", ok, audit, "stage=ResponseComplete"},
		"exec_pod.json":                        {1, "2018-10-26T13:38:34Z", "object.execute", "minikube-user", "nginx-deployment-7998647bdf-phvq7", "192.168.99.1", "", ok, sec, "namespace=default"},
		"create_clusterrolebinding.json":       {1, "2018-10-26T13:25:18Z", "role.assign", "minikube-user", "some-reader-binding", "192.168.99.1", "", ok, sec, ""},
		"create_secret.json":                   {1, "2020-04-21T17:57:05Z", "object.create", "minikube-user", "example-secret", "192.168.64.1", "", ok, sec, ""},
		"delete_secret.json":                   {1, "2020-04-21T17:58:49Z", "object.delete", "minikube-user", "example-secret", "192.168.64.1", "", ok, sec, ""},
	}
	n, checked := 0, 0
	for _, name := range data(t, "k8s-audit-falco/*.json") {
		p := parser(t, K8sAudit, when)
		for _, v := range values(t, name) {
			es := p.Parse(nil, v)
			if len(es) != 1 {
				t.Fatalf("%s: %d events", name, len(es))
			}
			kept(t, name, &es[0], v)
			if es[0].Metadata[keyParseError] == nil {
				n++
			}
			if w, found := wants[filepath.Base(name)]; found {
				w.check(t, name, &es[0])
				checked++
			}
		}
	}
	if n < 25 || checked != len(wants) {
		t.Errorf("%d events were understood, %d of %d checked", n, checked, len(wants))
	}
}

// The samples of many products: those that a parser is for are read by it, all of them become entries that have the whole.
func TestSamplesOfManyProductsGoThroughWithoutLoss(t *testing.T) {
	read := map[string]int{}
	total := map[string]int{}
	for _, name := range data(t, "panther-events/*.jsonl") {
		product := strings.TrimSuffix(filepath.Base(name), ".jsonl")
		f := K8sAudit
		if product == "AWS.CloudTrail" {
			f = CloudTrail
		} else if product != "Amazon.EKS.Audit" && total["others"] > 300 {
			continue // one parser or the other: neither must lose what is not its own
		}
		p := parser(t, f, when)
		for _, v := range values(t, name) {
			var sample struct{ Event json.RawMessage }
			if err := json.Unmarshal(v, &sample); err != nil {
				t.Fatal(err)
			}
			es := p.Parse(nil, sample.Event)
			if len(es) != 1 {
				t.Fatalf("%s: %d events", name, len(es))
			}
			kept(t, name, &es[0], sample.Event)
			if product != "AWS.CloudTrail" && product != "Amazon.EKS.Audit" {
				product = "others"
			}
			total[product]++
			if es[0].Metadata[keyParseError] == nil {
				read[product]++
			}
		}
	}
	if read["AWS.CloudTrail"] < total["AWS.CloudTrail"]*9/10 || read["Amazon.EKS.Audit"] < total["Amazon.EKS.Audit"]*9/10 || total["others"] < 100 {
		t.Errorf("understood %v of %v", read, total)
	}
}

func TestEventListIsItsItems(t *testing.T) {
	p := parser(t, K8sAudit, when)
	list := `{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":[
		{"level":"Metadata","auditID":"a1","stage":"RequestReceived","requestURI":"/api/v1/pods","verb":"list","user":{"username":"system:serviceaccount:kube-system:x"},"sourceIPs":["10.0.0.1","10.0.0.2"],"stageTimestamp":"2026-01-02T03:04:05.123456Z"},
		{"level":"Metadata","auditID":"a1","stage":"ResponseComplete","requestURI":"/api/v1/pods","verb":"list","user":{"username":"system:serviceaccount:kube-system:x"},"responseStatus":{"code":403,"reason":"Forbidden","message":"no"},"stageTimestamp":"2026-01-02T03:04:05.2Z"},
		{"kind":0}, 7]}`
	es := p.Parse(nil, []byte(list))
	if len(es) != 4 {
		t.Fatalf("%d events of 4 items", len(es))
	}
	one, err := event.Of(es[0].Metadata)
	if err != nil || one.Outcome != event.OutcomeUnknown || one.Actor.Type != event.ActorService || one.Source.IP != "10.0.0.1" || one.Request.ID != "a1" {
		t.Errorf("%+v %+v %v", one, one.Actor, err)
	}
	two, err := event.Of(es[1].Metadata)
	if err != nil || two.Outcome != event.OutcomeDenied || two.Reason != "no" || es[1].Level != immutable.Security || es[0].IdempotencyKey == es[1].IdempotencyKey {
		t.Errorf("%+v, keys %s and %s, %v", two, es[0].IdempotencyKey, es[1].IdempotencyKey, err)
	}
	for i, raw := range []string{`{"kind":0}`, `7`} {
		if e := es[2+i]; e.Metadata[keyParseError] == nil || string(rawOf(t, &e)) != raw {
			t.Errorf("item %d: %v", 2+i, e.Metadata)
		}
	}
	if again := p.Parse(nil, []byte(list)); again[0].IdempotencyKey != es[0].IdempotencyKey {
		t.Error("what is sent again has another key")
	}
	changed := p.Parse(nil, []byte(strings.Replace(list, "10.0.0.1", "10.0.0.3", 1)))
	if changed[0].IdempotencyKey == es[0].IdempotencyKey {
		t.Error("something else under the same auditID has the same key, and would be lost")
	}
}

// JSON that the log cannot hold as an object stays as the text that it is.
func TestJSONThatIsNoMetadataStaysAsText(t *testing.T) {
	for _, raw := range []string{
		`{"eventName":"x","eventSource":"y","a":1,"a":2}`,
		`{"eventName":"x","eventSource":"y","deep":` + strings.Repeat("[", 300) + strings.Repeat("]", 300) + `}`,
		`{"eventName":"x","eventSource":"y","s":"\ud800"}`,
	} {
		es := parser(t, CloudTrail, when).Parse(nil, []byte(raw))
		if es[0].Metadata["operation"] != "x" || es[0].Metadata[event.KeyRaw] != raw || es[0].Metadata[keyRecord] != nil {
			t.Errorf("%.80s: %.200v", raw, es[0].Metadata)
		}
	}
	long := `{"eventName":"x","eventSource":"y","s":"` + strings.Repeat("z", immutable.MaxEntryBytes) + `"}`
	es := parser(t, CloudTrail, when).Parse(nil, []byte(long))
	if es[0].Metadata["operation"] != "x" || es[0].Metadata[event.KeyRawBytes] != len(long) {
		t.Errorf("a record that is longer than an entry: %.200v", es[0].Metadata)
	}
	if _, err := entry.Append(nil, &es[0]); err != nil {
		t.Error(err)
	}
}
