package config

import (
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"
)

func load(file string, env, flags map[string]string) (Config, error) {
	return Load(Source{Flags: flags, Getenv: func(n string) string { return env[n] }, PID: 42, File: "immutable.yaml", Data: []byte(file)})
}

func mustLoad(t testing.TB, file string, env, flags map[string]string) Config {
	t.Helper()
	c, err := load(file, env, flags)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func refused(t *testing.T, file string, env, flags map[string]string, parts ...string) {
	t.Helper()
	_, err := load(file, env, flags)
	if err == nil {
		t.Errorf("taken: %q %v %v", file, env, flags)
		return
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("%q %v %v: error %q does not say %q", file, env, flags, err, p)
		}
	}
}

func TestNothingSetMeansTheDefaults(t *testing.T) {
	got := mustLoad(t, "", nil, nil)
	want := New()
	got.from = nil
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if want.Listen != "127.0.0.1:8080" || want.DataDir != "./immutable-data" || !want.Loopback() {
		t.Errorf("the defaults are not those of the documentation: %+v", want)
	}
	for _, blank := range []string{"# only a remark\n", "---\n", "null\n", "tls:\n"} {
		mustLoad(t, blank, nil, nil)
	}
}

// TestDefaultsAreWithinTheirOwnLimits takes each default through the parser of its setting.
func TestDefaultsAreWithinTheirOwnLimits(t *testing.T) {
	for i := range settings {
		st := &settings[i]
		c := New()
		before := st.get(&c)
		if before == "" {
			continue
		}
		if err := st.set(&c, before); err != nil {
			t.Errorf("%s: %v", st.key, err)
		}
		if got := st.get(&c); got != before {
			t.Errorf("%s: %q became %q", st.key, before, got)
		}
	}
}

func TestFlagWinsOverEnvironmentOverFileOverDefault(t *testing.T) {
	file, env, flags := "listen: 127.0.0.1:1\n", map[string]string{"IMMUTABLE_LISTEN": "127.0.0.1:2"}, map[string]string{"listen": "127.0.0.1:3"}
	for _, c := range []struct {
		file       string
		env, flags map[string]string
		want, from string
	}{
		{"", nil, nil, "127.0.0.1:8080", "default"},
		{file, nil, nil, "127.0.0.1:1", "immutable.yaml:1"},
		{file, env, nil, "127.0.0.1:2", "environment IMMUTABLE_LISTEN"},
		{file, env, flags, "127.0.0.1:3", "flag --listen"},
		{"", env, flags, "127.0.0.1:3", "flag --listen"},
		{file, nil, flags, "127.0.0.1:3", "flag --listen"},
	} {
		got := mustLoad(t, c.file, c.env, c.flags)
		if got.Listen != c.want || got.origin("listen") != c.from {
			t.Errorf("got %s from %s, want %s from %s", got.Listen, got.origin("listen"), c.want, c.from)
		}
	}
}

