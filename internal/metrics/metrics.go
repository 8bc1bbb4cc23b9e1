// Package metrics says in Prometheus' format how the service and its logs do: what an operator alerts on and looks at first.
// docs/operations.md lists every name; the dashboard and the rules under deploy/ use no others.
package metrics

import (
	"net/http"
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// Options is where the numbers come from. The functions may be nil; they are called at each scrape and must be quick.
type Options struct {
	Installation *tenant.Installation
	Version      string

	Ready        func() bool
	Connections  func() Connections
	Expires      func() time.Time                 // of the TLS certificate in use; zero without TLS
	Verification func(*tenant.Log) Verification   // what is known of a log's verification
	Alerts       func(tenant string) []AlertCount // those that fire now
	Sources      func() map[string]SourceCount    // what came from outside, by kind
	Sinks        func(tenant string) []Sink       // what entries go on to

	Now func() time.Time // nil is time.Now
}

// Connections is what the listener holds.
type Connections struct {
	Open, Idle       int
	Evicted, Refused uint64
}

// Verification is what is known of a log's verification.
type Verification struct {
	Results    map[string]uint64 // verifications so far, by verdict, or "failed" or "cancelled"
	Refuted    bool              // something is wrong now
	Last       time.Time         // the end of the last full one; zero is never
	Scrubbed   time.Time         // everything was read again since; zero is never
	ScrubShare float64           // of the round under way
	FileAlarms uint64            // files that were not what they must be
}

// AlertCount is how many alerts of a kind fire.
type AlertCount struct {
	Severity, Kind string
	N              int
}

// SourceCount is what came of one kind of source.
type SourceCount struct {
	Accepted uint64
	Rejected map[string]uint64 // by reason
}

// Limits of one scrape.
const (
	scrapesAtOnce = 4
	scrapeTime    = 10 * time.Second
)

// Metrics has a registry of its own. Its methods may be called from any number of goroutines.
type Metrics struct {
	handler  http.Handler
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	underway prometheus.Gauge
	writes   *prometheus.HistogramVec
}

// New makes the metrics of one service.
func New(o Options) *Metrics {
	if o.Now == nil {
		o.Now = time.Now
	}
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "immutable_http_requests_total", Help: "Requests answered."}, []string{"method", "route", "status"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "immutable_http_request_duration_seconds", Help: "From a request's header to the end of its answer; streams last as long as their readers stay.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60},
		}, []string{"route"}),
		underway: prometheus.NewGauge(prometheus.GaugeOpts{Name: "immutable_http_requests_in_flight", Help: "Requests that are being answered."}),
		writes: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "immutable_log_write_duration_seconds", Help: "From an append to its entries being durable.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .02, .05, .1, .25, 1, 5},
		}, []string{"tenant", "log"}),
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(m.requests, m.duration, m.underway, m.writes,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		newService(o), newLogs(o), newSinks(o))
	m.handler = promhttp.HandlerFor(reg, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: scrapesAtOnce, Timeout: scrapeTime})
	return m
}

// ServeHTTP answers a scrape.
func (m *Metrics) ServeHTTP(w http.ResponseWriter, r *http.Request) { m.handler.ServeHTTP(w, r) }

// Observe counts a request that was answered. pattern is the route's, never the path: what strangers ask for must not make
// new series.
func (m *Metrics) Observe(method, pattern string, status int, took time.Duration) {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
	default:
		method = "other"
	}
	if pattern == "" {
		pattern = "none"
	}
	m.requests.WithLabelValues(method, pattern, strconv.Itoa(status)).Inc()
	m.duration.WithLabelValues(pattern).Observe(took.Seconds())
}

// InFlight counts the requests under way.
func (m *Metrics) InFlight(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.underway.Inc()
		defer m.underway.Dec()
		next.ServeHTTP(w, r)
	})
}

// Appended counts an append that became durable.
func (m *Metrics) Appended(l *tenant.Log, took time.Duration) {
	m.writes.WithLabelValues(l.Tenant().Name(), l.Name()).Observe(took.Seconds())
}

// service is what there is once in a process.
type service struct {
	o                                                                 Options
	build, ready, connections, closed, expires, free, size, up, alert *prometheus.Desc
	came, refused                                                     *prometheus.Desc
}

func newService(o Options) *service {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("immutable_"+name, help, labels, nil)
	}
	return &service{
		o:           o,
		build:       d("build_info", "Always 1; the labels say what runs.", "version", "goversion"),
		ready:       d("ready", "1 while /readyz says so."),
		connections: d("http_connections", "Open connections.", "state"),
		closed:      d("http_connections_closed_total", "Connections closed for want of room: idle ones that gave way, and new ones that found all others at work.", "reason"),
		expires:     d("tls_certificate_expiry_timestamp_seconds", "When the certificate in use ends."),
		free:        d("disk_free_bytes", "What the service may still write beside its data directory."),
		size:        d("disk_size_bytes", "The file system that the data directory is on."),
		up:          d("tenant_up", "1 for a tenant that could be opened.", "tenant"),
		alert:       d("alerts_firing", "Alerts that fire now.", "tenant", "severity", "kind"),
		came:        d("source_entries_total", "Entries from webhooks and other foreign protocols.", "kind"),
		refused:     d("source_rejected_total", "What of them was refused.", "kind", "reason"),
	}
}

func (s *service) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{s.build, s.ready, s.connections, s.closed, s.expires, s.free, s.size, s.up, s.alert, s.came, s.refused} {
		ch <- d
	}
}

func (s *service) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(s.build, 1, s.o.Version, runtime.Version())
	if s.o.Ready != nil {
		gauge(s.ready, flag(s.o.Ready()))
	}
	if s.o.Connections != nil {
		c := s.o.Connections()
		gauge(s.connections, float64(c.Open-c.Idle), "active")
		gauge(s.connections, float64(c.Idle), "idle")
		ch <- prometheus.MustNewConstMetric(s.closed, prometheus.CounterValue, float64(c.Evicted), "idle")
		ch <- prometheus.MustNewConstMetric(s.closed, prometheus.CounterValue, float64(c.Refused), "full")
	}
	if s.o.Expires != nil {
		if end := s.o.Expires(); !end.IsZero() {
			gauge(s.expires, seconds(end))
		}
	}
	if free, size, err := disk(s.o.Installation.Dir()); err == nil {
		gauge(s.free, float64(free))
		gauge(s.size, float64(size))
	}
	if s.o.Sources != nil {
		for kind, c := range s.o.Sources() {
			ch <- prometheus.MustNewConstMetric(s.came, prometheus.CounterValue, float64(c.Accepted), kind)
			for reason, n := range c.Rejected {
				ch <- prometheus.MustNewConstMetric(s.refused, prometheus.CounterValue, float64(n), kind, reason)
			}
		}
	}
	for _, t := range s.o.Installation.Tenants() {
		gauge(s.up, flag(t.Err() == nil), t.Name())
		if s.o.Alerts != nil {
			for _, a := range s.o.Alerts(t.Name()) {
				gauge(s.alert, float64(a.N), t.Name(), a.Severity, a.Kind)
			}
		}
	}
}

func flag(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }
