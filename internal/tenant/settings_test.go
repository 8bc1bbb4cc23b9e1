package tenant

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable"
)

func TestNames(t *testing.T) {
	for _, name := range []string{"a", "0", "a-b", "main", strings.Repeat("a", maxName), "com10", "console"} {
		if err := CheckName("log", name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", "-a", "A", "a.b", "a/b", "..", ".", "a_b", "ä", "a b", "a\x00", strings.Repeat("a", maxName+1), "con", "nul", "com1", "lpt9", `a\b`, "a%2fb"} {
		if err := CheckName("log", name); err == nil {
			t.Errorf("%q is a name", name)
		} else if _, ok := errors.AsType[*NameError](err); !ok {
			t.Errorf("%q: got %v, want a NameError", name, err)
		}
	}
}

func TestReservedNamesAreNotMade(t *testing.T) {
	in := open(t, t.TempDir())
	x := defaultTenant(t, in)
	_, err := in.CreateTenant(t.Context(), Local("test"), TenantSettings{Name: SystemName})
	_, err2 := x.CreateLog(t.Context(), Local("test"), LogSettings{Name: SystemName})
	_, err3 := in.System().CreateLog(t.Context(), Local("test"), LogSettings{Name: "x"})
	for _, err := range []error{err, err2, err3} {
		if _, ok := errors.AsType[*NameError](err); !ok {
			t.Errorf("got %v, want a NameError", err)
		}
	}
	if _, err := in.CreateTenant(t.Context(), Local("test"), TenantSettings{Name: DefaultName}); !errors.Is(err, ErrExists) {
		t.Errorf("a second default tenant: got %v", err)
	}
	if _, err := x.CreateLog(t.Context(), Local("test"), LogSettings{Name: MainName}); !errors.Is(err, ErrExists) {
		t.Errorf("a second main log: got %v", err)
	}
}

// TestSettingsAreChecked has one setting over its limit at a time, each beside one at the limit.
func TestSettingsAreChecked(t *testing.T) {
	rule := ClaimRule{Issuer: "https://issuer.example", Match: map[string]string{"sub": "a"}, Role: Reader}
	manyRules := func(n int) []ClaimRule {
		out := make([]ClaimRule, n)
		for i := range out {
			out[i] = rule
		}
		return out
	}
	claims := func(change func(*ClaimRule)) func(*TenantSettings) {
		return func(s *TenantSettings) {
			r := rule
			r.Match = map[string]string{"sub": "a"}
			change(&r)
			s.Claims = []ClaimRule{r}
		}
	}
	cert := func(r CertRule) func(*TenantSettings) {
		r.Role = Reader
		return func(s *TenantSettings) { s.Certificates = []CertRule{r} }
	}
	many := func(n int) map[string]string {
		m := map[string]string{}
		for i := range n {
			m[fmt.Sprint("c", i)] = "v"
		}
		return m
	}
	for what, c := range map[string]struct {
		set func(*TenantSettings)
		ok  bool
	}{
		"title":              {func(s *TenantSettings) { s.Title = strings.Repeat("x", maxTitle) }, true},
		"title, long":        {func(s *TenantSettings) { s.Title = strings.Repeat("x", maxTitle+1) }, false},
		"title, control":     {func(s *TenantSettings) { s.Title = "a\x1b[31m" }, false},
		"title, not UTF-8":   {func(s *TenantSettings) { s.Title = "\xff" }, false},
		"negative quota":     {func(s *TenantSettings) { s.Quota.Streams = -1 }, false},
		"rules":              {func(s *TenantSettings) { s.Claims = manyRules(maxRules) }, true},
		"too many rules":     {func(s *TenantSettings) { s.Claims = manyRules(maxRules + 1) }, false},
		"no match":           {claims(func(r *ClaimRule) { r.Match = nil }), false},
		"match":              {claims(func(r *ClaimRule) { r.Match = many(maxMatch) }), true},
		"match, many":        {claims(func(r *ClaimRule) { r.Match = many(maxMatch + 1) }), false},
		"match, everybody":   {claims(func(r *ClaimRule) { r.Match = map[string]string{"sub": "**"} }), false},
		"match, audience":    {claims(func(r *ClaimRule) { r.Match = map[string]string{"aud": "us", "iss": "x"} }), false},
		"match, empty":       {claims(func(r *ClaimRule) { r.Match["x"] = "" }), false},
		"match, long":        {claims(func(r *ClaimRule) { r.Match["x"] = strings.Repeat("x", maxValue+1) }), false},
		"no issuer":          {claims(func(r *ClaimRule) { r.Issuer = "" }), false},
		"role":               {claims(func(r *ClaimRule) { r.Role = "root" }), false},
		"logs, twice":        {claims(func(r *ClaimRule) { r.Logs = []string{"a", "a"} }), false},
		"logs, bad":          {claims(func(r *ClaimRule) { r.Logs = []string{"../a"} }), false},
		"levels, twice":      {claims(func(r *ClaimRule) { r.Levels = Levels{1, 1} }), false},
		"levels, none such":  {claims(func(r *ClaimRule) { r.Levels = Levels{immutable.NumLevels} }), false},
		"github, owner":      {claims(func(r *ClaimRule) { r.Issuer = GitHubActions; r.Match = map[string]string{"repository_id": "1"} }), true},
		"github, workflow":   {claims(func(r *ClaimRule) { r.Issuer = GitHubActions; r.Match = map[string]string{"sub": "repo:org/x:*"} }), true},
		"github, everybody":  {claims(func(r *ClaimRule) { r.Issuer = GitHubActions; r.Match = map[string]string{"ref": "refs/heads/main"} }), false},
		"github, any repo":   {claims(func(r *ClaimRule) { r.Issuer = GitHubActions; r.Match = map[string]string{"sub": "repo:*:ref:main"} }), false},
		"certificate":        {cert(CertRule{URI: "spiffe://a/b"}), true},
		"certificate, none":  {cert(CertRule{}), false},
		"certificate, two":   {cert(CertRule{URI: "a", DNS: "b"}), false},
		"fingerprint":        {cert(CertRule{Fingerprint: strings.Repeat("a", 64)}), true},
		"fingerprint, short": {cert(CertRule{Fingerprint: strings.Repeat("a", 63)}), false},
		"fingerprint, upper": {cert(CertRule{Fingerprint: strings.Repeat("A", 64)}), false},
		"too large together": {func(s *TenantSettings) {
			s.Claims = manyRules(90)
			for i := range s.Claims {
				s.Claims[i].Match = map[string]string{"sub": strings.Repeat("x", maxValue)}
			}
		}, false},
	} {
		s := TenantSettings{Name: "a"}
		c.set(&s)
		if err := s.check(); (err == nil) != c.ok {
			t.Errorf("%s: got %v", what, err)
		}
	}
	logs := func(change func(*LogSettings)) error {
		s := LogSettings{Name: "a"}
		change(&s)
		s = s.withDefaults()
		return s.check()
	}
	for what, c := range map[string]struct {
		set func(*LogSettings)
		ok  bool
	}{
		"defaults":              {func(*LogSettings) {}, true},
		"rotate":                {func(s *LogSettings) { s.RotateSize = minRotateSize }, true},
		"rotate, small":         {func(s *LogSettings) { s.RotateSize = minRotateSize - 1 }, false},
		"rotate, large":         {func(s *LogSettings) { s.RotateSize = maxRotateSize + 1 }, false},
		"keep":                  {func(s *LogSettings) { s.KeepDays = maxKeepDays }, true},
		"keep, long":            {func(s *LogSettings) { s.KeepDays = maxKeepDays + 1 }, false},
		"keep, negative":        {func(s *LogSettings) { s.KeepDays = -1 }, false},
		"expired":               {func(s *LogSettings) { s.Expired, s.KeepDays = "move", 1 }, true},
		"expired, when":         {func(s *LogSettings) { s.Expired = "delete" }, false},
		"expired, what":         {func(s *LogSettings) { s.Expired = "burn" }, false},
		"cron":                  {func(s *LogSettings) { s.Verify.Full = "off" }, true},
		"cron, four":            {func(s *LogSettings) { s.Verify.Full = "* * * *" }, false},
		"cron, long":            {func(s *LogSettings) { s.Verify.Full = strings.Repeat("1", maxCron) + " * * * *" }, false},
		"scrub":                 {func(s *LogSettings) { s.Verify.ScrubHours = maxScrubHours }, true},
		"scrub, long":           {func(s *LogSettings) { s.Verify.ScrubHours = maxScrubHours + 1 }, false},
		"system, public":        {func(s *LogSettings) { s.Name, s.PublicTiles = SystemName, true }, false},
		"system, a year":        {func(s *LogSettings) { s.Name, s.Expired, s.KeepDays = SystemName, "delete", minSystemDays }, true},
		"system, less":          {func(s *LogSettings) { s.Name, s.Expired, s.KeepDays = SystemName, "delete", minSystemDays-1 }, false},
		"system, less but kept": {func(s *LogSettings) { s.Name, s.Expired, s.KeepDays = SystemName, "move", 1 }, true},
	} {
		if err := logs(c.set); (err == nil) != c.ok {
			t.Errorf("%s: got %v", what, err)
		}
	}
}

func TestSettingsSurviveRestart(t *testing.T) {
	dir := t.TempDir()
	in := open(t, dir)
	want := TenantSettings{
		Name: "x", Title: "A title", Quota: Quota{1, 2, 3, 4, 5}, BestEffortReads: true,
		Claims:       []ClaimRule{{Issuer: "https://i.example", Match: map[string]string{"sub": "a*"}, Once: true, Name: "email", Role: Writer, Logs: []string{"l"}, Levels: Levels{immutable.Audit}}},
		Certificates: []CertRule{{DNS: "a.example", Role: Auditor}},
	}
	x, err := in.CreateTenant(t.Context(), Local("test"), want)
	must(t, err)
	wantLog := LogSettings{
		Name: "l", Title: "t", RotateSize: 1 << 20, PublicTiles: true, KeepDays: 3, Expired: "move",
		Verify: VerifySettings{Open: "off", Full: "1 2 3 4 5", ScrubHours: 6},
	}
	_, err = x.CreateLog(t.Context(), Local("test"), wantLog)
	must(t, err)
	must(t, in.Close(t.Context()))
	in = open(t, dir)
	x, err = in.Tenant("x")
	must(t, err)
	if got := x.Settings(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	l, err := x.Log("l")
	must(t, err)
	if got := l.Settings(); got != wantLog {
		t.Errorf("got %+v, want %+v", got, wantLog)
	}
	// What a caller does with its copy stays its own.
	x.Settings().Claims[0].Role = Admin
	if x.Settings().Claims[0].Role != Writer {
		t.Error("a caller changed the settings through its copy")
	}
}

func TestOriginPrefixIsKept(t *testing.T) {
	dir := t.TempDir()
	in := open(t, dir)
	must(t, in.Close(t.Context()))
	if _, err := Open(t.Context(), Options{Dir: dir, OriginPrefix: "elsewhere.example/x"}); err == nil || !strings.Contains(err.Error(), "example.com/test") {
		t.Errorf("another prefix: got %v", err)
	}
	in, err := Open(t.Context(), Options{Dir: dir})
	must(t, err)
	if in.OriginPrefix() != "example.com/test" {
		t.Errorf("got %s", in.OriginPrefix())
	}
	must(t, in.Close(t.Context()))
	if _, err := Open(t.Context(), Options{Dir: t.TempDir(), OriginPrefix: "a b"}); err == nil {
		t.Error("a prefix that no origin can have was taken")
	}
}

func FuzzSettings(f *testing.F) {
	f.Add([]byte(`{"format":1,"settings":{"name":"a","quota":{"streams":1},"claims":[{"issuer":"i","match":{"a":"b"},"role":"reader","levels":["AUDIT"]}]}}`))
	f.Add([]byte(`{"format":1,"settings":{"name":"a","Name":"b"}}`))
	f.Add([]byte(`[[[[[[[[[[[[[[`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var got settingsFile[TenantSettings]
		if decodeStrict(data, &got) != nil {
			return
		}
		again, err := json.Marshal(got)
		must(t, err)
		var second settingsFile[TenantSettings]
		must(t, decodeStrict(again, &second))
		third, err := json.Marshal(second)
		must(t, err)
		if string(again) != string(third) {
			t.Errorf("%s became %s", again, third)
		}
		_ = got.Settings.check() // total: it returns
	})
}

// FuzzGlob compares the matcher with a regular expression.
func FuzzGlob(f *testing.F) {
	for _, s := range [][2]string{{"a*b", "ab"}, {"*", ""}, {"a*a", "a"}, {"**x*", "yxz"}, {"a.c", "abc"}, {"ab*ba", "aba"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if len(pattern) > 50 || len(s) > 200 {
			return
		}
		re, err := regexp.Compile(`\A(?s:` + strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, `.*`) + `)\z`)
		if err != nil || strings.ContainsRune(pattern+s, '\uFFFD') || !validUTF8(pattern, s) {
			return
		}
		if got, want := glob(pattern, s), re.MatchString(s); got != want {
			t.Errorf("glob(%q, %q): got %v, want %v", pattern, s, got, want)
		}
	})
}

func validUTF8(ss ...string) bool {
	for _, s := range ss {
		if strings.ToValidUTF8(s, "\uFFFD") != s {
			return false
		}
	}
	return true
}