// TestEverySettingHasThreeSpellings sets each one by flag, by environment and in the file, to the same effect.
func TestEverySettingHasThreeSpellings(t *testing.T) {
	values := map[string]string{
		"metrics": "token", "log_format": "json", "log_level": "debug", "max_connections": "100", "log.rotate_size": "65536",
		"log.blockchain_enabled": "false", "log.epoch_duration": "never", "log.epoch_entries": "5000", "log.time_authorities": "http://a.example/,http://b.example/tsa",
		"scrub_share": "0.5", "alerts.allow_private": "true", "idle_timeout": "30s", "shutdown_time": "7s", "log.witness_timeout": "3s",
		"listen": "127.0.0.1:9", "pprof_listen": "127.0.0.1:10", "alerts.smtp.address": "mail.example:25", "origin": "example.com/x", "alerts.smtp.tls": "tls",
		"receive.log": "acme/web", "receive.syslog_udp": "127.0.0.1:11", "receive.syslog_tcp": "127.0.0.1:12", "receive.syslog_tls": "127.0.0.1:13", "receive.jsonl_tcp": "127.0.0.1:14",
		"receive.otlp_grpc": "127.0.0.1:15",
	}
	needs := map[string]map[string]string{ // settings that stand only beside others
		"tls.cert": {"tls-key": "k"}, "tls.key": {"tls-cert": "c"}, "tls.client_ca": {"tls-cert": "c", "tls-key": "k"},
		"alerts.smtp.address": {"smtp-from": "a@b"}, "alerts.smtp.from": {"smtp-address": "m:25"}, "alerts.smtp.username": {"smtp-address": "m:25", "smtp-from": "a@b"},
		"alerts.smtp.password_file": {"smtp-address": "m:25", "smtp-from": "a@b", "smtp-username": "u"},
		"receive.syslog_tls":        {"tls-key": "k", "tls-cert": "c"},
	}
	for i := range settings {
		st := &settings[i]
		value := values[st.key]
		if value == "" {
			value = "some-value"
		}
		var file strings.Builder
		parts := strings.Split(st.key, ".")
		for depth, p := range parts {
			fmt.Fprintf(&file, "%s%s:", strings.Repeat("  ", depth), p)
			if depth < len(parts)-1 {
				file.WriteString("\n")
			}
		}
		file.WriteString(" " + value + "\n")
		flags := map[string]string{st.flag: value}
		maps.Copy(flags, needs[st.key])
		byFlag := mustLoad(t, "", nil, flags)
		byEnv := mustLoad(t, "", map[string]string{st.env(): value}, needs[st.key])
		byFile := mustLoad(t, file.String(), nil, needs[st.key])
		defaults := New()
		if got := st.get(&byFlag); got != value || got == st.get(&defaults) {
			t.Errorf("%s: flag gives %q, want %q", st.key, got, value)
		}
		if st.get(&byEnv) != value || st.get(&byFile) != value {
			t.Errorf("%s: environment gives %q, file %q, want %q", st.key, st.get(&byEnv), st.get(&byFile), value)
		}
	}
}

func TestSketchConfigMapStillWorks(t *testing.T) {
	env := map[string]string{"LOG_DIR": "/var/lib/immutable", "ENABLE_BLOCKCHAIN": "false", "ROTATE_SIZE_MB": "100"}
	c := mustLoad(t, "data_dir: elsewhere\n", env, nil)
	if c.DataDir != "/var/lib/immutable" || c.Log.Blockchain || c.Log.RotateSize != 100<<20 {
		t.Errorf("got %+v", c)
	}
	env["IMMUTABLE_DATA_DIR"], env["IMMUTABLE_ROTATE_SIZE"] = "/new", "65536"
	c = mustLoad(t, "", env, nil)
	if c.DataDir != "/new" || c.Log.RotateSize != 65536 {
		t.Errorf("the earlier names win over ours: %+v", c)
	}
	refused(t, "", map[string]string{"ROTATE_SIZE_MB": "lots"}, nil, "ROTATE_SIZE_MB", "mebibytes")
	refused(t, "", map[string]string{"ROTATE_SIZE_MB": "0"}, nil, "ROTATE_SIZE_MB")
	refused(t, "", map[string]string{"ENABLE_BLOCKCHAIN": "maybe"}, nil, "ENABLE_BLOCKCHAIN", "neither true nor false")
}

