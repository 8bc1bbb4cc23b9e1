package sink

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/export"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

func TestEveryEntryReachesAWebhookInOrder(t *testing.T) {
	t.Parallel()
	b := newBench(t, t.TempDir(), nil)
	b.add(1200)
	for _, f := range []Format{JSON, OCSF, ECS} {
		r := newReceiver(t, func(n int, _ []byte, _ http.ResponseWriter) int {
			switch n {
			case 2, 5:
				return http.StatusServiceUnavailable
			case 3:
				return http.StatusUnauthorized
			}
			return 0
		})
		name := "hook-" + string(f)
		b.create(Sink{Name: name, Type: Webhook, Format: f, URL: r.URL + "/in", Secrets: []string{secretA, secretB}})
		b.add(10)
		b.caughtUp(name)
		if rep := b.whole(r.copied(t)); rep.Repeated != 0 {
			t.Errorf("%s: %d came twice, though nothing was lost", f, rep.Repeated)
		}
		sorted(t, r.indexes(t), b.l.Size())
		if st := b.status(name); st.State != Active || st.Failures < 2 || st.Error != "" || st.Tries != 0 {
			t.Errorf("%+v", st)
		}
	}
}

// The receiver knows a batch that it has taken, and whose answer was lost, by its id.
func TestABatchKeepsItsIDWhileItIsTried(t *testing.T) {
	t.Parallel()
	b := newBench(t, t.TempDir(), nil)
	var first string
	var same, tries int
	r := newReceiver(t, nil)
	r.answer = func(_ int, body []byte, w http.ResponseWriter) int {
		if tries++; tries <= 3 {
			if tries == 1 {
				first = string(body)
				b.add(1)
			} else if string(body) == first {
				same++
			}
			return http.StatusBadGateway
		}
		return 0
	}
	b.add(3)
	b.create(Sink{Name: "hook", Type: Webhook, URL: r.URL})
	b.caughtUp("hook")
	if same != 2 {
		t.Errorf("%d of 2 tries were of the same message", same)
	}
	if len(r.ids) < 2 || r.ids[0] == r.ids[1] {
		t.Errorf("two messages have the ids %q", r.ids)
	}
}

func TestAnEntryThatIsRefusedBecomesADeadLetterAndTheOthersGoOn(t *testing.T) {
	t.Parallel()
	b := newBench(t, t.TempDir(), nil)
	poison := []byte(`"message":"event 77"`)
	refuse := true
	r := newReceiver(t, nil)
	r.answer = func(_ int, body []byte, _ http.ResponseWriter) int {
		if refuse && bytes.Contains(body, poison) {
			return http.StatusUnprocessableEntity
		}
		return 0
	}
	b.add(300)
	b.create(Sink{Name: "hook", Type: Webhook, URL: r.URL, Secrets: []string{secretA, secretB}})
	st := b.caughtUp("hook")
	letters, err := b.m.DeadLetters(b.admin, "default", "hook")
	if err != nil || len(letters) != 1 || letters[0].Tries != maxRefusals || !strings.Contains(letters[0].Reason, "422") || st.DeadLetters != 1 {
		t.Fatalf("%+v, %v", letters, err)
	}
	rep := b.compare(r.copied(t), export.CopyOptions{All: true})
	index := letters[0].Index
	if len(rep.Missing) != 1 || rep.Missing[0] != (export.Range{From: index, To: index}) || len(rep.Changed) != 0 {
		t.Errorf("%+v", rep)
	}
	if n := b.recorded(tenant.SinkRefused); n != 1 {
		t.Errorf("recorded %d times", n)
	}
	if n := b.lastNotice(t); !n.Wrong || n.Dead != 1 {
		t.Errorf("%+v", n)
	}
	// Tried again while it is still refused, and after.
	if n, err := b.m.Retry(t.Context(), b.admin, "default", "hook", nil); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	b.until("hook", "the second refusal", func(Status) bool {
		l, err := b.m.DeadLetters(b.admin, "default", "hook")
		return err == nil && len(l) == 1 && !l[0].Retry && l[0].Tries > maxRefusals
	})
	r.mu.Lock()
	refuse = false
	r.mu.Unlock()
	if _, err := b.m.Retry(t.Context(), b.admin, "default", "hook", []uint64{index}); err != nil {
		t.Fatal(err)
	}
	b.until("hook", "the letter's delivery", func(st Status) bool { return st.DeadLetters == 0 })
	b.whole(r.copied(t))
	b.until("hook", "the end of the alert", func(Status) bool { return !b.lastNotice(t).Wrong })
}

