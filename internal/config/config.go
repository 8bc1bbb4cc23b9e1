// Package config says how the service runs: from flags, the environment and a YAML file, in this order, over defaults that
// need none of them. It reads strictly: a key that does not exist, a value out of its range, or a key that stands twice is
// an error with file and line. Nothing is opened or started here.
package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"
)

// Config is everything that an operator can set. New makes one of defaults.
type Config struct {
	DataDir  string // tenants, logs, tokens
	StateDir string // heads and private keys; "" is DataDir/state
	Origin   string // begins the origins of logs that are made now; "" is the host's name and random digits

	Listen         string // the one port
	TLS            TLS    // plain HTTP where Cert is empty
	MTLS           bool   // client certificates are credentials; true where TLS.ClientCA is set
	PprofListen    string // a loopback address, or "" for none
	Metrics        string // MetricsAuto, MetricsPublic, MetricsToken
	MaxConnections int    // of the listener
	IdleTimeout    time.Duration
	ShutdownTime   time.Duration // how long requests under way may take once the service was told to stop

	LogLevel  slog.Level
	LogFormat string // LogAuto, LogText, LogJSON

	Log    Log // defaults of every log
	OIDC   []Issuer
	Alerts Alerts

	Receive   Receive    // receivers of the flags
	Receivers []Receiver // and of the file's list; Listeners has both

	Scrub float64 // share of one core, and of the time of the disk, that verification in the background may take

	// BootstrapToken is the first administrator's token, for automation. It comes from the environment only, because command
	// lines and files are read by others, and is never printed.
	BootstrapToken string

	// Systemd is what the service manager said in the environment.
	Systemd Systemd

	from map[string]string // key -> where its value came from, for what is not a default
}

// TLS names the files of a certificate chain and its key, in PEM, and of the authorities whose client certificates count.
type TLS struct{ Cert, Key, ClientCA string }

// Log is what each log is opened with; see immutable.Config.
type Log struct {
	RotateSize      int64 // bytes
	Blockchain      bool  // false: new logs get no keys and publish no checkpoints
	EpochDuration   time.Duration
	EpochEntries    uint64
	Policy          string // the file of a C2SP tlog-policy, or ""
	WitnessTimeout  time.Duration
	TimeAuthorities []string
}

// Issuer is an OpenID Connect issuer whose tokens are looked at.
type Issuer struct {
	URL      string `json:"url"`
	Audience string `json:"audience"`
	JWKSFile string `json:"jwksFile,omitempty"` // keys from a file rather than from the issuer
}

// Alerts is what alerts may do and how mail is sent.
type Alerts struct {
	AllowPrivate bool // webhooks may go to loopback and private addresses
	SMTP         SMTP
}

// SMTP is the server that takes alerts by mail; none where Address is empty.
type SMTP struct {
	Address      string // host:port
	From         string
	Username     string
	PasswordFile string
	TLS          string // SMTPStartTLS, SMTPTLS, SMTPNone
}

// Systemd is the service manager's side of sd_notify(3).
type Systemd struct {
	Socket   string        // NOTIFY_SOCKET
	Watchdog time.Duration // WATCHDOG_USEC, where WATCHDOG_PID is this process or unset
}

// What Config.Metrics, Config.LogFormat and SMTP.TLS can be.
const (
	MetricsAuto   = "auto"   // without a token where Listen is a loopback address
	MetricsPublic = "public" // without a token
	MetricsToken  = "token"  // with a token that may read metrics

	LogAuto = "auto" // text on a terminal, JSON elsewhere
	LogText = "text"
	LogJSON = "json"

	SMTPStartTLS = "starttls"
	SMTPTLS      = "tls"
	SMTPNone     = "none"
)

// Limits of what can be set.
const (
	minRotateSize     = 64 << 10
	maxRotateSize     = 1 << 40
	maxMaxConnections = 1 << 20
	minToken          = 16 // characters of a bootstrap token
	maxToken          = 512
	maxList           = 32
)

// New returns the defaults: what `immutable serve` runs with.
func New() Config {
	return Config{
		DataDir: "./immutable-data", Listen: "127.0.0.1:8080", Metrics: MetricsAuto,
		MaxConnections: 16384, IdleTimeout: 2 * time.Minute, ShutdownTime: 30 * time.Second,
		LogLevel: slog.LevelInfo, LogFormat: LogAuto, Scrub: 0.1,
		Log:    Log{RotateSize: 100 << 20, Blockchain: true, EpochDuration: 24 * time.Hour, WitnessTimeout: 5 * time.Second},
		Alerts: Alerts{SMTP: SMTP{TLS: SMTPStartTLS}}, Receive: Receive{Log: defaultLog},
	}
}

// Source is where settings come from.
type Source struct {
	Flags  map[string]string // by flag; those that were given
	Getenv func(string) string
	PID    int    // this process, for WATCHDOG_PID
	File   string // its name, for errors; "" where there is none
	Data   []byte // its content
}