func TestMistakesAreNamedWithTheirLine(t *testing.T) {
	for _, c := range []struct {
		file string
		want []string
	}{
		{"\n\nlisen: 127.0.0.1:1\n", []string{"immutable.yaml:3:", "no key lisen", "did you mean listen?"}},
		{"tls:\n  crt: x\n", []string{"immutable.yaml:2:", "no key tls.crt", "did you mean tls.cert?"}},
		{"rotate_size: 65536\n", []string{":1:", "did you mean log.rotate_size?"}},
		{"listen: 127.0.0.1:1\nmetrics: auto\nlisten: 127.0.0.1:2\n", []string{":3:", "stands here and on line 1"}},
		{"tls: {cert: a, key: b}\ntls: {}\n", []string{":2:", "line 1"}},
		{"metrics: everybody\n", []string{":1:", `"everybody" is none of auto, public, token`}},
		{"max_connections: 0\n", []string{":1:", "from 1 to"}},
		{"max_connections: 1048577\n", []string{"from 1 to 1048576"}},
		{"log:\n  rotate_size: 65535\n", []string{":2:", "from 65536"}},
		{"log: 5\n", []string{":1:", "want keys"}},
		{"listen: [127.0.0.1:1]\n", []string{":1:", "single value"}},
		{"listen:\n", []string{":1:", "no value"}},
		{"listen: 8080\n", []string{":1:", "no address and port"}},
		{"listen: 127.0.0.1:65536\n", []string{"no port"}},
		{"listen: 127.0.0.1:http\n", []string{"no port"}},
		{"data_dir: \"\"\n", []string{"want a directory"}},
		{"a: &x 1\n", []string{"anchors"}},
		{"listen: !!str 127.0.0.1:1\n", []string{"anchors"}},
		{"<<: {listen: \"127.0.0.1:1\"}\n", []string{":1:"}},
		{"- listen\n", []string{":1:", "want keys"}},
		{"just text\n", []string{":1:", "want keys"}},
		{"listen: 127.0.0.1:1\n---\nlisten: 127.0.0.1:2\n", []string{"second document"}},
		{"listen: [\n", []string{"immutable.yaml", "line"}},
		{"origin: https://example.com/\n", []string{"schema-less"}},
		{"data_dir: \"a\\0b\"\n", []string{"zero bytes"}},
		{"data_dir: " + strings.Repeat("x", maxValue+1), []string{"at most 4096"}},
		{"oidc: {url: x}\n", []string{"list of issuers"}},
		{"oidc:\n  - url: https://i.example\n", []string{":2:", "needs url and audience"}},
		{"oidc:\n  - url: i.example\n    audience: a\n", []string{"no http or https URL"}},
		{"oidc:\n  - url: https://i.example\n    audience: a\n    secret: b\n", []string{":4:", "no key secret"}},
		{"log:\n  time_authorities: [\"ftp://x\"]\n", []string{":2:", "no http"}},
		{"log:\n  time_authorities: [[x]]\n", []string{"plain values"}},
		{"tls:\n  cert: x\n", []string{"immutable.yaml:2", "go together"}},
		{"tls:\n  client_ca: x\n", []string{"need TLS"}},
		{"pprof_listen: 0.0.0.0:6060\n", []string{"immutable.yaml:1", "loopback"}},
		{"pprof_listen: :6060\n", []string{"loopback"}},
		{"pprof_listen: example.com:6060\n", []string{"loopback"}},
		{"alerts:\n  smtp:\n    address: m:25\n", []string{"sender"}},
		{"alerts:\n  smtp:\n    username: u\n", []string{"server"}},
		{"log:\n  epoch_duration: 0s\n", []string{"no time"}},
		{"scrub_share: 0\n", []string{"share"}},
		{"scrub_share: NaN\n", []string{"share"}},
		{"log:\n  blockchain_enabled: perhaps\n", []string{"neither true nor false"}},
		{"log_level: loud\n", []string{"none of debug"}},
	} {
		refused(t, c.file, nil, nil, c.want...)
	}
	refused(t, "# "+strings.Repeat("x", MaxFile), nil, nil, "at most 1048576")
	mustLoad(t, "# "+strings.Repeat("x", MaxFile-2), nil, nil)
	refused(t, "", map[string]string{"IMMUTABLE_METRICS": "x"}, nil, "environment IMMUTABLE_METRICS")
	refused(t, "", nil, map[string]string{"metrics": "x"}, "flag --metrics")
}

func TestIssuersAreBounded(t *testing.T) {
	one := "  - {url: \"https://i.example\", audience: a}\n"
	if got := mustLoad(t, "oidc:\n"+strings.Repeat(one, maxList), nil, nil); len(got.OIDC) != maxList {
		t.Errorf("got %d issuers", len(got.OIDC))
	}
	refused(t, "oidc:\n"+strings.Repeat(one, maxList+1), nil, nil, "at most 32")
	urls := strings.TrimSuffix(strings.Repeat("http://a.example/,", maxList), ",")
	mustLoad(t, "", nil, map[string]string{"time-authority": urls})
	refused(t, "", nil, map[string]string{"time-authority": urls + ",http://b.example/"}, "more than 32")
}