func (b *bench) lastNotice(t *testing.T) Notice {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.notices) == 0 {
		return Notice{}
	}
	return b.notices[len(b.notices)-1]
}

// A receiver that refuses everything must not make the whole log dead letters: at the limit the sink waits for somebody.
func TestDeadLettersHaveALimit(t *testing.T) {
	t.Parallel()
	b := newBench(t, t.TempDir(), nil)
	r := newReceiver(t, func(int, []byte, http.ResponseWriter) int { return http.StatusBadRequest })
	b.add(3)
	v := b.create(Sink{Name: "hook", Type: Webhook, URL: r.URL, Paused: true})
	if v.Status.State != Paused {
		t.Errorf("%+v", v.Status)
	}
	w := b.m.worker(key{"default", "hook"})
	w.pos.Dead = make([]DeadLetter, maxDead-1)
	w.dirty = true
	w.keep(true)
	if _, err := b.m.Resume(t.Context(), b.admin, "default", "hook"); err != nil {
		t.Fatal(err)
	}
	st := b.until("hook", "the limit", func(st Status) bool { return st.State == Stalled })
	if st.DeadLetters != maxDead || st.Next != 1 || !strings.Contains(st.Error, "dead letters") {
		t.Errorf("%+v", st)
	}
	if n, err := b.m.Drop(t.Context(), b.admin, "default", "hook", nil); n != maxDead || err != nil {
		t.Errorf("dropped %d: %v", n, err)
	}
	b.until("hook", "room", func(st Status) bool { return st.DeadLetters == int(b.l.Size())-1 && st.Lag == 0 })
	if _, err := b.m.Retry(t.Context(), b.admin, "default", "hook", make([]uint64, maxDead+1)); !errors.Is(err, ErrSettings) {
		t.Errorf("too many indexes: %v", err)
	}
}

// A receiver that is wrong about us, and not about an entry, gets everything later.
func TestNothingIsDeadWhenTheReceiverRefusesUs(t *testing.T) {
	t.Parallel()
	b := newBench(t, t.TempDir(), nil)
	for _, code := range []int{401, 403, 404, 405, 410, 302, 429, 500} {
		down := true
		r := newReceiver(t, nil)
		r.answer = func(_ int, _ []byte, w http.ResponseWriter) int {
			if down {
				w.Header().Set("Location", "http://127.0.0.1:1/")
				return code
			}
			return 0
		}
		b.add(2)
		name := fmt.Sprint("hook-", code)
		b.create(Sink{Name: name, Type: Webhook, URL: r.URL, Secrets: []string{secretA, secretB}})
		st := b.until(name, "failures", func(st Status) bool { return st.Tries > 5 })
		if st.State != Failing || st.DeadLetters != 0 || st.Next != 0 || st.Lag == 0 || st.Since.IsZero() {
			t.Errorf("%d: %+v", code, st)
		}
		b.until(name, "the notice", func(Status) bool { n := b.lastNotice(t); return n.Wrong && n.Sink == name })
		r.mu.Lock()
		down = false
		r.mu.Unlock()
		b.caughtUp(name)
		b.whole(r.copied(t))
		b.until(name, "the end of the notice", func(Status) bool { return !b.lastNotice(t).Wrong })
	}
	if f, ok := b.recorded(tenant.SinkFailed), b.recorded(tenant.SinkRecovered); f != 8 || ok != 8 {
		t.Errorf("%d failures and %d recoveries are recorded", f, ok)
	}
}

func TestSyslogGetsEveryEntryOverTLS(t *testing.T) {
	t.Parallel()
	b := newBench(t, t.TempDir(), nil)
	cert, pem, _ := certificate(t)
	s := newSyslogServer(t, cert)
	s.cut = func(n int) bool { return n == 100 || n == 700 }
	b.add(600)
	b.create(Sink{Name: "siem", Type: Syslog, Address: s.Addr().String(), CA: pem})
	b.caughtUp("siem")
	b.add(500) // after the connection was cut
	b.caughtUp("siem")
	b.until("siem", "what was on its way", func(Status) bool {
		r := b.compare(joined(s.all()), export.CopyOptions{All: true})
		return r.Agrees()
	})
	form := regexp.MustCompile(`^<\d{1,3}>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z host\.example immutable \d+ [A-Z]+ \[immutable@32473 origin="log\.example/sinks/default/main" index="(\d+)" leaf="[0-9a-f]{64}" size="\d+"\] \{.*\}$`)
	for _, m := range s.all() {
		if !form.Match(m) {
			t.Fatalf("%s", m)
		}
	}
	// Without the authority nothing is sent.
	b.create(Sink{Name: "stranger", Type: Syslog, Address: s.Addr().String()})
	st := b.until("stranger", "failures", func(st Status) bool { return st.Tries > 3 })
	if !strings.Contains(st.Error, "certificate") {
		t.Errorf("%+v", st)
	}
}

