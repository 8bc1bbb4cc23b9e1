package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tree-of-life-system/immutable"
	authn "github.com/tree-of-life-system/immutable/internal/access"
	"github.com/tree-of-life-system/immutable/internal/alert"
	"github.com/tree-of-life-system/immutable/internal/config"
	"github.com/tree-of-life-system/immutable/internal/metrics"
	"github.com/tree-of-life-system/immutable/internal/monitor"
	"github.com/tree-of-life-system/immutable/internal/sink"
	"github.com/tree-of-life-system/immutable/internal/source"
	"github.com/tree-of-life-system/immutable/internal/tenant"
	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

// Runtime is what a run has beside its configuration.
type Runtime struct {
	Version string
	Logger  *slog.Logger // nil is silent

	// Started is called once, when requests are answered. An error ends the run.
	Started func(Started) error
}

// Started says how the service is reached.
type Started struct {
	URL     string
	Address string // host and port that it listens on
	DataDir string
	Token   string // the first administrator's, where it was made now and not given: this is the only time it is there
	Given   bool   // the first administrator's token was made now, and is the one that was given
}

const (
	maxPolicy   = 256 << 10       // bytes of a policy file
	maxPassword = 4096            // bytes of a password file
	closeTime   = 2 * time.Minute // that recording the stop may take: then logs are closed without that record
)

// Run serves until ctx ends, and then stops so that nothing acknowledged is lost: it says that it is not ready, stops
// listening, ends streams with a reason, lets requests under way finish for as long as the configuration allows, and closes
// the logs. It returns nil when all of that was done.
func Run(ctx context.Context, c config.Config, rt Runtime) error {
	if rt.Logger == nil {
		rt.Logger = slog.New(slog.DiscardHandler)
	}
	s := &running{c: c, rt: rt, logger: rt.Logger, failed: make(chan error, 2+len(c.Listeners()))}
	s.notify = &notifier{socket: c.Systemd.Socket, logger: s.logger}
	err := s.start(ctx)
	if err == nil {
		select {
		case <-ctx.Done():
			s.logger.Info("stopping")
		case err = <-s.failed:
			s.logger.Error("a listener ended", "error", err)
		}
	}
	return errors.Join(err, s.stop())
}

// running is one run of the service. start fills it in the order of its fields, stop takes it down in the other.
type running struct {
	c      config.Config
	rt     Runtime
	logger *slog.Logger
	notify *notifier

	listener, profiles net.Listener // bound before anything is made, so that a port in use changes nothing
	certs              *certificates

	targets      []*receiveTarget // sockets of receivers
	receivers    []receiver
	receiving    sync.WaitGroup
	endReceivers context.CancelFunc

	in      *tenant.Installation
	auth    *authn.Authenticator
	alerts  *alert.Manager
	monitor *monitor.Monitor
	sources *source.Registry
	sinks   *sink.Manager
	metrics *metrics.Metrics
	conns   *connections

	api        *Server
	http       *http.Server
	pprof      *http.Server
	failed     chan error // a listener's end that nobody asked for
	serving    sync.WaitGroup
	background sync.WaitGroup
	end        context.CancelFunc // of the background

	ready atomic.Bool
}

