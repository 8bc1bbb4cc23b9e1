package config

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// setting is one thing that can be set in one spelling each: a key of the file, a flag, and an environment variable.
type setting struct {
	key  string // dots lead into sections
	flag string
	help string // for `config show`
	set  func(*Config, string) error
	get  func(*Config) string // the text that set takes
	kind kind
}

// kind says how a value is written in the file.
type kind int

const (
	scalar kind = iota
	list
	boolean
)

// env is the environment variable of the setting, after the rule for all flags of the program.
func (st *setting) env() string {
	if st.flag == "time-authority" {
		return "IMMUTABLE_TIME_AUTHORITIES"
	}
	return "IMMUTABLE_" + strings.ToUpper(strings.ReplaceAll(st.flag, "-", "_"))
}

var settings = append([]setting{
	text("data_dir", "data-dir", "tenants, logs and tokens", func(c *Config) *string { return &c.DataDir }, notEmpty),
	text("state_dir", "state-dir", "heads and private keys, better not in what is backed up with the data; data_dir/state", func(c *Config) *string { return &c.StateDir }, nil),
	text("origin", "origin", "begins the names of logs that are made now; the host's name and random digits", func(c *Config) *string { return &c.Origin }, checkOrigin),
	text("listen", "listen", "address and port", func(c *Config) *string { return &c.Listen }, checkAddress),
	text("tls.cert", "tls-cert", "certificate chain in PEM; read again when it changes", func(c *Config) *string { return &c.TLS.Cert }, nil),
	text("tls.key", "tls-key", "its private key in PEM", func(c *Config) *string { return &c.TLS.Key }, nil),
	text("tls.client_ca", "client-ca", "authorities whose client certificates count as credentials, in PEM", func(c *Config) *string { return &c.TLS.ClientCA }, nil),
	oneOf("metrics", "metrics", "who reads /metrics: anybody where listen is a loopback address (auto), anybody (public), bearers of tokens (token)", func(c *Config) *string { return &c.Metrics }, MetricsAuto, MetricsPublic, MetricsToken),
	text("pprof_listen", "pprof-listen", "a loopback address for profiles; none", func(c *Config) *string { return &c.PprofListen }, checkAddress),
	number("max_connections", "max-connections", "open connections; beyond that the one that was idle longest is closed", func(c *Config) *int { return &c.MaxConnections }, 1, maxMaxConnections),
	duration("idle_timeout", "idle-timeout", "how long a connection without a request stays open", func(c *Config) *time.Duration { return &c.IdleTimeout }, time.Second, 24*time.Hour, ""),
	duration("shutdown_time", "shutdown-time", "how long requests under way may take once the service was told to stop", func(c *Config) *time.Duration { return &c.ShutdownTime }, time.Second, time.Hour, ""),
	{
		key: "log_level", flag: "log-level", help: "what is logged: debug, info, warn, error",
		set: func(c *Config, s string) error {
			var l slog.Level
			switch strings.ToLower(s) {
			case "debug", "info", "warn", "error":
				if err := l.UnmarshalText([]byte(s)); err != nil {
					return err
				}
				c.LogLevel = l
				return nil
			}
			return fmt.Errorf("%q is none of debug, info, warn, error", s)
		},
		get: func(c *Config) string { return strings.ToLower(c.LogLevel.String()) },
	},
	oneOf("log_format", "log-format", "text, json, or text on a terminal and JSON elsewhere (auto)", func(c *Config) *string { return &c.LogFormat }, LogAuto, LogText, LogJSON),
	number("log.rotate_size", "rotate-size", "bytes at which a log's open segment is sealed", func(c *Config) *int64 { return &c.Log.RotateSize }, minRotateSize, maxRotateSize),
	{
		key: "log.blockchain_enabled", flag: "blockchain-enabled", help: "false: new logs get no keys and publish no checkpoints", kind: boolean,
		set: func(c *Config, s string) (err error) { c.Log.Blockchain, err = parseBool(s); return err },
		get: func(c *Config) string { return strconv.FormatBool(c.Log.Blockchain) },
	},
	duration("log.epoch_duration", "epoch-duration", "replace the signing keys after this time in use, or never", func(c *Config) *time.Duration { return &c.Log.EpochDuration }, time.Second, math.MaxInt64, "never"),
	number("log.epoch_entries", "epoch-entries", "replace them after this number of entries; 0 is no limit", func(c *Config) *uint64 { return &c.Log.EpochEntries }, 0, math.MaxInt64),
	text("log.policy", "policy", "witnesses to ask for cosignatures: a file, a C2SP tlog-policy", func(c *Config) *string { return &c.Log.Policy }, nil),
	duration("log.witness_timeout", "witness-timeout", "how long one witness may take", func(c *Config) *time.Duration { return &c.Log.WitnessTimeout }, time.Millisecond, time.Hour, ""),
	{
		key: "log.time_authorities", flag: "time-authority", help: "authorities that time-stamp checkpoints (RFC 3161)", kind: list,
		set: func(c *Config, s string) error {
			urls, err := parseURLs(s)
			c.Log.TimeAuthorities = urls
			return err
		},
		get: func(c *Config) string { return strings.Join(c.Log.TimeAuthorities, ",") },
	},
	{
		key: "scrub_share", flag: "scrub-share", help: "share of one core and of the disk's time that verification in the background may take",
		set: func(c *Config, s string) error {
			f, err := strconv.ParseFloat(s, 64)
			if err != nil || !(f >= 0.001 && f <= 1) {
				return fmt.Errorf("%q is no share from 0.001 to 1", s)
			}
			c.Scrub = f
			return nil
		},
		get: func(c *Config) string { return strconv.FormatFloat(c.Scrub, 'g', -1, 64) },
	},
	{
		key: "alerts.allow_private", flag: "alerts-allow-private", help: "webhooks may go to loopback and private addresses", kind: boolean,
		set: func(c *Config, s string) (err error) { c.Alerts.AllowPrivate, err = parseBool(s); return err },
		get: func(c *Config) string { return strconv.FormatBool(c.Alerts.AllowPrivate) },
	},
	text("alerts.smtp.address", "smtp-address", "host:port of the server that takes alerts by mail; none", func(c *Config) *string { return &c.Alerts.SMTP.Address }, checkAddress),
	text("alerts.smtp.from", "smtp-from", "sender of alerts", func(c *Config) *string { return &c.Alerts.SMTP.From }, nil),
	text("alerts.smtp.username", "smtp-username", "user at the mail server", func(c *Config) *string { return &c.Alerts.SMTP.Username }, nil),
	text("alerts.smtp.password_file", "smtp-password-file", "file with that user's password", func(c *Config) *string { return &c.Alerts.SMTP.PasswordFile }, nil),
	oneOf("alerts.smtp.tls", "smtp-tls", "how mail is kept from listeners: starttls, tls from the first byte, none", func(c *Config) *string { return &c.Alerts.SMTP.TLS }, SMTPStartTLS, SMTPTLS, SMTPNone),
}, receiveSettings()...)