// What the receiver's system took, and the receiver did not read before it died, is sent again.
func TestSyslogSendsAgainWhatMayBeLost(t *testing.T) {
	t.Parallel()
	b := newBench(t, t.TempDir(), nil)
	s := newSyslogServer(t, nil)
	s.mu.Lock()
	s.deaf = true
	s.mu.Unlock()
	b.add(40)
	b.create(Sink{Name: "siem", Type: Syslog, Address: s.Addr().String(), Plain: true})
	b.caughtUp("siem")
	if n := len(s.all()); n != 0 {
		t.Fatalf("a deaf receiver read %d messages", n)
	}
	s.mu.Lock()
	s.deaf = false
	s.mu.Unlock()
	s.closeAll()
	b.until("siem", "what was lost", func(Status) bool {
		return b.compare(joined(s.all()), export.CopyOptions{All: true}).Agrees()
	})
}

func joined(messages [][]byte) []byte { return append(bytes.Join(messages, []byte("\n")), '\n') }

func TestOTLPGetsEveryEntry(t *testing.T) {
	t.Parallel()
	b := newBench(t, t.TempDir(), nil)
	reject := 0
	r := newReceiver(t, nil)
	r.answer = func(_ int, body []byte, w http.ResponseWriter) int {
		if n := bytes.Count(unzip(t, body), []byte(`"message":"event 5"`)); n > 0 && reject < 20 {
			reject++
			_, _ = w.Write(sub(nil, 1, sub(integer(nil, 1, 1), 2, []byte("no fives"))))
			return taken
		}
		return 0
	}
	b.add(20)
	b.create(Sink{Name: "otel", Type: OTLP, Format: ECS, URL: r.URL + "/v1/logs", Secrets: []string{"bearer-secret"}})
	b.caughtUp("otel")
	letters, err := b.m.DeadLetters(b.admin, "default", "otel")
	if err != nil || len(letters) != 1 || !strings.Contains(letters[0].Reason, "no fives") {
		t.Fatalf("%+v, %v", letters, err)
	}
	reject = 20
	if _, err := b.m.Retry(t.Context(), b.admin, "default", "otel", nil); err != nil {
		t.Fatal(err)
	}
	b.until("otel", "the letter", func(st Status) bool { return st.DeadLetters == 0 })
	var copied []byte
	for i, body := range r.bodies {
		h := r.heads[i]
		if h.Get("Authorization") != "Bearer bearer-secret" || h.Get("Content-Type") != "application/x-protobuf" || h.Get("Content-Encoding") != "gzip" {
			t.Fatalf("%v", h)
		}
		copied = append(copied, otlpBodies(t, unzip(t, body))...)
	}
	b.whole(copied)
	if b.recorded(tenant.SinkCreate) != 1 {
		t.Error("the sink is not recorded")
	}
}

func TestFilesHaveEveryEntryOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := newBench(t, dir, nil)
	b.create(Sink{Name: "archive", Type: File, Rotate: minRotate, Title: "for the auditor"})
	b.add(700)
	b.caughtUp("archive")
	b.stop()
	files := filepath.Join(dir, "sinks", "default", "archive")
	names, _ := os.ReadDir(files)
	if len(names) < 2 {
		t.Errorf("%d files", len(names))
	}
	// As a crash leaves it: half a line, and a cursor from before.
	newest := filepath.Join(files, names[len(names)-1].Name())
	f, err := os.OpenFile(newest, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"immutable":{"origin":"log.exa`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	state := filepath.Join(dir, "tenants", "default", "sink-archive.json")
	data, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	data = regexp.MustCompile(`"next":\d+,"last":\{[^}]*\}`).ReplaceAll(data, []byte(`"next":3`))
	if err := os.WriteFile(state, data, 0o600); err != nil {
		t.Fatal(err)
	}
	b = newBench(t, dir, nil)
	b.add(40)
	b.caughtUp("archive")
	rep := b.whole(contents(t, files))
	if rep.Repeated != 0 {
		t.Errorf("%d lines came twice", rep.Repeated)
	}
	if _, err := b.m.Create(t.Context(), b.admin, "default", Sink{Name: "archive", Log: "main", Type: File}); !errors.Is(err, tenant.ErrExists) {
		t.Error(err)
	}
	if err := b.m.Delete(t.Context(), b.admin, "default", "archive"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.tn.ReadFile("sink-archive.json"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its position is still there: %v", err)
	}
	if _, err := b.m.Create(t.Context(), b.admin, "default", Sink{Name: "archive", Log: "main", Type: File}); !errors.Is(err, ErrSettings) {
		t.Errorf("a new sink takes over the files of an old one: %v", err)
	}
	b.create(Sink{Name: "two", Type: File, Rotate: minRotate, Keep: 2})
	b.caughtUp("two")
	if names, _ := os.ReadDir(filepath.Join(dir, "sinks", "default", "two")); len(names) != 2 {
		t.Errorf("%d files are kept, want 2", len(names))
	}
}

func contents(t *testing.T, dir string) (all []byte) {
	t.Helper()
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		data, err := os.ReadFile(filepath.Join(dir, n.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, data...)
	}
	return all
}

func TestCursorOutlivesRestarts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := newReceiver(t, nil)
	for i := range 4 {
		b := newBench(t, dir, nil)
		if i == 0 {
			b.create(Sink{Name: "hook", Type: Webhook, URL: r.URL, Secrets: []string{secretA, secretB}})
		}
		b.add(50)
		b.caughtUp("hook")
		if rep := b.whole(r.copied(t)); rep.Repeated != 0 {
			t.Errorf("after %d restarts %d came twice", i, rep.Repeated)
		}
		sorted(t, r.indexes(t), b.l.Size())
		b.stop()
	}
}

func TestOnlyWhatTheQuerySelectsIsSent(t *testing.T) {
	t.Parallel()
	b := newBench(t, t.TempDir(), nil)
	r := newReceiver(t, nil)
	b.add(100)
	b.create(Sink{Name: "hook", Type: Webhook, URL: r.URL, Query: "even:true", Levels: tenant.Levels{immutable.Audit}, From: 20, Secrets: []string{secretA, secretB}})
	b.add(31)
	b.caughtUp("hook")
	rep := b.compare(r.copied(t), export.CopyOptions{Query: "even:true"})
	if !rep.Agrees() || rep.FirstLast.From < 20 || rep.Same < 50 {
		t.Errorf("%+v", rep)
	}
}

// A log that is not the one that was delivered is found out, and nothing of it is sent.
func TestAnotherLogIsNotTakenForTheSame(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := newReceiver(t, nil)
	b := newBench(t, dir, nil)
	b.create(Sink{Name: "hook", Type: Webhook, URL: r.URL})
	b.add(5)
	b.caughtUp("hook")
	b.stop()
	for _, change := range []struct{ old, new, want string }{
		{`"leaf":"`, `"leaf":"00`, "is another one than was delivered"},
		{`"next":`, `"next":9`, "was rolled back"},
		{`"origin":"`, `"origin":"x`, "the log is another one"},
	} {
		name := filepath.Join(dir, "tenants", "default", "sink-hook.json")
		good, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, bytes.Replace(good, []byte(change.old), []byte(change.new), 1), 0o600); err != nil {
			t.Fatal(err)
		}
		b := newBench(t, dir, nil)
		st := b.until("hook", "the stall", func(st Status) bool { return st.State == Stalled })
		if !strings.Contains(st.Error, change.want) {
			t.Errorf("%+v, want %s", st, change.want)
		}
		b.stop()
		if err := os.WriteFile(name, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPrivateAddressesAreRefused(t *testing.T) {
	t.Parallel()
	b := newBench(t, t.TempDir(), func(o *Options) { o.AllowPrivate = false })
	r := newReceiver(t, nil)
	b.add(1)
	port := r.URL[strings.LastIndexByte(r.URL, ':')+1:]
	b.create(Sink{Name: "hook", Type: Webhook, URL: "https://localhost:" + port})
	b.create(Sink{Name: "siem", Type: Syslog, Address: "127.0.0.1:" + port})
	for _, name := range []string{"hook", "siem"} {
		st := b.until(name, "failures", func(st Status) bool { return st.Tries > 2 })
		if !strings.Contains(st.Error, "no public address") || strings.Contains(st.Error, "127.0.0.1") || st.DeadLetters != 0 {
			t.Errorf("%s: %+v", name, st)
		}
	}
	if r.n != 0 {
		t.Errorf("%d requests arrived", r.n)
	}
	for _, s := range []Sink{{Type: Webhook, URL: r.URL}, {Type: Syslog, Address: "x.example:514", Plain: true}} {
		s.Name, s.Log = "other", "main"
		if _, err := b.m.Create(t.Context(), b.admin, "default", s); !errors.Is(err, ErrSettings) {
			t.Errorf("%+v: %v", s, err)
		}
	}
}

func TestSettingsThatCannotWorkAreRefused(t *testing.T) {
	t.Parallel()
	b := newBench(t, t.TempDir(), nil)
	ok := Sink{Name: "a", Log: "main", Type: Webhook, Format: JSON, URL: "https://x.example/", Secrets: []string{secretA}}
	for member, change := range map[string]func(*Sink){
		"name": func(s *Sink) { s.Name = strings.Repeat("a", 41) }, "title": func(s *Sink) { s.Title = strings.Repeat("a", 201) },
		"log": func(s *Sink) { s.Log = "../x" }, "format": func(s *Sink) { s.Format = "xml" }, "type": func(s *Sink) { *s = Sink{Name: "a", Log: "main", Type: "carrier", Format: JSON} },
		"query": func(s *Sink) { s.Query = "(" }, "levels": func(s *Sink) { s.Levels = make(tenant.Levels, immutable.NumLevels+1) }, "from": func(s *Sink) { s.From = 1<<62 + 1 },
		"url": func(s *Sink) { s.URL = "https://u:p@x.example" }, "secrets": func(s *Sink) { s.Secrets = []string{"short"} }, "ca": func(s *Sink) { s.CA = "none" },
		"header": func(s *Sink) { s.Header = "X" }, "address": func(s *Sink) { s.Address = "a:1" }, "plain": func(s *Sink) { s.Plain = true },
		"rotate": func(s *Sink) { *s = Sink{Name: "a", Log: "main", Type: File, Format: JSON, Rotate: minRotate - 1} },
		"keep":   func(s *Sink) { *s = Sink{Name: "a", Log: "main", Type: File, Format: JSON, Keep: maxKeepFiles + 1} },
	} {
		s := ok
		change(&s)
		_, err := b.m.Create(t.Context(), b.admin, "default", s)
		if !errors.Is(err, ErrSettings) || !strings.Contains(err.Error(), ": "+member+":") {
			t.Errorf("%s: %v", member, err)
		}
	}
	for _, s := range []Sink{{Query: strings.Repeat("a", maxQuery)}, {Title: strings.Repeat("a", 200)}, {Secrets: []string{secretA, secretA, secretB}}} {
		s.Name, s.Log, s.Type, s.Format, s.URL, s.Paused = "a", "main", Webhook, JSON, ok.URL, true
		b.create(s)
		if err := b.m.Delete(t.Context(), b.admin, "default", "a"); err != nil {
			t.Error(err)
		}
	}
	if _, err := b.m.Create(t.Context(), b.admin, "default", Sink{Name: "a", Log: "none", Type: File}); !errors.Is(err, tenant.ErrNotFound) {
		t.Errorf("a log that is not there: %v", err)
	}
	for i := range maxSinks {
		b.create(Sink{Name: fmt.Sprint("f-", i), Type: File, Paused: true})
	}
	if _, err := b.m.Create(t.Context(), b.admin, "default", Sink{Name: "one-more", Log: "main", Type: File}); !errors.Is(err, ErrSettings) {
		t.Errorf("one more than the limit: %v", err)
	}
}

func TestSecretsAreNotShownAndStayWithTheirAddress(t *testing.T) {
	t.Parallel()
	b := newBench(t, t.TempDir(), nil)
	r := newReceiver(t, nil)
	v := b.create(Sink{Name: "hook", Type: Webhook, URL: r.URL + "/a", Secrets: []string{secretA, secretB}})
	if !slices.Equal(v.Secrets, []string{Kept, Kept}) {
		t.Fatalf("%q", v.Secrets)
	}
	s := v.Sink
	s.Title = "renamed"
	if _, err := b.m.Update(t.Context(), b.admin, "default", s); err != nil {
		t.Fatal(err)
	}
	b.add(3)
	b.caughtUp("hook")
	b.whole(r.copied(t)) // still signed with both
	s.URL = r.URL + "/b"
	if _, err := b.m.Update(t.Context(), b.admin, "default", s); !errors.Is(err, ErrSettings) {
		t.Errorf("the secret went to another address: %v", err)
	}
	s.Log = "system"
	if _, err := b.m.Update(t.Context(), b.admin, "default", s); !errors.Is(err, ErrSettings) {
		t.Errorf("it changed its log: %v", err)
	}
	if b.recorded(tenant.SinkUpdate) != 1 {
		t.Error("the change is not recorded once")
	}
	reader := &tenant.Principal{ID: "r", Tenant: "default", Role: tenant.Reader}
	auditor := &tenant.Principal{ID: "a", Tenant: "default", Role: tenant.Auditor}
	if _, err := b.m.List(reader, "default"); !errors.Is(err, tenant.ErrForbidden) {
		t.Error(err)
	}
	if _, err := b.m.List(auditor, "default"); err != nil {
		t.Error(err)
	}
	for _, err := range []error{
		b.m.Delete(t.Context(), auditor, "default", "hook"), second(b.m.Pause(t.Context(), auditor, "default", "hook")),
		second(b.m.Create(t.Context(), auditor, "default", Sink{Name: "x", Log: "main", Type: File})), second(b.m.Update(t.Context(), auditor, "default", s)),
		third(b.m.Retry(t.Context(), auditor, "default", "hook", nil)), third(b.m.Drop(t.Context(), auditor, "default", "hook", nil)),
	} {
		if !errors.Is(err, tenant.ErrForbidden) {
			t.Errorf("an auditor: %v", err)
		}
	}
}

func second(_ View, err error) error { return err }
func third(_ int, err error) error   { return err }

func TestPausedSinksWaitAndGoOnWhereTheyWere(t *testing.T) {
	t.Parallel()
	b := newBench(t, t.TempDir(), nil)
	r := newReceiver(t, nil)
	b.create(Sink{Name: "hook", Type: Webhook, URL: r.URL, Secrets: []string{secretA, secretB}})
	b.add(10)
	b.caughtUp("hook")
	if v, err := b.m.Pause(t.Context(), b.admin, "default", "hook"); err != nil || v.Status.State != Paused {
		t.Fatal(v, err)
	}
	n := r.n
	b.add(10)
	if st := b.status("hook"); st.Lag == 0 || r.n != n {
		t.Errorf("%+v, %d requests", st, r.n-n)
	}
	if _, err := b.m.Resume(t.Context(), b.admin, "default", "hook"); err != nil {
		t.Fatal(err)
	}
	b.caughtUp("hook")
	if rep := b.whole(r.copied(t)); rep.Repeated != 0 {
		t.Errorf("%+v", rep)
	}
	if b.recorded(tenant.SinkPause) != 1 || b.recorded(tenant.SinkResume) != 1 {
		t.Error("not recorded")
	}
}

// Entries that retention takes before a sink has sent them are said, and not left out in silence.
func TestRetiredEntriesAreAGapThatIsSaid(t *testing.T) {
	t.Parallel()
	b := newBench(t, t.TempDir(), nil)
	r := newReceiver(t, nil)
	b.create(Sink{Name: "hook", Type: Webhook, URL: r.URL, Secrets: []string{secretA, secretB}})
	b.add(1)
	b.caughtUp("hook")
	if _, err := b.m.Pause(t.Context(), b.admin, "default", "hook"); err != nil {
		t.Fatal(err)
	}
	b.add(300)
	if err := b.l.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	retire(t, b)
	b.add(1)
	if _, err := b.m.Resume(t.Context(), b.admin, "default", "hook"); err != nil {
		t.Fatal(err)
	}
	st := b.caughtUp("hook")
	if st.Skipped == 0 || b.recorded(tenant.SinkGap) != 1 {
		t.Errorf("%+v", st)
	}
}

func retire(t *testing.T, b *bench) {
	t.Helper()
	end := time.Now().Add(patience)
	for len(b.l.SealedSegments()) == 0 {
		if time.Now().After(end) {
			t.Fatal("nothing is sealed")
		}
		time.Sleep(time.Millisecond)
	}
	if _, err := b.l.Retire(t.Context(), b.l.SealedSegments()[0], immutable.RetireOptions{Delete: true, Reason: "test", By: "test"}); err != nil {
		t.Fatal(err)
	}
}
