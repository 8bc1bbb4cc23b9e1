package sink

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/outbound"
)

const (
	// enterprise is the number after the @ of the structured data. 32473 is the one that RFC 5612 keeps for examples: there is
	// none of our own.
	enterprise = 32473
	facility   = 13               // log audit
	mayBeLost  = 10 * time.Second // what was sent so short before a connection broke is sent again
	ackEvery   = 2 * time.Millisecond
)

// syslogWriter sends RFC 5424 messages with octet counting (RFC 6587, RFC 5425). The protocol has no acknowledgements. A batch is
// taken for delivered when the receiver's system has acknowledged its bytes, where ours tells; what was sent shortly before a
// connection broke is sent again.
type syslogWriter struct {
	s    *Sink
	dial func(ctx context.Context, network, address string) (net.Conn, error)
	tls  *tls.Config // nil is TCP as it is
	now  func() time.Time

	conn  net.Conn
	ended chan struct{} // closed when the receiver has closed the connection
	end   *ending
	sent  []sentBatch // on this connection, lately
	lost  *uint64     // what unsure gives out
}

type sentBatch struct {
	first uint64
	at    time.Time
}

// ending is when a connection's other side ended it.
type ending struct {
	mu sync.Mutex
	at time.Time
}

func newSyslog(s *Sink, allowPrivate bool, roots *x509.CertPool, now func() time.Time) *syslogWriter {
	w := &syslogWriter{s: s, dial: outbound.Dial(allowPrivate), now: now}
	if !s.Plain {
		host, _, _ := net.SplitHostPort(s.Address) // it was checked
		w.tls = outbound.TLS(roots, host)
	}
	return w
}

var errEnded = errors.New("the receiver closed the connection")

func (w *syslogWriter) send(ctx context.Context, b *batch) error {
	if err := w.check(); err != nil {
		return err
	}
	if w.conn == nil {
		if err := w.connect(ctx); err != nil {
			return outbound.Explain(err)
		}
	}
	var out []byte
	for i := range b.events {
		m := appendSyslog(nil, b, &b.events[i])
		out = append(append(strconv.AppendInt(out, int64(len(m)), 10), ' '), m...)
	}
	if !b.again {
		w.sent = append(w.sent, sentBatch{b.first(), w.now()})
	}
	err := w.write(ctx, out)
	if err == nil && w.hasEnded() {
		err = errEnded
	}
	if err != nil {
		w.drop()
		return outbound.Explain(err)
	}
	for len(w.sent) > 1 && w.now().Sub(w.sent[0].at) > mayBeLost {
		w.sent = w.sent[1:]
	}
	return nil
}

// check is an error where the receiver has gone, and may not have got what it was sent lately.
func (w *syslogWriter) check() error {
	if w.conn != nil && w.hasEnded() {
		if w.drop(); w.lost != nil {
			return errEnded
		}
	}
	return nil
}

// write sends bytes and waits until they are acknowledged, where the system says so.
func (w *syslogWriter) write(ctx context.Context, out []byte) error {
	until := time.Now().Add(outbound.Timeout)
	if err := w.conn.SetWriteDeadline(until); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = w.conn.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := w.conn.Write(out); err != nil {
		return err
	}
	for {
		n, known := unacknowledged(w.conn)
		if !known || n == 0 {
			return nil
		}
		if time.Now().After(until) {
			return errors.New("the receiver does not acknowledge what it was sent")
		}
		select {
		case <-time.After(ackEvery):
		case <-w.ended:
			return errEnded
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (w *syslogWriter) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, outbound.Timeout)
	defer cancel()
	conn, err := w.dial(ctx, "tcp", w.s.Address)
	if err != nil {
		return err
	}
	if w.tls != nil {
		c := tls.Client(conn, w.tls)
		if err := c.HandshakeContext(ctx); err != nil {
			_ = conn.Close()
			return fmt.Errorf("TLS: %w", err)
		}
		conn = c
	}
	ended, end := make(chan struct{}), &ending{}
	go func() { // receivers say nothing: that reading ends says that they are gone
		_, _ = io.Copy(io.Discard, conn)
		end.mu.Lock()
		end.at = w.now()
		end.mu.Unlock()
		close(ended)
	}()
	w.conn, w.ended, w.end, w.sent = conn, ended, end, nil
	return nil
}

func (w *syslogWriter) hasEnded() bool {
	select {
	case <-w.ended:
		return true
	default:
		return false
	}
}

// drop closes a connection that has failed and notes what may not have arrived.
func (w *syslogWriter) drop() {
	at := w.now()
	if w.hasEnded() {
		w.end.mu.Lock()
		at = w.end.at
		w.end.mu.Unlock()
	}
	_ = w.conn.Close()
	<-w.ended
	w.conn = nil
	for _, s := range w.sent {
		if at.Sub(s.at) <= mayBeLost {
			w.lost = &s.first
			break
		}
	}
	w.sent = nil
}

func (w *syslogWriter) unsure() (uint64, bool) {
	if w.lost == nil {
		return 0, false
	}
	first := *w.lost
	w.lost = nil
	return first, true
}

func (w *syslogWriter) close() {
	if w.conn != nil {
		_ = w.conn.Close()
		<-w.ended
		w.conn = nil
	}
}

// appendSyslog appends an event as a message of RFC 5424. The MSG is the event, one line of UTF-8.
func appendSyslog(dst []byte, b *batch, e *event) []byte {
	x := e.entry
	dst = fmt.Appendf(dst, "<%d>1 %s %s immutable %d %s ", facility*8+syslogSeverity(x.Level), x.Timestamp.UTC().Format("2006-01-02T15:04:05.000000Z"),
		syslogName(x.Hostname), x.PID, x.Level)
	dst = fmt.Appendf(dst, `[immutable@%d origin="%s" index="%d" leaf="%s" size="%d"] `, enterprise, syslogParam(b.origin), x.Index, x.Leaf, b.size)
	return append(dst, e.data...)
}

// syslogName is a HOSTNAME: 1 to 255 printable ASCII characters.
func syslogName(s string) string {
	s = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '-'
		}
		return r
	}, s)
	if s == "" {
		return "-"
	}
	return s[:min(len(s), 255)]
}

// syslogParam escapes a PARAM-VALUE.
func syslogParam(s string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, `]`, `\]`).Replace(s)
}

func syslogSeverity(l immutable.Level) int {
	switch l {
	case immutable.Critical:
		return 2
	case immutable.Error:
		return 3
	case immutable.Warn, immutable.Security:
		return 4
	case immutable.Audit, immutable.Revenue:
		return 5
	}
	return 6
}
