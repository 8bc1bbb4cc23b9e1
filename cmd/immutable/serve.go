package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/config"
	madeup "github.com/tree-of-life-system/immutable/internal/demo"
	"github.com/tree-of-life-system/immutable/internal/server"
)

const serveUsage = `immutable serve

Runs the service: many logs of many tenants behind one port. Without flags it makes ./immutable-data, prints the address, the first
administrator's token (once: only its hash is kept) and a command that appends an entry, and serves on 127.0.0.1:8080. The first
tenant is "default" with the log "main". IMMUTABLE_BOOTSTRAP_TOKEN, of at least 16 characters, becomes the first administrator's
token, for automation. SIGTERM ends it; nothing that was acknowledged is lost.

  immutable serve
  immutable serve --demo
  immutable serve --config /etc/immutable/immutable.yaml
  IMMUTABLE_BOOTSTRAP_TOKEN=$(openssl rand -hex 32) immutable serve --data-dir /var/lib/immutable --listen 0.0.0.0:8443 \
      --tls-cert server.pem --tls-key server.key

Each flag can be set in the environment (IMMUTABLE_DATA_DIR) and in the file of --config (immutable config show prints one). A flag
wins over the environment, the environment over the file.

  --demo                 serve a week of made-up events, marked as such, from a data directory of its own: ./immutable-demo, or
                         what --data-dir says; it is filled the first time
` + settingsUsage + commonFlags

// settingsUsage describes the flags that serve and config share.
const settingsUsage = `  --config FILE          settings as YAML (IMMUTABLE_CONFIG; default none)
  --data-dir DIR         tenants, logs and tokens (default ./immutable-data; also LOG_DIR)
  --state-dir DIR        heads and private keys (default state in the data directory)
  --listen ADDRESS       address and port (default 127.0.0.1:8080); port 0 takes a free one
  --origin NAME          begins the names of logs that are made now (default: host name and random digits)
  --tls-cert FILE        certificate chain in PEM; read again when it changes
  --tls-key FILE         its private key
  --client-ca FILE       authorities whose client certificates count as credentials
  --metrics WHO          who reads /metrics: auto, public, token (default auto: anybody where the service listens on loopback)
  --pprof-listen ADDRESS a loopback address for profiles (default none)
  --max-connections N    open connections; beyond that the longest idle one is closed (default 16384)
  --idle-timeout TIME    how long a connection without a request stays open (default 2m)
  --shutdown-time TIME   how long requests under way may take at the end (default 30s)
  --log-level LEVEL      debug, info, warn, error (default info)
  --log-format FORMAT    text, json, or auto: text on a terminal (default auto)
  --rotate-size BYTES    seal a log's open segment at this size (default 104857600; also ROTATE_SIZE_MB)
  --blockchain-enabled=false
                         make new logs without keys and checkpoints (also ENABLE_BLOCKCHAIN)
  --epoch-duration TIME  replace the keys after this time in use: 12h, or never (default 24h)
  --epoch-entries N      replace the keys after N entries (default: no limit)
  --policy FILE          witnesses to ask for cosignatures: a C2SP tlog-policy (default none)
  --witness-timeout D    how long one witness may take (default 5s)
  --time-authority URL   have checkpoints time-stamped (RFC 3161) by this authority; may be repeated (default none)
  --syslog-udp ADDRESS   receive syslog over UDP (default none)
  --syslog-tcp ADDRESS   receive syslog over TCP (default none)
  --syslog-tls ADDRESS   receive syslog over TLS, with --tls-cert (default none)
  --jsonl-tcp ADDRESS    receive JSON Lines over TCP (default none)
  --jsonl-unix PATH      receive JSON Lines on a unix socket (default none)
  --otlp-grpc ADDRESS    receive OTLP logs over gRPC (default none)
  --receive-log LOG      tenant/log that receivers append to (default default/main)
  --scrub-share SHARE    of one core and the disk's time, for verification in the background (default 0.1)
  --alerts-allow-private webhooks may go to loopback and private addresses
  --smtp-address ADDRESS host:port of the server that takes alerts by mail (default none)
  --smtp-from NAME       sender of alerts
  --smtp-username NAME   user at the mail server
  --smtp-password-file FILE
                         file with that user's password
  --smtp-tls HOW         starttls, tls, none (default starttls)`

