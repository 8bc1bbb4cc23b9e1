package peer

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploggrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploghttp"
	"go.opentelemetry.io/otel/log"
	sdk "go.opentelemetry.io/otel/sdk/log"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/trace"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/config"
	"github.com/tree-of-life-system/immutable/internal/server"
)

const token = "first-administrator-of-a-test"

// service is the whole service, in this process, with a listener for gRPC.
type service struct {
	addr, grpc string
	dir        string
	pool       *x509.CertPool // of its certificate; nil without TLS
	stop       func()
}

// serve runs the service in dir.
func serve(t testing.TB, dir string, withTLS bool) *service {
	t.Helper()
	s := &service{dir: dir, grpc: free(t)}
	c := config.New()
	c.Listen, c.DataDir, c.BootstrapToken = "127.0.0.1:0", filepath.Join(dir, "data"), token
	c.StateDir = filepath.Join(dir, "state")
	c.Receive.Log, c.Receive.OTLPGRPC = "default/main", s.grpc
	if withTLS {
		c.TLS.Cert, c.TLS.Key, s.pool = certificate(t, dir)
	}
	ctx, cancel := context.WithCancel(context.Background())
	started, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- server.Run(ctx, c, server.Runtime{Version: "test", Started: func(st server.Started) error {
			started <- st.Address
			return nil
		}})
	}()
	select {
	case s.addr = <-started:
	case err := <-ended:
		t.Fatal(err)
	}
	stopped := false
	s.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(s.stop)
	return s
}

// free is an address that nobody listens on now.
func free(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func certificate(t testing.TB, dir string) (cert, key string, pool *x509.CertPool) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert, key, pool = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), x509.NewCertPool()
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	pool.AppendCertsFromPEM(certPEM)
	for name, data := range map[string][]byte{cert: certPEM, key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key, pool
}

// entries stops the service, verifies its log and returns what is in it.
func (s *service) entries(t testing.TB) []immutable.Entry {
	t.Helper()
	s.stop()
	logDir := filepath.Join(s.dir, "data", "tenants", "default", "logs", "main")
	c := &immutable.Config{StateDir: filepath.Join(s.dir, "state", "default"), ReadOnly: true}
	rep, err := immutable.VerifyDir(t.Context(), logDir, c, immutable.VerifyOptions{})
	if err != nil || rep.Verdict != immutable.Proven {
		t.Errorf("the log is %+v, %v", rep, err)
	}
	l, err := immutable.Open(logDir, c)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var all []immutable.Entry
	for e, err := range l.Entries(t.Context(), immutable.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Control == nil {
			all = append(all, e)
		}
	}
	return all
}

// exporters are the SDK's own, as an application configures them.
func exporters(t testing.TB, s *service) map[string]sdk.Exporter {
	t.Helper()
	ctx := t.Context()
	headers := map[string]string{"Authorization": "Bearer " + token}
	all := map[string]sdk.Exporter{}
	add := func(name string, e sdk.Exporter, err error) {
		if err != nil {
			t.Fatal(err)
		}
		all[name] = e
	}
	if s.pool != nil {
		c := &tls.Config{RootCAs: s.pool}
		e, err := otlploghttp.New(ctx, otlploghttp.WithEndpointURL("https://"+s.addr+"/otlp/default/main/v1/logs"), otlploghttp.WithHeaders(headers), otlploghttp.WithTLSClientConfig(c))
		add("https", e, err)
		return all
	}
	e, err := otlploghttp.New(ctx, otlploghttp.WithEndpointURL("http://"+s.addr+"/otlp/default/main/v1/logs"), otlploghttp.WithHeaders(headers))
	add("http", e, err)
	e, err = otlploghttp.New(ctx, otlploghttp.WithEndpointURL("http://"+s.addr+"/otlp/default/main/v1/logs"), otlploghttp.WithHeaders(headers), otlploghttp.WithCompression(otlploghttp.GzipCompression))
	add("http, gzip", e, err)
	g, err := otlploggrpc.New(ctx, otlploggrpc.WithEndpoint(s.grpc), otlploggrpc.WithInsecure(), otlploggrpc.WithHeaders(headers))
	add("grpc", g, err)
	g, err = otlploggrpc.New(ctx, otlploggrpc.WithEndpoint(s.grpc), otlploggrpc.WithInsecure(), otlploggrpc.WithHeaders(headers), otlploggrpc.WithCompressor("gzip"))
	add("grpc, gzip", g, err)
	return all
}