func (s *running) start(ctx context.Context) (err error) {
	if s.c.TLS.Cert != "" {
		if s.certs, err = loadCertificates(s.c.TLS, s.logger, time.Now); err != nil {
			return err
		}
	}
	if s.listener, err = listen(ctx, s.c.Listen, "listen"); err != nil {
		return err
	}
	if s.c.PprofListen != "" {
		if s.profiles, err = listen(ctx, s.c.PprofListen, "pprof-listen"); err != nil {
			return err
		}
	}
	if err := s.bindReceivers(ctx); err != nil {
		return err
	}
	if err := s.open(ctx); err != nil {
		return err
	}
	started := Started{Address: s.listener.Addr().String(), DataDir: s.c.DataDir, URL: s.url()}
	token, made, err := s.in.Bootstrap(ctx, s.c.BootstrapToken)
	if err != nil {
		return fmt.Errorf("make the first administrator's token: %w", err)
	}
	if started.Given = made && s.c.BootstrapToken != ""; made && !started.Given {
		started.Token = token
	}
	if err := s.noteConfig(ctx); err != nil {
		return err
	}
	if err := s.compose(ctx); err != nil {
		return err
	}
	s.serve()
	s.work()
	s.startReceivers()
	s.ready.Store(true)
	s.notify.say(stateReady, "STATUS=serving on "+s.url())
	s.logger.Info("serving", "url", s.url(), "data_dir", s.c.DataDir, "tenants", len(s.in.Tenants()), "version", s.rt.Version)
	if s.certs == nil && !s.c.Loopback() {
		s.logger.Warn("serving without TLS on an address that others reach: tokens can be read on their way; give --tls-cert and --tls-key, or put TLS in front", "listen", s.c.Listen)
	}
	if s.rt.Started != nil {
		return s.rt.Started(started)
	}
	return nil
}

// open opens the data directory, and makes it if there is none.
func (s *running) open(ctx context.Context) error {
	lc, err := LogConfig(&s.c)
	if err != nil {
		return err
	}
	s.in, err = tenant.Open(ctx, tenant.Options{
		Dir: s.c.DataDir, StateDir: s.c.StateDir, OriginPrefix: s.c.Origin, Log: lc, Logger: s.logger,
		Appended: func(l *tenant.Log, took time.Duration) {
			if m := s.metrics; m != nil {
				m.Appended(l, took)
			}
		},
	})
	if err == nil {
		return nil
	}
	var locked *vfs.LockedError
	switch {
	case errors.As(err, &locked):
		return fmt.Errorf("the data directory %s is in use (%s); stop that service first, or give another --data-dir", s.c.DataDir, strings.TrimSpace(string(locked.Holder)))
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("this user may not read and write all of the data directory %s; make it the owner of it and of everything in it, or give another --data-dir: %w", s.c.DataDir, err)
	}
	return fmt.Errorf("open %s: %w", s.c.DataDir, err)
}

// LogConfig is what each log is opened with. It reads the policy file.
func LogConfig(c *config.Config) (immutable.Config, error) {
	lc := immutable.Config{
		RotateSize: c.Log.RotateSize, NoSignatures: !c.Log.Blockchain, EpochDuration: c.Log.EpochDuration, EpochEntries: c.Log.EpochEntries,
		WitnessTimeout: c.Log.WitnessTimeout, TimeAuthorities: c.Log.TimeAuthorities,
	}
	if c.Log.Policy == "" {
		return lc, nil
	}
	data, err := readSmall("log.policy", c.Log.Policy, maxPolicy)
	if err != nil {
		return lc, err
	}
	if lc.Policy, err = proof.ParsePolicy(data); err != nil {
		return lc, fmt.Errorf("log.policy: %s: %w", c.Log.Policy, err)
	}
	return lc, nil
}

func readSmall(setting, name string, limit int64) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", setting, err)
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, fmt.Errorf("%s: %s is no file of at most %d bytes", setting, name, limit)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", setting, err)
	}
	return data, nil
}

// Mail is the mail server of the configuration, with its password.
func Mail(c *config.Config) (alert.SMTP, error) {
	m := alert.SMTP{Address: c.Alerts.SMTP.Address, From: c.Alerts.SMTP.From, Username: c.Alerts.SMTP.Username, TLS: c.Alerts.SMTP.TLS}
	if c.Alerts.SMTP.PasswordFile == "" {
		return m, nil
	}
	data, err := readSmall("alerts.smtp.password_file", c.Alerts.SMTP.PasswordFile, maxPassword)
	if err != nil {
		return m, err
	}
	m.Password = strings.TrimRight(string(data), "\r\n")
	return m, nil
}

// noteConfig has the log of the log say what is configured otherwise than at the last start.
func (s *running) noteConfig(ctx context.Context) error {
	values, err := s.c.Values()
	if err != nil {
		return fmt.Errorf("write the configuration as JSON: %w", err)
	}
	if err := s.in.NoteConfig(ctx, json.RawMessage(values)); err != nil {
		return fmt.Errorf("record the configuration: %w", err)
	}
	return nil
}

