package metrics

import "github.com/prometheus/client_golang/prometheus"

// Sink is how a sink of a tenant does.
type Sink struct {
	Log, Name                string
	State                    string // "active", "failing", "stalled" or "paused"
	Lag                      uint64
	LagSeconds               float64
	Delivered, Failures      uint64
	DeadLetters, FailedTries int
}

// sinks says how each sink does.
type sinks struct {
	o                                                                Options
	up, lag, lagSeconds, delivered, failures, deadLetters, failingIn *prometheus.Desc
}

func newSinks(o Options) *sinks {
	d := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("immutable_sink_"+name, help, []string{"tenant", "log", "sink"}, nil)
	}
	return &sinks{
		o:           o,
		up:          d("up", "1 while the sink delivers, or has nothing to deliver; 0 while it fails, is stalled or paused."),
		lag:         d("lag_entries", "Entries of the log that the sink has not looked at."),
		lagSeconds:  d("lag_seconds", "Age of the oldest entry that waits for the sink."),
		delivered:   d("delivered_total", "Events delivered, those that were sent again too."),
		failures:    d("failures_total", "Tries that failed, since the start."),
		deadLetters: d("dead_letters", "Entries that the receiver refused for good."),
		failingIn:   d("failed_tries", "Tries in a row that failed."),
	}
}

func (s *sinks) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{s.up, s.lag, s.lagSeconds, s.delivered, s.failures, s.deadLetters, s.failingIn} {
		ch <- d
	}
}

func (s *sinks) Collect(ch chan<- prometheus.Metric) {
	if s.o.Sinks == nil {
		return
	}
	for _, t := range s.o.Installation.Tenants() {
		for _, k := range s.o.Sinks(t.Name()) {
			put := func(d *prometheus.Desc, kind prometheus.ValueType, v float64) {
				ch <- prometheus.MustNewConstMetric(d, kind, v, t.Name(), k.Log, k.Name)
			}
			put(s.up, prometheus.GaugeValue, flag(k.State == "active"))
			put(s.lag, prometheus.GaugeValue, float64(k.Lag))
			put(s.lagSeconds, prometheus.GaugeValue, k.LagSeconds)
			put(s.delivered, prometheus.CounterValue, float64(k.Delivered))
			put(s.failures, prometheus.CounterValue, float64(k.Failures))
			put(s.deadLetters, prometheus.GaugeValue, float64(k.DeadLetters))
			put(s.failingIn, prometheus.GaugeValue, float64(k.FailedTries))
		}
	}
}