// TestSDKExportersAreUnderstood sends records with the OpenTelemetry SDK over each way, and finds every one of them in the log, once,
// with all that it said.
func TestSDKExportersAreUnderstood(t *testing.T) {
	for _, withTLS := range []bool{false, true} {
		s := serve(t, t.TempDir(), withTLS)
		all := exporters(t, s)
		if withTLS {
			g, err := otlploggrpc.New(t.Context(), otlploggrpc.WithEndpoint(s.grpc), otlploggrpc.WithTLSCredentials(credentialsOf(s.pool)), otlploggrpc.WithHeaders(map[string]string{"Authorization": "Bearer " + token}))
			if err != nil {
				t.Fatal(err)
			}
			all["grpcs"] = g
		}
		const each = 700 // more than a batch of the SDK's
		trace1, span1 := trace.TraceID{1, 2, 3}, trace.SpanID{4, 5}
		traced := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace1, SpanID: span1, TraceFlags: trace.FlagsSampled}))
		at := time.Date(2026, 11, 23, 1, 2, 3, 456789012, time.UTC)
		for name, e := range all {
			p := sdk.NewLoggerProvider(sdk.WithProcessor(sdk.NewBatchProcessor(e)), sdk.WithResource(resource.NewSchemaless(attribute.String("service.name", "shop"), attribute.String("host.name", "web-1"))))
			l := p.Logger("lib", log.WithInstrumentationVersion("v1"))
			for i := range each {
				var r log.Record
				r.SetTimestamp(at)
				r.SetSeverity(log.SeverityWarn)
				r.SetSeverityText("WARN")
				r.SetEventName("order.paid")
				r.SetBody(attribute.StringValue(fmt.Sprintf("%s %d", name, i)))
				r.AddAttributes(attribute.Int64("big", 1<<62), attribute.Float64("amount", 12.5), attribute.Bool("ok", true), attribute.ByteSlice("raw", []byte{0, 255}), attribute.Slice("list", attribute.IntValue(1), attribute.StringValue("two")), attribute.Map("map", attribute.String("k", "v")))
				l.Emit(traced, r)
				if i%200 == 199 { // the SDK drops what its queue has no room for
					if err := p.ForceFlush(t.Context()); err != nil {
						t.Fatalf("%s: %v", name, err)
					}
				}
			}
			if err := p.Shutdown(t.Context()); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		const want = `{"source":{"provider":"otlp"},"eventName":"order.paid","severityNumber":13,"severityText":"WARN","attributes":{"big":"4611686018427387904","amount":12.5,"ok":true,"raw":{"bytesValue":"AP8="},"list":[1,"two"],"map":{"k":"v"}},"timeUnixNano":"1795395723456789012","observedTimeUnixNano":"`
		seen := map[string]int{}
		for _, e := range s.entries(t) {
			seen[e.Message]++
			if m := string(e.Metadata); !strings.HasPrefix(m, want) || !strings.Contains(m, `"flags":1,"scope":{"name":"lib","version":"v1"},"resource":{"attributes":{"`) {
				t.Fatalf("got  %s\nwant %s", m, want)
			}
			if e.Level != immutable.Warn || e.TraceID != trace1.String() || e.SpanID != span1.String() || !e.EventTime.Equal(at) || e.Hostname != "web-1" {
				t.Fatalf("got %+v", e)
			}
		}
		for name := range all {
			for i := range each {
				if m := fmt.Sprintf("%s %d", name, i); seen[m] != 1 {
					t.Errorf("%q is there %d times", m, seen[m])
				}
			}
		}
		if len(seen) != each*len(all) {
			t.Errorf("%d messages of %d", len(seen), each*len(all))
		}
	}
}

// BenchmarkSDK has the SDK's exporters send b.N records, in batches of 512 from two goroutines: ns/op is the time of a record, durable
// and answered, with the sender in the same process.
func BenchmarkSDK(b *testing.B) {
	for _, name := range []string{"http", "grpc"} {
		b.Run(name, func(b *testing.B) {
			s := serve(b, b.TempDir(), false)
			e := exporters(b, s)[name]
			const batch = 512
			k := &keep{}
			l := sdk.NewLoggerProvider(sdk.WithProcessor(k), sdk.WithResource(resource.NewSchemaless(attribute.String("service.name", "shop"), attribute.String("host.name", "web-1")))).Logger("lib")
			for i := range batch {
				var r log.Record
				r.SetTimestamp(time.Now())
				r.SetSeverity(log.SeverityInfo)
				r.SetBody(attribute.StringValue("GitHub commit created"))
				r.AddAttributes(attribute.String("repo", "tree-of-life-system"), attribute.String("sha", fmt.Sprintf("%040x", i)), attribute.String("author", "ann@example.com"), attribute.Int("files", 7), attribute.String("http.request.method", "POST"))
				l.Emit(b.Context(), r)
			}
			var left atomic.Int64
			left.Store(int64(b.N))
			b.ResetTimer()
			done := make(chan error)
			const senders = 4
			for range senders {
				go func() {
					for {
						n := left.Add(-batch) + batch
						if n <= 0 {
							done <- nil
							return
						}
						rs := append([]sdk.Record(nil), k.records[:min(n, batch)]...)
						rs[0].SetTimestamp(time.Now().Add(time.Duration(n))) // no export is another's repeat
						if err := e.Export(context.Background(), rs); err != nil {
							done <- err
							return
						}
					}
				}()
			}
			for range senders {
				if err := <-done; err != nil {
					b.Error(err)
				}
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
		})
	}
}

// keep is a processor that keeps what is emitted.
type keep struct{ records []sdk.Record }

func (k *keep) OnEmit(_ context.Context, r *sdk.Record) error {
	k.records = append(k.records, r.Clone())
	return nil
}
func (k *keep) Enabled(context.Context, sdk.EnabledParameters) bool { return true }
func (k *keep) Shutdown(context.Context) error                      { return nil }
func (k *keep) ForceFlush(context.Context) error                    { return nil }
