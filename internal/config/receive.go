package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// The protocols of receivers.
const (
	SyslogUDP  = "syslog-udp"
	SyslogTCP  = "syslog-tcp"
	SyslogTLS  = "syslog-tls"
	LinesTCP   = "jsonl-tcp"
	LinesUnix  = "jsonl-unix"
	OTLPGRPC   = "otlp-grpc"
	defaultLog = "default/main"
)

const maxReceivers = 64

// Receiver is a listener beside the one port: the protocol that it speaks, where, and the log that it appends to.
type Receiver struct {
	Protocol string `json:"protocol"`
	Address  string `json:"address"` // host:port; the path of a socket for LinesUnix
	Log      string `json:"log"`     // tenant/log
}

// Receive is what the flags of receivers say: one address of each protocol, all into one log. The list in a file is beside it.
type Receive struct {
	Log                                                            string
	SyslogUDP, SyslogTCP, SyslogTLS, LinesTCP, LinesUnix, OTLPGRPC string
}

// Listeners are all receivers: those of the flags, then those of the file's list.
func (c *Config) Listeners() []Receiver {
	var all []Receiver
	r := &c.Receive
	for _, one := range []Receiver{
		{SyslogUDP, r.SyslogUDP, r.Log},
		{SyslogTCP, r.SyslogTCP, r.Log},
		{SyslogTLS, r.SyslogTLS, r.Log},
		{LinesTCP, r.LinesTCP, r.Log},
		{LinesUnix, r.LinesUnix, r.Log},
		{OTLPGRPC, r.OTLPGRPC, r.Log},
	} {
		if one.Address != "" {
			all = append(all, one)
		}
	}
	return append(all, c.Receivers...)
}

// receiveSettings are the flags of receivers.
func receiveSettings() []setting {
	return []setting{
		text("receive.log", "receive-log", "tenant/log that the receivers below append to", func(c *Config) *string { return &c.Receive.Log }, checkLog),
		text("receive.syslog_udp", "syslog-udp", "address for syslog over UDP; none", func(c *Config) *string { return &c.Receive.SyslogUDP }, checkAddress),
		text("receive.syslog_tcp", "syslog-tcp", "address for syslog over TCP; none", func(c *Config) *string { return &c.Receive.SyslogTCP }, checkAddress),
		text("receive.syslog_tls", "syslog-tls", "address for syslog over TLS, with tls.cert; none", func(c *Config) *string { return &c.Receive.SyslogTLS }, checkAddress),
		text("receive.jsonl_tcp", "jsonl-tcp", "address for JSON Lines over TCP; none", func(c *Config) *string { return &c.Receive.LinesTCP }, checkAddress),
		text("receive.jsonl_unix", "jsonl-unix", "path of a unix socket for JSON Lines; none", func(c *Config) *string { return &c.Receive.LinesUnix }, nil),
		text("receive.otlp_grpc", "otlp-grpc", "address for OTLP over gRPC; none", func(c *Config) *string { return &c.Receive.OTLPGRPC }, checkAddress),
	}
}

var logName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}/[a-z0-9][a-z0-9-]{0,62}$`)

func checkLog(s string) error {
	if !logName.MatchString(s) {
		return fmt.Errorf("%q is no tenant and log such as default/main", s)
	}
	return nil
}

func (r *Receiver) check() error {
	switch r.Protocol {
	case SyslogUDP, SyslogTCP, SyslogTLS, LinesTCP, OTLPGRPC:
		if r.Address == "" {
			return errors.New("a receiver needs an address such as 127.0.0.1:6514")
		}
		if err := checkAddress(r.Address); err != nil {
			return err
		}
	case LinesUnix:
		if r.Address == "" {
			return errors.New("a receiver on a unix socket needs its path as address")
		}
	default:
		return fmt.Errorf("%q is none of %s", r.Protocol, strings.Join([]string{SyslogUDP, SyslogTCP, SyslogTLS, LinesTCP, LinesUnix, OTLPGRPC}, ", "))
	}
	return checkLog(r.Log)
}

// checkReceivers holds receivers against each other and against TLS.
func (c *Config) checkReceivers() error {
	seen := map[string]string{}
	for _, r := range c.Listeners() {
		if r.Protocol == SyslogTLS && c.TLS.Cert == "" {
			return fmt.Errorf("receiver %s %s: it needs a certificate: give tls.cert and tls.key", r.Protocol, r.Address)
		}
		where := "tcp " + r.Address
		switch r.Protocol {
		case LinesUnix:
			where = "unix " + filepath.Clean(r.Address)
		case SyslogUDP:
			where = "udp " + r.Address
		}
		if other := seen[where]; other != "" && !strings.HasSuffix(r.Address, ":0") {
			return fmt.Errorf("receiver %s %s: %s listens there already; give each its own address", r.Protocol, r.Address, other)
		}
		seen[where] = r.Protocol
	}
	return nil
}

// receivers is a list of mappings in the file.
func (c *Config) receivers(name string, n *yaml.Node) error {
	if n.Kind != yaml.SequenceNode {
		return at(name, n, "receivers: want a list, each with protocol, address and log")
	}
	if len(n.Content) > maxReceivers {
		return at(name, n, "receivers: %d, at most %d", len(n.Content), maxReceivers)
	}
	c.Receivers = nil
	for _, e := range n.Content {
		r := Receiver{Log: defaultLog}
		err := fields(name, e, func(key, value *yaml.Node) error {
			into := map[string]*string{"protocol": &r.Protocol, "address": &r.Address, "log": &r.Log}[key.Value]
			switch {
			case into == nil:
				return at(name, key, "no key %s; a receiver has protocol, address and log", key.Value)
			case value.Kind != yaml.ScalarNode || value.Value == "" || len(value.Value) > maxValue:
				return at(name, value, "%s: want a single value", key.Value)
			}
			*into = value.Value
			return nil
		})
		if err == nil {
			if err = r.check(); err != nil {
				err = at(name, e, "receivers: %s", err)
			}
		}
		if err != nil {
			return err
		}
		c.Receivers = append(c.Receivers, r)
	}
	c.from["receivers"] = fmt.Sprintf("%s:%d", name, n.Line)
	return nil
}
