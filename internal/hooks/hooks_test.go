package hooks

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/event"
)

var now = time.Unix(1_700_000_000, 0)

func reason(err error) string {
	if r, ok := errors.AsType[*Refused](err); ok {
		return r.Reason
	}
	return fmt.Sprint(err)
}

func header(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

// The vectors are of the providers' documentation, and of an implementation that is not ours.
func TestVectorsOfTheProviders(t *testing.T) {
	for _, v := range []struct{ kind, secret, body, header, signature string }{
		{GitHub, "It's a Secret to Everybody", "Hello, World!", "X-Hub-Signature-256", "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"},
		{Stripe, "whsec_test_secret", `{"id":"evt_1","type":"invoice.paid"}`, "Stripe-Signature", "t=1700000000,v1=46dc069361a7691082640523fa33fe5d6c8c88d5f5e257cdf8cf11539d166595"},
		{Linear, "lin_wh_test", `{"action":"create","type":"Issue","webhookTimestamp":1700000000000}`, "Linear-Signature", "0e30fc8cd283b78c118cae3e3685e9eb3595a5f7146ae4b53f8f6b042364e895"},
		{Notion, "secret_test_token", `{"id":"367cba44-b6f3-4c92-81e7-6a2e9659efd4","type":"page.created"}`, "X-Notion-Signature", "sha256=89355221f632dca77923273707fd90ee4932e020e8f4165fc116052e10c1eecb"},
		{Standard, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", `{"test": 2432232314}`, "Webhook-Signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="},
	} {
		h, at := header(v.header, v.signature), now
		if v.kind == Standard {
			at = time.Unix(1614265330, 0)
			h = header(v.header, v.signature, "Webhook-Id", "msg_p5jXN8AQM9LWM0D4loKWxJek", "Webhook-Timestamp", "1614265330")
		}
		if _, err := Verify(v.kind, nil, h, []byte(v.body), [][]byte{[]byte(v.secret)}, at); err != nil {
			t.Errorf("%s: %v", v.kind, err)
		}
		if _, err := Verify(v.kind, nil, h, []byte(v.body), [][]byte{[]byte(v.secret + "x")}, at); reason(err) != ReasonSignature {
			t.Errorf("%s with another secret: %v", v.kind, err)
		}
	}
}

// sample is a body of the shared data, with what its provider sends beside it.
type sample struct {
	kind, name string
	body       []byte
	event      string // of GitHub
}

// samples are all payloads of the four data sets.
func samples(t testing.TB) []sample {
	t.Helper()
	root := filepath.Join("..", "..", "..", "shared", "data")
	if _, err := os.Stat(root); err != nil {
		t.Skip("no shared data here: ", err)
	}
	read := func(name string) []byte {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	var out []sample
	files, err := filepath.Glob(filepath.Join(root, "github-webhooks", "*", "*.json"))
	if err != nil || len(files) < 100 {
		t.Fatalf("%d files of GitHub, %v", len(files), err)
	}
	for _, f := range files {
		out = append(out, sample{GitHub, f, read(f), filepath.Base(filepath.Dir(f))})
	}
	files, _ = filepath.Glob(filepath.Join(root, "linear-webhooks", "*.json"))
	for _, f := range files {
		var m map[string]json.RawMessage
		if err := json.Unmarshal(read(f), &m); err != nil {
			t.Fatal(err)
		}
		m["webhookTimestamp"] = json.RawMessage(fmt.Sprint(now.UnixMilli())) // captured before Linear sent it, or long ago
		body, _ := json.Marshal(m)
		out = append(out, sample{Linear, f, body, ""})
	}
	for line := range bytes.Lines(read(filepath.Join(root, "notion-webhooks", "events.jsonl"))) {
		out = append(out, sample{Notion, fmt.Sprintf("notion %.60s", line), bytes.TrimSuffix(line, []byte("\n")), ""})
	}
	var stripe struct {
		Resources map[string]json.RawMessage
	}
	if err := json.Unmarshal(read(filepath.Join(root, "stripe-fixtures", "fixtures3.json")), &stripe); err != nil {
		t.Fatal(err)
	}
	for name, resource := range stripe.Resources {
		if name == "event" {
			out = append(out, sample{Stripe, name, resource, ""})
			continue
		}
		body := fmt.Sprintf(`{"id":"evt_%s","object":"event","type":"%s.updated","livemode":false,"pending_webhooks":1,"data":{"object":%s}}`, name, name, resource)
		out = append(out, sample{Stripe, name, []byte(body), ""})
	}
	if len(out) < 250 {
		t.Fatalf("only %d samples", len(out))
	}
	return out
}

func signedSample(t testing.TB, s sample, secret []byte) http.Header {
	h, err := Sign(s.kind, nil, secret, s.body, "72d3162e-cc78-11e3-81ab-4c9367dc0958", now)
	if err != nil {
		t.Fatal(err)
	}
	if s.kind == GitHub {
		h.Set("X-GitHub-Event", s.event)
	}
	return h
}

func TestEveryPayloadIsTakenSignedAndRefusedWithOneByteChanged(t *testing.T) {
	secret := []byte("a secret of the tests")
	for _, s := range samples(t) {
		h := signedSample(t, s, secret)
		if used, err := Verify(s.kind, nil, h, s.body, [][]byte{[]byte("the next one"), secret}, now); err != nil || used != 1 {
			t.Fatalf("%s %s: %d, %v", s.kind, s.name, used, err)
		}
		d, err := Read(s.kind, nil, h, s.body)
		if err != nil {
			t.Fatalf("%s %s: %v", s.kind, s.name, err)
		}
		if d.ID == "" || d.Name == "" || d.Event.Message == "" || len(d.Event.Message) > maxMessage || d.Event.Metadata["action"] == nil {
			t.Errorf("%s %s: %+v", s.kind, s.name, d)
		}
		if _, err := event.Keep(&d.Event, s.body); err != nil {
			t.Errorf("%s %s: %v", s.kind, s.name, err)
		}
		for _, at := range []int{0, len(s.body) / 2, len(s.body) - 1} {
			changed := bytes.Clone(s.body)
			changed[at] ^= 1
			if _, err := Verify(s.kind, nil, h, changed, [][]byte{secret}, now); reason(err) != ReasonSignature {
				t.Fatalf("%s %s with byte %d changed: %v", s.kind, s.name, at, err)
			}
		}
	}
}

func TestStaleAndFutureAreRefusedBothWays(t *testing.T) {
	secret := [][]byte{[]byte("a secret of the tests")}
	scheme := &Scheme{Header: "X-Sig", Timestamp: "X-Time", Tolerance: 20}
	for _, c := range []struct {
		kind   string
		scheme *Scheme
		secret []byte
		within time.Duration
	}{{Stripe, nil, secret[0], stripeTolerance}, {Linear, nil, secret[0], linearTolerance}, {Standard, nil, []byte("whsec_c2VjcmV0"), standardTolerance}, {HMAC, scheme, secret[0], 20 * time.Second}} {
		body := fmt.Appendf(nil, `{"id":"1","type":"x","webhookTimestamp":%d}`, now.UnixMilli())
		h, err := Sign(c.kind, c.scheme, c.secret, body, "id", now)
		if err != nil {
			t.Fatal(err)
		}
		for off, want := range map[time.Duration]string{c.within: "<nil>", -c.within: "<nil>", c.within + time.Second: ReasonStale, -c.within - time.Second: ReasonFuture} {
			if _, err := Verify(c.kind, c.scheme, h, body, [][]byte{c.secret}, now.Add(off)); reason(err) != want {
				t.Errorf("%s %s later: %v, want %s", c.kind, off, err, want)
			}
		}
	}
	for _, body := range []string{`{"type":"Issue"}`, `{"webhookTimestamp":null}`, `{"webhookTimestamp":-1}`} {
		h, _ := Sign(Linear, nil, secret[0], []byte(body), "id", now)
		if _, err := Verify(Linear, nil, h, []byte(body), secret, now); reason(err) != ReasonStale {
			t.Errorf("Linear %s: %v", body, err)
		}
	}
	for _, at := range []string{"01700000000", "+1700000000", "1700000000 ", "", "x"} { // another spelling is another signed text
		mac := hmac.New(sha256.New, secret[0])
		mac.Write([]byte(at + "."))
		h := header("Stripe-Signature", "t="+at+",v1="+hex.EncodeToString(mac.Sum(nil)))
		if _, err := Verify(Stripe, nil, h, nil, secret, now); reason(err) != ReasonSignature {
			t.Errorf("Stripe with t=%q: %v", at, err)
		}
	}
}

func TestMalformedSignaturesAreRefused(t *testing.T) {
	good, _ := Sign(GitHub, nil, []byte("s"), []byte("{}"), "1", now)
	sig := good.Get("X-Hub-Signature-256")
	for name, h := range map[string]http.Header{
		"none": {}, "twice": header("X-Hub-Signature-256", sig, "X-Hub-Signature-256", sig), "no prefix": header("X-Hub-Signature-256", sig[7:]),
		"short": header("X-Hub-Signature-256", sig[:20]), "sha1": header("X-Hub-Signature", "sha1=00"), "not hex": header("X-Hub-Signature-256", "sha256="+strings.Repeat("zz", 32)),
		"long": header("X-Hub-Signature-256", sig+strings.Repeat("0", maxSignature)),
	} {
		if _, err := Verify(GitHub, nil, h, []byte("{}"), [][]byte{[]byte("s")}, now); reason(err) != ReasonSignature {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Verify(GitHub, nil, good, []byte("{}"), nil, now); reason(err) != ReasonSignature {
		t.Errorf("without a secret: %v", err)
	}
	byStripe, _ := Sign(Stripe, nil, []byte("s"), nil, "", now)
	at, mac, _ := strings.Cut(byStripe.Get("Stripe-Signature"), ",")
	for others, want := range map[int]string{maxSignatures - 1: "<nil>", maxSignatures: ReasonSignature} {
		many := at + strings.Repeat(",v1="+strings.Repeat("00", 32), others) + "," + mac
		if _, err := Verify(Stripe, nil, header("Stripe-Signature", many), nil, [][]byte{[]byte("s")}, now); reason(err) != want {
			t.Errorf("behind %d signatures: %v, want %s", others, err, want)
		}
	}
}

func TestMappingShowsWhatTheSketchAsksFor(t *testing.T) {
	type want struct {
		level   immutable.Level
		message string
		fields  map[string]any
	}
	for name, c := range map[string]struct {
		s    sample
		want want
	}{
		"commit": {
			sample{GitHub, "", []byte(`{"ref":"refs/heads/main","after":"abc","repository":{"id":1,"full_name":"o/r"},"sender":{"login":"ann","id":7,"type":"User"},"commits":[{"id":"abc","message":"m","author":{"name":"Ann","username":"ann"}}],"head_commit":{"id":"abc","message":"m","author":{"name":"Ann","username":"ann"}}}`), "push"},
			want{immutable.Audit, "GitHub commit created", map[string]any{"repo": "o/r", "sha": "abc", "author": "ann", "message": "m"}},
		},
		"secret scanning": {
			sample{GitHub, "", []byte(`{"action":"created","alert":{"number":4,"secret_type":"aws"},"repository":{"full_name":"o/r"}}`), "secret_scanning_alert"},
			want{immutable.Security, "GitHub secret scanning alert created", map[string]any{"repo": "o/r", "kind": "security"}},
		},
		"watch": {sample{GitHub, "", []byte(`{"action":"started"}`), "watch"}, want{immutable.Audit, "GitHub watch started", nil}},
		"issue": {
			sample{Linear, "", []byte(`{"action":"update","type":"Issue","data":{"id":"i1","title":"t","number":3,"team":{"key":"KOR"},"assignee":{"name":"bob"},"state":{"name":"Todo"}},"updatedFrom":{"stateId":"x","cycleId":null}}`), ""},
			want{immutable.Audit, "Linear issue updated", map[string]any{"issueId": "i1", "title": "t", "assignee": "bob", "status": "Todo", "identifier": "KOR-3", "changes": []any{"cycleId", "stateId"}}},
		},
		"page": {
			sample{Notion, "", []byte(`{"id":"1","type":"page.properties_updated","workspace_id":"w","workspace_name":"Labs","entity":{"id":"p1","type":"page"},"data":{"updated_properties":["a","b"]}}`), ""},
			want{immutable.Audit, "Notion page properties updated", map[string]any{"pageId": "p1", "workspace": "Labs", "changes": []any{"a", "b"}}},
		},
		"charge": {
			sample{Stripe, "", []byte(`{"id":"evt_1","type":"charge.succeeded","data":{"object":{"id":"ch_1","object":"charge","amount":9007199254740993,"currency":"usd","customer":"cus_1"}}}`), ""},
			want{immutable.Revenue, "Stripe charge succeeded", map[string]any{"stripeId": "ch_1", "amount": json.Number("9007199254740993"), "currency": "usd", "customerId": "cus_1"}},
		},
		"subscription": {
			sample{Stripe, "", []byte(`{"id":"evt_2","type":"customer.subscription.created","data":{"object":{"id":"sub_1","object":"subscription","currency":"eur","customer":{"id":"cus_2"},"items":{"data":[{"price":{"id":"price_9","unit_amount":1500}}]}}}}`), ""},
			want{immutable.Audit, "Stripe customer subscription created", map[string]any{"stripeId": "sub_1", "amount": json.Number("1500"), "plan": "price_9", "customerId": "cus_2"}},
		},
		"dispute": {sample{Stripe, "", []byte(`{"id":"evt_3","type":"charge.dispute.created"}`), ""}, want{immutable.Revenue, "Stripe charge dispute created", nil}},
		"fraud":   {sample{Stripe, "", []byte(`{"id":"evt_4","type":"radar.early_fraud_warning.created"}`), ""}, want{immutable.Security, "Stripe radar early fraud warning created", nil}},
	} {
		d, err := Read(c.s.kind, nil, signedSample(t, c.s, []byte("x")), c.s.body)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if d.Event.Level != c.want.level || d.Event.Message != c.want.message {
			t.Errorf("%s: got %s %q, want %s %q", name, d.Event.Level, d.Event.Message, c.want.level, c.want.message)
		}
		for k, v := range c.want.fields {
			if got := d.Event.Metadata[k]; !reflect.DeepEqual(got, v) {
				t.Errorf("%s: %s is %#v, want %#v", name, k, got, v)
			}
		}
	}
}

func TestMembersOfAnotherTypeLoseAFieldAndNotADelivery(t *testing.T) {
	for kind, body := range map[string]string{
		GitHub: `{"action":7,"sender":"x","repository":[1],"commits":{"a":1},"head_commit":"y","issue":3,"alert":null,"member":[]}`,
		Stripe: `{"id":"evt","type":"charge.x","data":[],"request":"req","livemode":"no"}`,
		Linear: `{"action":null,"type":{},"data":"x","updatedFrom":5,"actor":[[]]}`,
		Notion: `{"id":"1","type":"page.created","authors":{},"entity":"x","data":{"updated_properties":[1,{}],"updated_blocks":{}}}`,
	} {
		if d, err := Read(kind, nil, http.Header{}, []byte(body)); err != nil || d.ID == "" {
			t.Errorf("%s: %v", kind, err)
		}
	}
	for _, body := range []string{"", "[]", "null", `"x"`, "{", "{}{}", "Hello, World!"} {
		for _, kind := range []string{GitHub, Stripe, Linear, Notion} {
			if _, err := Read(kind, nil, http.Header{}, []byte(body)); reason(err) != ReasonMalformed {
				t.Errorf("%s %q: %v", kind, body, err)
			}
		}
		if _, err := Read(HMAC, &Scheme{Header: "X"}, http.Header{}, []byte(body)); err != nil {
			t.Errorf("hmac %q: %v", body, err)
		}
	}
}

func TestFormsOfGitHubAreRead(t *testing.T) {
	h := header("Content-Type", "application/x-www-form-urlencoded", "X-GitHub-Event", "watch")
	d, err := Read(GitHub, nil, h, []byte("payload=%7B%22action%22%3A%22started%22%7D"))
	if err != nil || d.Name != "watch.started" {
		t.Errorf("got %+v, %v", d, err)
	}
	if _, err := Read(GitHub, nil, h, []byte("payload=1&payload=2")); reason(err) != ReasonMalformed {
		t.Errorf("two payloads: %v", err)
	}
}

func TestAttemptsAtOneDeliveryAreTheSame(t *testing.T) {
	for _, c := range []struct {
		kind, a, b string
		want       bool
	}{
		{Notion, `{"id":"1","attempt_number":1}`, `{"attempt_number":2, "id":"1"}`, true},
		{Notion, `{"id":"1","attempt_number":1}`, `{"id":"2","attempt_number":1}`, false},
		{Linear, `{"a":1,"webhookTimestamp":1}`, `{"a":1,"webhookTimestamp":2}`, true},
		{Stripe, `{"a":1,"pending_webhooks":1}`, `{"a":1,"pending_webhooks":0}`, true},
		{GitHub, `{"a":1,"attempt_number":1}`, `{"a":1,"attempt_number":2}`, false},
		{GitHub, `{"a": 1.0}`, `{"a":1.0}`, true},
		{GitHub, `{"a":1}`, `{"a":1}x`, false},
		{HMAC, `x`, `y`, false},
		{HMAC, `x`, `x`, true},
	} {
		if got := Same(c.kind, []byte(c.a), []byte(c.b)); got != c.want {
			t.Errorf("%s %s, %s: %t", c.kind, c.a, c.b, got)
		}
	}
}

func TestNotionTokensAreToldFromEverythingElse(t *testing.T) {
	const good = `{"verification_token": "secret_tMrlL1qK5vuQAh1b6cZGhFChZTSYJlce98V0pYn7yBl"}`
	if got := NotionToken(http.Header{}, []byte(good)); got != "secret_tMrlL1qK5vuQAh1b6cZGhFChZTSYJlce98V0pYn7yBl" {
		t.Errorf("got %q", got)
	}
	if NotionToken(header("X-Notion-Signature", "x"), []byte(good)) != "" {
		t.Error("a signed request brought a token")
	}
	for _, bad := range []string{"", "{}", `{"verification_token":""}`, `{"verification_token":"short"}`, `{"verification_token":"secret_aaaaaaaaaaaaaaaa","id":1}`, `{"verification_token":"secret aaaaaaaaaaaaaaaaaaaa"}`, `{"verification_token":7}`} {
		if NotionToken(http.Header{}, []byte(bad)) != "" {
			t.Errorf("%s is a token", bad)
		}
	}
}

func TestSchemesAreChecked(t *testing.T) {
	for _, bad := range []Scheme{{}, {Header: "a b"}, {Header: "X", Encoding: "base32"}, {Header: "X", Prefix: "é"}, {Header: "X", Tolerance: 60}, {Header: "X", Timestamp: "T", Tolerance: 5}, {Header: "X", Level: "LOUD"}, {Header: "X", Delivery: "a:b"}, {Header: strings.Repeat("a", maxHeaderName+1)}} {
		if bad.Check() == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
	s := Scheme{Header: "X-Sig", Encoding: "base64", Prefix: "v0=", Timestamp: "X-T", Tolerance: 60, Delivery: "X-Id", Event: "X-Event", Level: "security"}
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
	h, err := Sign(HMAC, &s, []byte("key"), []byte("text"), "d-1", now)
	if err != nil {
		t.Fatal(err)
	}
	h.Set("X-Event", "door.opened")
	if _, err := Verify(HMAC, &s, h, []byte("text"), [][]byte{[]byte("key")}, now); err != nil {
		t.Fatal(err)
	}
	d, err := Read(HMAC, &s, h, []byte("text"))
	if err != nil || d.ID != "d-1" || d.Name != "door.opened" || d.Event.Level != immutable.Security {
		t.Errorf("got %+v, %v", d, err)
	}
}

func TestLargeBodiesAreSplitIntoPartsThatFit(t *testing.T) {
	for _, unit := range []string{"a", "é", "\"\\", "\x00", "\xff\xfe", "日本", "{\"k\":\"v\"}\n"} {
		body := []byte(strings.Repeat(unit, 300_000/len(unit)))
		parts := Split(body)
		for i, p := range parts {
			if f := (immutable.Fields{}); !event.Raw(f, p, 0) || len(p) == 0 {
				t.Fatalf("%q: part %d of %d bytes has no place", unit, i, len(p))
			}
			if utf8.Valid(body) && !utf8.Valid(p) {
				t.Fatalf("%q: part %d is cut within a character", unit, i)
			}
		}
		if !bytes.Equal(slices.Concat(parts...), body) {
			t.Fatalf("%q: the parts are not the body", unit)
		}
	}
}

func FuzzWebhooksAreReadOrRefused(f *testing.F) {
	f.Add("push", []byte(`{"action":"x","commits":[{"id":"1"}]}`))
	f.Add("", []byte(`{"id":"1","type":"charge.x","data":{"object":{"amount":1}}}`))
	f.Fuzz(func(t *testing.T, name string, body []byte) {
		for _, kind := range Kinds() {
			h := header("X-GitHub-Event", name, "Linear-Event", name, "X-Sig", name)
			_, _ = Verify(kind, &Scheme{Header: "X-Sig"}, h, body, [][]byte{[]byte("k")}, now)
			d, err := Read(kind, &Scheme{Header: "X-Sig"}, h, body)
			if err != nil {
				if reason(err) != ReasonMalformed {
					t.Fatalf("%s: %v", kind, err)
				}
				continue
			}
			if _, err := event.Keep(&d.Event, body); err != nil {
				d.Reduce()
				if _, err := event.Keep(&d.Event, body); err != nil {
					t.Fatalf("%s: %v", kind, err)
				}
			}
		}
		_ = NotionToken(http.Header{}, body)
	})
}