func TestBootstrapTokenComesFromTheEnvironmentOnly(t *testing.T) {
	const token = "0123456789abcdef"
	c := mustLoad(t, "", map[string]string{"IMMUTABLE_BOOTSTRAP_TOKEN": token}, nil)
	if c.BootstrapToken != token {
		t.Errorf("got %q", c.BootstrapToken)
	}
	shown, err := c.YAML()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(shown+fmt.Sprint(c.Show()), token) {
		t.Error("the bootstrap token is shown")
	}
	refused(t, "bootstrap_token: 0123456789abcdef\n", nil, nil, "no key bootstrap_token")
	for _, bad := range []string{token[1:], strings.Repeat("x", maxToken+1), "0123456789 abcdef", "0123456789äabcdef"} {
		_, err := load("", map[string]string{"IMMUTABLE_BOOTSTRAP_TOKEN": bad}, nil)
		if err == nil || strings.Contains(err.Error(), bad) {
			t.Errorf("%q: error %v", bad, err)
		}
	}
	mustLoad(t, "", map[string]string{"IMMUTABLE_BOOTSTRAP_TOKEN": strings.Repeat("x", maxToken)}, nil)
}

func TestWatchdogOfAnotherProcessIsNotOurs(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		want Systemd
	}{
		{nil, Systemd{}},
		{map[string]string{"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "30000000"}, Systemd{"/run/n", 30 * time.Second}},
		{map[string]string{"WATCHDOG_USEC": "5", "WATCHDOG_PID": "42"}, Systemd{"", 5 * time.Microsecond}},
		{map[string]string{"WATCHDOG_USEC": "5", "WATCHDOG_PID": "43"}, Systemd{}},
		{map[string]string{"WATCHDOG_USEC": "99999999999999999999"}, Systemd{}},
		{map[string]string{"WATCHDOG_USEC": "9223372036854775807"}, Systemd{}},
		{map[string]string{"WATCHDOG_USEC": "-1"}, Systemd{}},
	} {
		if got := mustLoad(t, "", c.env, nil).Systemd; got != c.want {
			t.Errorf("%v: got %+v, want %+v", c.env, got, c.want)
		}
	}
}

// TestShownConfigurationReadsBack holds that `config show` is a file that means the same.
func TestShownConfigurationReadsBack(t *testing.T) {
	c := mustLoad(t, `
data_dir: "with # and: odd \t characters"
listen: "[::1]:8443"
tls: {cert: c.pem, key: "yes", client_ca: "null"}
log_level: warn
log: {epoch_duration: never, time_authorities: ["http://a.example/x", "https://b.example/?y=1"]}
alerts: {smtp: {address: "m:25", from: "Ann <ann@example.com>"}}
oidc:
  - {url: "https://i.example", audience: "x: #y", jwks_file: keys.json}
  - {url: "https://j.example", audience: "~"}
receivers:
  - {protocol: syslog-udp, address: "127.0.0.1:514", log: acme/web}
  - {protocol: jsonl-unix, address: "/run/a: #b"}
`, nil, map[string]string{"max-connections": "77"})
	shown, err := c.YAML()
	if err != nil {
		t.Fatal(err)
	}
	again, err := load(shown, nil, nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, shown)
	}
	c.from, again.from = nil, nil
	if !reflect.DeepEqual(c, again) {
		t.Errorf("got %+v\nwant %+v\n%s", again, c, shown)
	}
	if again.LogLevel != slog.LevelWarn || again.MaxConnections != 77 || again.TLS.Key != "yes" || !again.MTLS {
		t.Errorf("got %+v", again)
	}
}

func FuzzFile(f *testing.F) {
	c := New()
	shown, err := c.YAML()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(shown)
	f.Add("oidc:\n  - {url: \"https://i.example\", audience: a}\nlog: {time_authorities: [http://a]}\n")
	f.Add("a: &a [*a, *a]\n")
	f.Fuzz(func(t *testing.T, file string) {
		got, err := load(file, nil, nil)
		if err != nil {
			if !strings.Contains(err.Error(), "immutable.yaml") && !strings.Contains(err.Error(), ": ") {
				t.Errorf("error without a place: %v", err)
			}
			return
		}
		shown, err := got.YAML()
		if err != nil {
			t.Fatal(err)
		}
		again, err := load(shown, nil, nil)
		if err != nil {
			t.Fatalf("%v\n%s", err, shown)
		}
		got.from, again.from = nil, nil
		if !reflect.DeepEqual(got, again) {
			t.Errorf("got %+v\nwant %+v\n%s", again, got, shown)
		}
	})
}