func lookup(key string) *setting {
	for i := range settings {
		if settings[i].key == key {
			return &settings[i]
		}
	}
	return nil
}

// Flag is how a command line spells a setting.
type Flag struct {
	Name string
	Bool bool // may stand without a value
	List bool // may be repeated
}

// Flags lists the flags of all settings.
func Flags() []Flag {
	var flags []Flag
	for i := range settings {
		flags = append(flags, Flag{Name: settings[i].flag, Bool: settings[i].kind == boolean, List: settings[i].kind == list})
	}
	return flags
}

// The makers of settings. An empty text sets the field back to "" where check allows it.

func text(key, flag, help string, field func(*Config) *string, check func(string) error) setting {
	return setting{
		key: key, flag: flag, help: help,
		set: func(c *Config, s string) error {
			if check != nil {
				if err := check(s); err != nil {
					return err
				}
			}
			if strings.ContainsRune(s, 0) || !utf8.ValidString(s) {
				return errors.New("want text in UTF-8, without zero bytes")
			}
			*field(c) = s
			return nil
		},
		get: func(c *Config) string { return *field(c) },
	}
}

func oneOf(key, flag, help string, field func(*Config) *string, values ...string) setting {
	return text(key, flag, help, field, func(s string) error {
		if slices.Contains(values, s) {
			return nil
		}
		return fmt.Errorf("%q is none of %s", s, strings.Join(values, ", "))
	})
}

func number[N int | int64 | uint64](key, flag, help string, field func(*Config) *N, least, most int64) setting {
	return setting{
		key: key, flag: flag, help: help,
		set: func(c *Config, s string) error {
			n, err := strconv.ParseInt(s, 10, 64)
			if err != nil || n < least || n > most {
				return fmt.Errorf("%q is no number from %d to %d", s, least, most)
			}
			*field(c) = N(n)
			return nil
		},
		get: func(c *Config) string { return fmt.Sprint(*field(c)) },
	}
}

// duration takes the word never, where there is one, for a negative duration.
func duration(key, flag, help string, field func(*Config) *time.Duration, least, most time.Duration, never string) setting {
	return setting{
		key: key, flag: flag, help: help,
		set: func(c *Config, s string) error {
			if never != "" && s == never {
				*field(c) = -1
				return nil
			}
			d, err := time.ParseDuration(s)
			if err != nil || d < least || d > most {
				return fmt.Errorf("%q is no time such as 90s, 5m or 24h, from %s to %s", s, least, most)
			}
			*field(c) = d
			return nil
		},
		get: func(c *Config) string {
			if never != "" && *field(c) < 0 {
				return never
			}
			return field(c).String()
		},
	}
}

func parseBool(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "true", "1", "yes":
		return true, nil
	case "false", "0", "no":
		return false, nil
	}
	return false, fmt.Errorf("%q is neither true nor false", s)
}

func notEmpty(s string) error {
	if s == "" {
		return errors.New("want a directory")
	}
	return nil
}

func checkAddress(s string) error {
	if s == "" {
		return nil
	}
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf("%q is no address and port such as 127.0.0.1:8080", s)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		return fmt.Errorf("%q has no port from 0 to 65535", s)
	}
	return nil
}

func checkOrigin(s string) error {
	if len(s) > 128 || strings.Contains(s, "://") || strings.HasPrefix(s, "/") || strings.HasSuffix(s, "/") ||
		strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '+' }) {
		return fmt.Errorf("%q is no schema-less URL of at most 128 characters such as example.com/audit", s)
	}
	return nil
}

func checkURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		return fmt.Errorf("%q is no http or https URL", s)
	}
	return nil
}

func parseURLs(s string) ([]string, error) {
	var urls []string
	for u := range strings.SplitSeq(s, ",") {
		if u = strings.TrimSpace(u); u == "" {
			continue
		}
		if err := checkURL(u); err != nil {
			return nil, err
		}
		if urls = append(urls, u); len(urls) > maxList {
			return nil, fmt.Errorf("more than %d", maxList)
		}
	}
	return urls, nil
}