// compose makes what stands on the installation, each part knowing only what it needs.
func (s *running) compose(ctx context.Context) error {
	var issuers []authn.Issuer
	for _, is := range s.c.OIDC {
		issuers = append(issuers, authn.Issuer{URL: is.URL, Audience: is.Audience, JWKSFile: is.JWKSFile})
	}
	var err error
	if s.auth, err = authn.New(ctx, s.in, authn.Config{OIDC: issuers, MTLS: s.c.MTLS, Logger: s.logger}); err != nil {
		return err
	}
	mail, err := Mail(&s.c)
	if err != nil {
		return err
	}
	s.alerts = alert.New(alert.Options{Installation: s.in, Logger: s.logger, AllowPrivate: s.c.Alerts.AllowPrivate, SMTP: mail})
	s.monitor = monitor.New(monitor.Options{Installation: s.in, Logger: s.logger, Share: s.c.Scrub, OnEvent: s.alerts.Raise})
	s.sources = source.New(source.Options{Installation: s.in, Logger: s.logger})
	s.sinks = sink.New(sink.Options{Installation: s.in, Logger: s.logger, AllowPrivate: s.c.Alerts.AllowPrivate, Changed: s.sinkChanged})
	s.conns = newConnections(s.connectionLimit())
	s.metrics = metrics.New(metrics.Options{
		Installation: s.in, Version: s.rt.Version, Ready: func() bool { return s.isReady(ctx) == nil }, Connections: s.countConnections,
		Expires: s.expires, Verification: s.verification, Alerts: s.firing, Sources: s.sourceCounts, Sinks: s.sinkCounts,
	})
	s.api = New(Options{
		Installation: s.in, Auth: s.auth, Monitor: s.monitor, Alerts: s.alerts, Registry: s.sources, Sinks: s.sinks, Metrics: s.metrics, PublicMetrics: s.c.Metrics == config.MetricsPublic, LocalMetrics: s.c.Metrics == config.MetricsAuto && s.c.Loopback(), Ready: s.isReady,
		Observe: s.metrics.Observe, Logger: s.logger,
	})
	return s.makeReceivers()
}

// connectionLimit keeps a quarter of what the process may open for files.
func (s *running) connectionLimit() int {
	limit := s.c.MaxConnections
	if n := descriptors(); n > 0 && uint64(limit) > n/4*3 {
		limit = max(int(n/4*3), 1)
		s.logger.Debug("fewer connections than max_connections, for want of file descriptors; raise the limit (ulimit -n, LimitNOFILE)", "connections", limit, "descriptors", n)
	}
	return limit
}

// notReady says why requests should not come here, in words that anybody may read. What names logs is for the server's own log.
type notReady struct {
	public string
	err    error
}

func (e *notReady) Error() string { return fmt.Sprintf("%s: %v", e.public, e.err) }

func (e *notReady) Unwrap() error { return e.err }

// isReady is /readyz: whether requests should come here. A log that cannot be opened does not stop the others; without the
// installation's own log nothing that must be recorded can be done, a full disk stops all of them, and a writer that has stopped is
// taken up again by a restart alone.
func (s *running) isReady(context.Context) error {
	if !s.ready.Load() {
		return &notReady{"starting or stopping", errors.New("not now")}
	}
	full, records := s.in.Space()
	for _, t := range s.in.Tenants() {
		l, err := t.Log(tenant.SystemName)
		if err == nil {
			err = l.Err()
		}
		switch {
		case err == nil:
		case noSpace(err):
			return &notReady{"the disk was full when the service started: appends are refused, and reads of tenants that demand records; make room and restart the service", err}
		case t == s.in.System():
			return &notReady{"the installation's own log cannot be written: changes are refused; the server's own log says why", err}
		}
	}
	switch {
	case records != nil:
		return &notReady{"the disk is full, also for records: appends are refused, and reads of tenants that demand records; make room, and it goes on", records}
	case full:
		return &notReady{"the disk is full: appends are refused, reads are answered as long as there is room for their records; make room, and it goes on", tenant.ErrFull}
	}
	return s.stoppedWriter()
}