// Load puts the sources over the defaults, the stronger last, and checks what comes of it.
func Load(s Source) (Config, error) {
	c := New()
	c.from = map[string]string{}
	if s.File != "" {
		if err := c.readFile(s.File, s.Data); err != nil {
			return Config{}, err
		}
	}
	if err := c.readEnvironment(s.Getenv, s.PID); err != nil {
		return Config{}, err
	}
	for i := range settings {
		st := &settings[i]
		if text, given := s.Flags[st.flag]; given {
			if err := c.put(st, text, "flag --"+st.flag); err != nil {
				return Config{}, err
			}
		}
	}
	if err := c.check(); err != nil {
		return Config{}, err
	}
	c.MTLS = c.TLS.ClientCA != ""
	return c, nil
}

func (c *Config) put(st *setting, text, from string) error {
	if err := st.set(c, text); err != nil {
		return fmt.Errorf("%s: %s: %w", from, st.key, err)
	}
	c.from[st.key] = from
	return nil
}

// sketchNames are the variables of the earlier system's ConfigMap. Those of our own win over them.
var sketchNames = []struct {
	name, key string
	text      func(string) (string, error)
}{
	{"LOG_DIR", "data_dir", func(s string) (string, error) { return s, nil }},
	{"ENABLE_BLOCKCHAIN", "log.blockchain_enabled", func(s string) (string, error) { return s, nil }},
	{"ROTATE_SIZE_MB", "log.rotate_size", func(s string) (string, error) {
		n, err := strconv.ParseInt(s, 10, 32)
		if err != nil || n <= 0 {
			return "", fmt.Errorf("%q is no number of mebibytes", s)
		}
		return strconv.FormatInt(n<<20, 10), nil
	}},
}

func (c *Config) readEnvironment(getenv func(string) string, pid int) error {
	if getenv == nil {
		return nil
	}
	for _, old := range sketchNames {
		value := getenv(old.name)
		if value == "" {
			continue
		}
		text, err := old.text(value)
		if err != nil {
			return fmt.Errorf("environment %s: %w", old.name, err)
		}
		if err := c.put(lookup(old.key), text, "environment "+old.name); err != nil {
			return err
		}
	}
	for i := range settings {
		st := &settings[i]
		if value := getenv(st.env()); value != "" {
			if err := c.put(st, value, "environment "+st.env()); err != nil {
				return err
			}
		}
	}
	c.BootstrapToken = getenv("IMMUTABLE_BOOTSTRAP_TOKEN")
	c.Systemd = systemd(getenv, pid)
	return nil
}

// systemd reads what sd_notify(3) and sd_watchdog_enabled(3) describe. A watchdog meant for another process is not ours.
func systemd(getenv func(string) string, pid int) Systemd {
	s := Systemd{Socket: getenv("NOTIFY_SOCKET")}
	usec, err := strconv.ParseUint(getenv("WATCHDOG_USEC"), 10, 62)
	meant := getenv("WATCHDOG_PID")
	if err == nil && usec > 0 && usec < uint64((1<<62)/time.Microsecond) && (meant == "" || meant == strconv.Itoa(pid)) {
		s.Watchdog = time.Duration(usec) * time.Microsecond
	}
	return s
}

// check holds settings against each other; each one's own range was checked where it was set.
func (c *Config) check() error {
	switch {
	case (c.TLS.Cert == "") != (c.TLS.Key == ""):
		return c.wrong("tls.cert", "tls.cert and tls.key go together: give both files, or neither for plain HTTP")
	case c.TLS.ClientCA != "" && c.TLS.Cert == "":
		return c.wrong("tls.client_ca", "client certificates need TLS: give tls.cert and tls.key too")
	case c.PprofListen != "" && !isLoopback(c.PprofListen):
		return c.wrong("pprof_listen", "profiles show what is in memory, so they are served on a loopback address only, such as 127.0.0.1:6060")
	case c.Alerts.SMTP.Address != "" && c.Alerts.SMTP.From == "":
		return c.wrong("alerts.smtp.from", "mail needs a sender")
	case c.Alerts.SMTP.Address == "" && (c.Alerts.SMTP.Username != "" || c.Alerts.SMTP.PasswordFile != "" || c.Alerts.SMTP.From != ""):
		return c.wrong("alerts.smtp.address", "mail needs a server: give host:port")
	case c.Alerts.SMTP.PasswordFile != "" && c.Alerts.SMTP.Username == "":
		return c.wrong("alerts.smtp.username", "a password needs a user name")
	}
	if err := c.checkReceivers(); err != nil {
		return err
	}
	if t := c.BootstrapToken; t != "" {
		if len(t) < minToken || len(t) > maxToken {
			return fmt.Errorf("environment IMMUTABLE_BOOTSTRAP_TOKEN: %d characters, want %d to %d; `openssl rand -hex 32` makes one", len(t), minToken, maxToken)
		}
		// A header must be able to carry it as it is.
		if strings.ContainsFunc(t, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return errors.New("environment IMMUTABLE_BOOTSTRAP_TOKEN: want printable ASCII without spaces; `openssl rand -hex 32` makes one")
		}
	}
	return nil
}

func (c *Config) wrong(key, what string) error {
	if from := c.from[key]; from != "" {
		return fmt.Errorf("%s: %s", from, what)
	}
	return fmt.Errorf("%s: %s", key, what)
}

// Loopback reports whether the service is reached from this host only.
func (c *Config) Loopback() bool { return isLoopback(c.Listen) }

func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