// given collects the settings of a command line and of the environment, which internal/config puts in order.
type given struct {
	*call
	file  string
	flags map[string]string
}

// settings declares the flags of all settings. Their values are checked with those from elsewhere.
func (c *call) settings() *given {
	g := &given{call: c, flags: map[string]string{}}
	c.set.StringVar(&g.file, "config", "", "")
	for _, f := range config.Flags() {
		add := func(s string) error {
			if old, twice := g.flags[f.Name]; twice && f.List {
				s = old + "," + s
			}
			g.flags[f.Name] = s
			return nil
		}
		if f.Bool {
			c.set.BoolFunc(f.Name, "", add)
		} else {
			c.set.Func(f.Name, "", add)
		}
	}
	return g
}

// load reads the file and puts all settings together. A flag whose value is that of the environment came from there: parse
// has set it.
func (g *given) load() (config.Config, error) {
	s := config.Source{Flags: map[string]string{}, Getenv: g.getenv, PID: os.Getpid(), File: g.file}
	for name, value := range g.flags {
		if g.getenv(envName(name)) != value {
			s.Flags[name] = value
		}
	}
	if g.file != "" {
		var err error
		if s.Data, err = readConfig(g.file); err != nil {
			return config.Config{}, err
		}
	}
	return config.Load(s)
}

func readConfig(name string) ([]byte, error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("--config: %w; `immutable config show > %s` makes one of the defaults", err, name)
	}
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, config.MaxFile+1)) // one more, so that config sees that it is too long
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	return data, nil
}

// demoDir is where the demonstration is by default: never where real logs are.
const demoDir = "immutable-demo"

func setupServe(c *call) func() error {
	g := c.settings()
	demonstration := c.set.Bool("demo", false, "")
	return func() error {
		if err := c.arguments(0, 0, "no arguments"); err != nil {
			return err
		}
		if *demonstration && g.flags["data-dir"] == "" {
			g.flags["data-dir"] = demoDir
		}
		cfg, err := g.load()
		if err != nil {
			return err
		}
		if *demonstration {
			if err := c.fillDemo(&cfg); err != nil {
				return fmt.Errorf("--demo: %w", err)
			}
		}
		return server.Run(c.ctx, cfg, server.Runtime{
			Version: programVersion(), Logger: c.serviceLogger(&cfg),
			Started: func(s server.Started) error { return c.announceService(s, &cfg) },
		})
	}
}

// fillDemo makes the demonstration's data directory, unless it is there.
func (c *call) fillDemo(cfg *config.Config) error {
	filled, err := madeup.Check(cfg.DataDir)
	if err != nil || filled {
		return err
	}
	lc, err := server.LogConfig(cfg)
	if err != nil {
		return err
	}
	c.remark("filling %s with a week of made-up events; the name of each log begins with %q, and each event says \"demo\": true\n", cfg.DataDir, immutable.DemoPrefix)
	bar := c.newProgress("filling", "events")
	n, err := madeup.Fill(c.ctx, madeup.Options{
		Dir: cfg.DataDir, StateDir: cfg.StateDir, Log: lc, End: time.Now(), Seed: 1,
		Progress: bar.set,
	})
	bar.end()
	if err == nil {
		c.remark("%d events\n", n)
	}
	return err
}

// serviceLogger writes to standard error: text for people, JSON for machines.
func (c *call) serviceLogger(cfg *config.Config) *slog.Logger {
	o := &slog.HandlerOptions{Level: cfg.LogLevel}
	if c.quiet {
		o.Level = max(cfg.LogLevel, slog.LevelWarn)
	}
	if cfg.LogFormat == config.LogJSON || cfg.LogFormat == config.LogAuto && !c.errs.terminal {
		return slog.New(slog.NewJSONHandler(c.stderr, o))
	}
	return slog.New(slog.NewTextHandler(c.stderr, o)) // it quotes what could control a terminal
}