// noSpace says whether a log was opened for reading only because the disk was full.
func noSpace(err error) bool { return errors.Is(err, immutable.ErrNoSpace) || vfs.IsNoSpace(err) }

// stoppedWriter says whether a log takes no appends since a write or a sync of it failed.
func (s *running) stoppedWriter() error {
	for _, t := range s.in.Tenants() {
		for _, l := range t.Logs() {
			if l.Log == nil || l.Err() != nil {
				continue
			}
			if err := l.Writable(); errors.Is(err, immutable.ErrWriterFailed) {
				return &notReady{"the writer of a log has stopped after a write or a sync that failed, or a fork that a witness proved: look at the disk, then restart the service", fmt.Errorf("log %s of tenant %s: %w", l.Name(), t.Name(), err)}
			}
		}
	}
	return nil
}

func (s *running) countConnections() metrics.Connections {
	open, idle, evicted, refused := s.conns.counts()
	return metrics.Connections{Open: open, Idle: idle, Evicted: evicted, Refused: refused}
}

func (s *running) expires() time.Time {
	if s.certs == nil {
		return time.Time{}
	}
	return s.certs.expires()
}

func (s *running) verification(l *tenant.Log) metrics.Verification {
	st := s.monitor.Status(l)
	return metrics.Verification{Results: st.Verifications, Refuted: st.Refuted, Last: st.LastTime, Scrubbed: st.Scrubbed, ScrubShare: st.ScrubbedShare, FileAlarms: st.FileAlarms}
}

func (s *running) sourceCounts() map[string]metrics.SourceCount {
	out := map[string]metrics.SourceCount{}
	for kind, c := range s.sources.Counts() {
		out[kind] = metrics.SourceCount{Accepted: c.Accepted, Rejected: c.Rejected}
	}
	return out
}

func (s *running) firing(name string) []metrics.AlertCount {
	counts := map[metrics.AlertCount]int{}
	for _, st := range s.alerts.Active(name) {
		if st.Phase == alert.Firing {
			counts[metrics.AlertCount{Severity: string(st.Severity), Kind: string(st.Kind)}]++
		}
	}
	var all []metrics.AlertCount
	for k, n := range counts {
		k.N = n
		all = append(all, k)
	}
	return all
}

// sinkChanged raises, or ends, the alert that a sink does not deliver.
func (s *running) sinkChanged(n sink.Notice) {
	s.alerts.Raise(alert.Event{
		Key: string(alert.DeliveryFailed) + "/" + n.Sink, Tenant: n.Tenant, Log: n.Log, Kind: alert.DeliveryFailed, Summary: n.What, Resolved: !n.Wrong,
		Details: map[string]string{"sink": n.Sink, "deadLetters": strconv.Itoa(n.Dead), "lag": strconv.FormatUint(n.Lag, 10)},
	})
}

func (s *running) sinkCounts(name string) (all []metrics.Sink) {
	for k, st := range s.sinks.Status(name) {
		all = append(all, metrics.Sink{
			Log: st.LogName(), Name: k, State: st.State, Lag: st.Lag, LagSeconds: st.LagSeconds, Delivered: st.Delivered, Failures: st.Failures,
			DeadLetters: st.DeadLetters, FailedTries: st.Tries,
		})
	}
	return all
}

// serve begins to answer.
func (s *running) serve() {
	s.http = httpServer(withRequestID(s.metrics.InFlight(s.api), s.logger), s.c.IdleTimeout, s.logger)
	s.http.ConnState = s.conns.state
	s.serving.Go(func() {
		var err error
		if s.certs != nil {
			s.http.TLSConfig = s.certs.config()
			err = s.http.ServeTLS(s.listener, "", "")
		} else {
			err = s.http.Serve(s.listener)
		}
		s.ended(err)
	})
	if s.profiles == nil {
		return
	}
	s.pprof = httpServer(profiles(), s.c.IdleTimeout, s.logger)
	s.serving.Go(func() { s.ended(s.pprof.Serve(s.profiles)) })
	s.logger.Info("serving profiles", "url", "http://"+s.profiles.Addr().String()+"/debug/pprof/")
}

