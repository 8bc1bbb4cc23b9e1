package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable/internal/hooks"
	"github.com/tree-of-life-system/immutable/internal/source"
)

// payloads are the bodies of the shared data that Stripe, Linear and Notion send, by delivery id.
func payloads(t *testing.T, kind string) map[string][]byte {
	t.Helper()
	root := filepath.Join("..", "..", "..", "shared", "data")
	if _, err := os.Stat(root); err != nil {
		t.Skip("no shared data here: ", err)
	}
	read := func(name string, into any) []byte {
		data, err := os.ReadFile(name)
		if err == nil && into != nil {
			err = json.Unmarshal(data, into)
		}
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	out := map[string][]byte{}
	switch kind {
	case hooks.Stripe:
		var s struct{ Resources map[string]json.RawMessage }
		read(filepath.Join(root, "stripe-fixtures", "fixtures3.json"), &s)
		for name, resource := range s.Resources {
			out[name] = fmt.Appendf(nil, `{"id":"evt_%s","object":"event","type":"%s.updated","livemode":false,"pending_webhooks":1,"data":{"object":%s}}`, name, name, resource)
		}
	case hooks.Linear:
		files, _ := filepath.Glob(filepath.Join(root, "linear-webhooks", "*.json"))
		for i, f := range files {
			var m map[string]json.RawMessage
			read(f, &m)
			m["webhookTimestamp"] = fmt.Append(nil, time.Now().UnixMilli()) // captured long ago
			out[fmt.Sprint("delivery-", i)], _ = json.Marshal(m)
		}
	case hooks.Notion:
		i := 0
		for line := range bytes.Lines(read(filepath.Join(root, "notion-webhooks", "events.jsonl"), nil)) {
			out[fmt.Sprint("delivery-", i)] = bytes.TrimSuffix(line, []byte("\n"))
			i++
		}
	}
	if len(out) < 5 {
		t.Fatalf("only %d payloads of %s", len(out), kind)
	}
	return out
}

// What GitHub sends is in TestDeliveriesAreInTheLogWhenTheyAreAnswered.
func TestEveryPayloadIsTakenSignedAndRefusedWithAByteChangedOverHTTP(t *testing.T) {
	h := serveHooks(t, t.TempDir(), time.Now)
	want := map[string]int{}
	for kind, secret := range map[string]string{hooks.Stripe: "whsec_of_the_tests_0123456789", hooks.Linear: "lin_wh_of_the_tests_0123456789", hooks.Notion: "secret_of_the_tests_0123456789"} {
		s := h.source(fmt.Sprintf(`{"kind":%q,"log":"main","secret":%q}`, kind, secret))
		work := make(chan string)
		all := payloads(t, kind)
		want[kind] = len(all)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for id := range work {
					body := all[id]
					signed, err := hooks.Sign(kind, nil, []byte(secret), body, id, time.Now())
					if err != nil {
						t.Errorf("%s %s: %v", kind, id, err)
						continue
					}
					pairs := []string{"Content-Type", "application/json"}
					for name := range signed {
						pairs = append(pairs, name, signed.Get(name))
					}
					for _, at := range []int{0, len(body) / 2, len(body) - 1} {
						changed := bytes.Clone(body)
						changed[at] ^= 1
						if a := h.do("POST", s.Path, "", bytes.NewReader(changed), pairs...); a.status != http.StatusUnauthorized {
							t.Errorf("%s %s with byte %d changed: status %d: %s", kind, id, at, a.status, a.body)
						}
					}
					if a := h.do("POST", s.Path, "", bytes.NewReader(body), pairs...); a.status != http.StatusOK {
						t.Errorf("%s %s: status %d: %s", kind, id, a.status, a.body)
					}
				}
			})
		}
		for id := range all {
			work <- id
		}
		close(work)
		wg.Wait()
	}
	var list struct{ Traffic []source.Traffic }
	h.get(sources).want(t, http.StatusOK, &list)
	for _, tr := range list.Traffic {
		if n := uint64(want[tr.Kind]); tr.Accepted != n || tr.Rejected["signature"] != 3*n {
			t.Errorf("counted %+v of %s, want %d and %d", tr, tr.Kind, n, 3*n)
		}
		delete(want, tr.Kind)
	}
	if len(want) > 0 {
		t.Errorf("nothing was counted of %v", want)
	}
}