func (c *call) announceService(s server.Started, cfg *config.Config) error {
	entries := s.URL + "/api/v1/tenants/default/logs/main/entries"
	if c.json {
		if err := c.answer(struct {
			URL     string `json:"url"`
			Listen  string `json:"listen"`
			DataDir string `json:"dataDir"`
			Entries string `json:"entries"`
			Token   string `json:"token,omitempty"`
		}{s.URL, s.Address, s.DataDir, entries, s.Token}); err != nil {
			return err
		}
		return c.out.flush()
	}
	c.out.printf("Immutable serves on %s, from %s\n", s.URL, s.DataDir)
	token := "$IMMUTABLE_TOKEN"
	switch {
	case s.Token != "":
		token = s.Token
		c.out.printf("\nThe first administrator's token. It is shown once; keep it in a safe place:\n\n  %s\n\nAppend an entry:\n", token)
	case s.Given:
		token = "$IMMUTABLE_BOOTSTRAP_TOKEN"
		c.out.printf("\nThe first administrator's token is that of IMMUTABLE_BOOTSTRAP_TOKEN. Append an entry:\n")
	default:
		c.out.printf("\nAppend an entry, with a token of yours in IMMUTABLE_TOKEN:\n")
	}
	curl := "curl"
	if cfg.TLS.Cert != "" {
		curl = "curl --cacert " + shellQuote(cfg.TLS.Cert)
	}
	c.out.printf("\n  %s -H \"Authorization: Bearer %s\" -H 'Content-Type: application/json' -d '{\"level\":\"AUDIT\",\"message\":\"it works\"}' %s\n\nRead it:\n\n  %s -H \"Authorization: Bearer %s\" %s\n\nSee it: open %s in a browser and sign in with the token.\n\n", curl, token, entries, curl, token, entries, s.URL)
	return c.out.flush()
}

func shellQuote(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("/._-+:@%", r)
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

const healthcheckUsage = `immutable healthcheck [URL]

Asks a service whether it takes requests: exit code 0 when /readyz says so, 2 when it does not or nobody answers. For containers
without a shell. Without URL it asks the service that the same environment and file configure (IMMUTABLE_LISTEN). On a loopback
address the certificate is not checked: nothing secret is sent.

  immutable healthcheck
  immutable healthcheck https://logs.example.com/readyz

  --config FILE          the service's settings (IMMUTABLE_CONFIG)
  --timeout TIME         how long the answer may take (default 3s)` + commonFlags

func setupHealthcheck(c *call) func() error {
	g := &given{call: c, flags: map[string]string{}}
	c.set.StringVar(&g.file, "config", "", "")
	timeout := c.set.Duration("timeout", 3*time.Second, "")
	return func() error {
		if err := c.arguments(0, 1, "at most a URL"); err != nil {
			return err
		}
		target := ""
		if len(c.args) == 1 {
			target = c.args[0]
		} else {
			cfg, err := g.load()
			if err != nil {
				return err
			}
			target = ownAddress(&cfg) + "/readyz"
		}
		if *timeout <= 0 {
			return c.usagef("--timeout must be positive")
		}
		return c.askHealth(target, *timeout)
	}
}

// ownAddress is where the service with this configuration is reached from its own host.
func ownAddress(cfg *config.Config) string {
	scheme := "http"
	if cfg.TLS.Cert != "" {
		scheme = "https"
	}
	host, port, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return scheme + "://" + cfg.Listen
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}

func (c *call) askHealth(target string, timeout time.Duration) error {
	u, err := url.Parse(target)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return c.usagef("want a URL such as http://127.0.0.1:8080/readyz, not %s", quote(target))
	}
	transport := &http.Transport{DisableKeepAlives: true}
	if ip := net.ParseIP(u.Hostname()); ip != nil && ip.IsLoopback() || u.Hostname() == "localhost" {
		transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // this host asks itself, sends nothing secret, and its certificate names another address
	}
	ctx, cancel := context.WithTimeout(c.ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("not healthy: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("not healthy: %s says %s", target, resp.Status)
	}
	if c.json {
		return c.answer(map[string]any{"healthy": true, "url": target})
	}
	c.out.printf("healthy: %s\n", target)
	return nil
}