func (s *running) ended(err error) {
	if !errors.Is(err, http.ErrServerClosed) {
		s.failed <- err
	}
}

// work starts what goes on in the background. None of it outlives stop.
func (s *running) work() {
	ctx, cancel := context.WithCancel(context.Background())
	s.end = cancel
	run := func(name string, f func(context.Context) error) {
		s.background.Go(func() {
			if err := f(ctx); err != nil && ctx.Err() == nil {
				s.logger.Error("ended by itself", "part", name, "error", err)
			}
		})
	}
	run("alerts", s.alerts.Run)
	run("monitor", s.monitor.Run)
	run("sinks", s.sinks.Run)
	if s.certs != nil {
		run("certificates", func(ctx context.Context) error { s.certs.watch(ctx); return nil })
	}
	run("watchdog", func(ctx context.Context) error {
		s.notify.watchdog(ctx, s.c.Systemd.Watchdog, s.alive)
		return nil
	})
}

// alive returns when the locks that every request needs can be had.
func (s *running) alive() {
	for _, t := range s.in.Tenants() {
		for _, l := range t.Logs() {
			if l.Log != nil {
				l.Size()
			}
		}
	}
}

// stop takes down what start has made, however far it came.
func (s *running) stop() error {
	s.ready.Store(false)
	s.notify.say(stateStopping)
	errs := append(s.stopReceivers(), s.stopServing()...)
	if s.end != nil {
		s.end()
		s.background.Wait()
	}
	// From here on nothing is appended any more but the record of the stop.
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	if s.auth != nil {
		if err := s.auth.Close(ctx); err != nil {
			errs = append(errs, fmt.Errorf("record refused requests: %w", err))
		}
	}
	if s.sources != nil {
		if err := s.sources.Close(ctx); err != nil {
			errs = append(errs, fmt.Errorf("record what was refused: %w", err))
		}
	}
	if s.in != nil {
		if err := s.in.Close(ctx); err != nil {
			errs = append(errs, fmt.Errorf("close %s: %w", s.c.DataDir, err))
		}
	}
	for _, l := range []net.Listener{s.listener, s.profiles} {
		if l != nil {
			_ = l.Close() // where it was never served, else it is closed already
		}
	}
	err := errors.Join(errs...)
	if err == nil && s.end != nil {
		s.logger.Info("stopped")
	}
	return err
}

// stopServing closes the listeners and waits for requests under way. What is not done in time is cut off: an append that was
// not answered is uncertain to its client, and none that was is lost.
func (s *running) stopServing() []error {
	if s.http == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.c.ShutdownTime)
	defer cancel()
	var errs []error
	drained := make(chan error, 1)
	go func() { drained <- s.http.Shutdown(ctx) }() // listeners close at once
	if err := s.api.Shutdown(ctx); err != nil {
		s.logger.Warn("requests were cut off", "after", s.c.ShutdownTime.String(), "error", err)
	}
	if err := <-drained; err != nil {
		_ = s.http.Close() // connections that still are open are cut
		// Handlers whose connections are cut end soon, and the logs must not be closed under them.
		again, cancel := context.WithTimeout(context.Background(), s.c.ShutdownTime)
		defer cancel()
		if err := s.api.Shutdown(again); err != nil {
			errs = append(errs, err)
		}
	}
	if s.pprof != nil {
		_ = s.pprof.Close() // a profile that is being taken is of no use any more
	}
	s.serving.Wait()
	return errs
}

// url is where a client on this host reaches the service.
func (s *running) url() string {
	scheme := "http"
	if s.certs != nil {
		scheme = "https"
	}
	host, port, err := net.SplitHostPort(s.listener.Addr().String())
	if err != nil {
		return scheme + "://" + s.listener.Addr().String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}
