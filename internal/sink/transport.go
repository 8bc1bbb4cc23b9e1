package sink

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"time"

	"github.com/tree-of-life-system/immutable/internal/outbound"
)

// transport is the way to one receiver. One goroutine uses it.
type transport interface {
	// send brings the events of a batch to the receiver, in their order. nil says that it has taken all of them, as far as its
	// protocol can say so. After an error any of them may have arrived; they are sent again.
	send(ctx context.Context, b *batch) error

	// unsure is, after send has failed, the index of the first entry of an earlier batch that the receiver may not have got all
	// the same, as protocols without acknowledgements have it. It is given out once.
	unsure() (first uint64, ok bool)

	close()
}

// transport makes the way to a sink's receiver.
func (m *Manager) transport(tenantName string, s *Sink) (transport, error) {
	roots := m.o.RootCAs
	if s.CA != "" {
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM([]byte(s.CA)) {
			return nil, bad("ca", "it holds no certificate in PEM")
		}
	}
	h := httpWay{s: s, client: outbound.Client(m.o.AllowPrivate, roots), now: m.o.Now}
	switch s.Type {
	case Webhook:
		return &webhook{h}, nil
	case OTLP:
		return &otlpWriter{h}, nil
	case Syslog:
		return newSyslog(s, m.o.AllowPrivate, roots, m.o.Now), nil
	case File:
		return &fileWriter{fs: m.fs, dir: m.fileDir(tenantName, s.Name), rotate: s.Rotate, keep: s.Keep}, nil
	}
	return nil, bad("type", "%.40q", s.Type)
}

func (m *Manager) fileDir(tenantName, sink string) string {
	return filepath.Join(m.o.Dir, tenantName, sink)
}

// httpWay is what sinks over HTTP have in common.
type httpWay struct {
	s      *Sink
	client *http.Client
	now    func() time.Time
}

func (h *httpWay) unsure() (uint64, bool) { return 0, false }
func (h *httpWay) close()                 { h.client.CloseIdleConnections() }

func (h *httpWay) post(ctx context.Context, kind string, body []byte, header http.Header) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, outbound.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.s.URL, bytes.NewReader(body))
	if err != nil {
		return nil, outbound.Explain(err)
	}
	req.Header = header
	req.Header.Set("Content-Type", kind)
	return outbound.Send(h.client, req)
}

// webhook posts batches, signed after Standard Webhooks.
type webhook struct{ httpWay }

// message is the body of a webhook: type, timestamp and data, after Standard Webhooks.
type message struct {
	Type      string      `json:"type"`      // "log.entries"
	Timestamp time.Time   `json:"timestamp"` // of the newest entry
	Data      messageData `json:"data"`
}

type messageData struct {
	Sink   string            `json:"sink"`
	Origin string            `json:"origin"`
	Format Format            `json:"format"`
	Size   uint64            `json:"size"` // of the newest checkpoint
	First  uint64            `json:"first"`
	Last   uint64            `json:"last"`
	Events []json.RawMessage `json:"events"`
}

func (w *webhook) send(ctx context.Context, b *batch) error {
	last := b.last().entry
	d := messageData{Sink: w.s.Name, Origin: b.origin, Format: w.s.Format, Size: b.size, First: b.first(), Last: last.Index}
	for _, e := range b.events {
		d.Events = append(d.Events, e.data)
	}
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(message{"log.entries", last.Timestamp, d}); err != nil {
		return err
	}
	header := http.Header{}
	outbound.SignWebhook(header, b.id(w.s.Name), w.now(), body.Bytes(), w.s.Secrets)
	_, err := w.post(ctx, "application/json", body.Bytes(), header)
	return err
}

// id names a batch: the same for every try, and for another batch another one.
func (b *batch) id(sink string) string {
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "%s\n%s\n", sink, b.origin)
	for _, e := range b.events {
		_, _ = fmt.Fprintf(h, "%d %s\n", e.entry.Index, e.entry.Leaf)
	}
	return "msg_" + hex.EncodeToString(h.Sum(nil)[:12])
}
