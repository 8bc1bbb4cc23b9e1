package config

import (
	"slices"
	"strings"
	"testing"
)

func TestReceiversOfFlagsAndFileAreOneList(t *testing.T) {
	c := mustLoad(t, "receivers:\n  - {protocol: syslog-tcp, address: \"127.0.0.1:601\", log: acme/web}\n  - {protocol: jsonl-unix, address: /run/x}\n", nil,
		map[string]string{"syslog-udp": "127.0.0.1:514", "receive-log": "ops/hosts"})
	want := []Receiver{{SyslogUDP, "127.0.0.1:514", "ops/hosts"}, {SyslogTCP, "127.0.0.1:601", "acme/web"}, {LinesUnix, "/run/x", "default/main"}}
	if got := c.Listeners(); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestReceiversAreChecked(t *testing.T) {
	one := "  - {protocol: syslog-tcp, address: \"127.0.0.1:0\"}\n"
	if got := mustLoad(t, "receivers:\n"+strings.Repeat(one, maxReceivers), nil, nil); len(got.Receivers) != maxReceivers {
		t.Errorf("got %d", len(got.Receivers))
	}
	for file, want := range map[string]string{
		"receivers:\n" + strings.Repeat(one, maxReceivers+1): "at most 64",
		"receivers: {}\n": "want a list",
		"receivers: [{protocol: syslog-quic, address: \"a:1\"}]\n":                                               "none of syslog-udp",
		"receivers: [{protocol: syslog-udp}]\n":                                                                  "needs an address",
		"receivers: [{protocol: syslog-udp, address: \"a:70000\"}]\n":                                            "port",
		"receivers: [{protocol: jsonl-unix}]\n":                                                                  "path",
		"receivers: [{protocol: syslog-udp, address: \"a:1\", log: main}]\n":                                     "tenant and log",
		"receivers: [{protocol: syslog-udp, address: \"a:1\", log: a/B}]\n":                                      "tenant and log",
		"receivers: [{protocol: syslog-udp, address: \"a:1\", token: x}]\n":                                      "no key token",
		"receivers: [{protocol: syslog-tls, address: \"a:1\"}]\n":                                                "certificate",
		"receivers: [{protocol: syslog-tcp, address: \"a:1\"}, {protocol: jsonl-tcp, address: \"a:1\"}]\n":       "already",
		"receivers: [{protocol: jsonl-unix, address: /run/a}, {protocol: jsonl-unix, address: /run/../run/a}]\n": "already",
	} {
		refused(t, file, nil, nil, want)
	}
	mustLoad(t, "receivers: [{protocol: syslog-tcp, address: \"a:1\"}, {protocol: syslog-udp, address: \"a:1\"}]\n", nil, nil)
}
