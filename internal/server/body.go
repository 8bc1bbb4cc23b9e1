package server

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
)

const (
	// smallBody is what a JSON body may take without a share of Limits.BodyMemory. Connections bound how many there are.
	smallBody = 16 << 10

	// freeExpansion is what a compressed body may unpack to whatever its size.
	freeExpansion = 4 << 20

	// maxWindow is the zstd window that is taken, which is the decoder's memory: what RFC 9659 allows for HTTP.
	maxWindow = 8 << 20
)

// patientBody reads a request's body with a deadline for each read, and one for all of it. After stop nothing is read any more,
// and a read that waits returns.
type patientBody struct {
	r       *request
	patient time.Duration
	until   time.Time // zero: no limit for all of it
	read    int64     // bytes so far, as they came over the wire

	mu      sync.Mutex // guards stopped, and that no deadline is set after stop
	stopped bool
	whole   bool // the body's end was read
}

func (b *patientBody) Read(p []byte) (int, error) {
	if !b.extend() {
		return 0, errStopped
	}
	n, err := b.r.Body.Read(p)
	b.read += int64(n)
	if errors.Is(err, io.EOF) {
		b.finish()
	}
	return n, err
}

// finish takes the deadline back. Behind the body net/http waits for the client to go away, and what it reads then must not fail:
// it would take that for the client's end, of this request and all later ones of the connection.
func (b *patientBody) finish() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.whole = true
	_ = b.r.control().SetReadDeadline(time.Time{})
}

var errStopped = errors.New("reading was stopped")

func (b *patientBody) extend() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped {
		return false
	}
	at := time.Now().Add(b.patient)
	if !b.until.IsZero() && at.After(b.until) {
		at = b.until
	}
	_ = b.r.control().SetReadDeadline(at) // what has no deadlines has no slow clients either
	return true
}

func (b *patientBody) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped = true; b.whole {
		return
	}
	_ = b.r.control().SetReadDeadline(time.Unix(1, 0))
}

// ended says whether the body's end was read.
func (b *patientBody) ended() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.whole
}

// lingerTime is how long a client that is still sending gets to read why nobody listens any more. A connection that is closed
// while something of the client's is unread is reset, and with it goes the answer that is under way.
const lingerTime = 500 * time.Millisecond

// linger passes over what still comes, after stop.
func (b *patientBody) linger() {
	if b.ended() {
		return
	}
	_ = b.r.control().SetReadDeadline(time.Now().Add(lingerTime))
	_, _ = io.Copy(io.Discard, b.r.Body) // ends with the body, the client or the deadline
}

// unpack is the body as its sender meant it, by Content-Encoding, and held to Limits.Ratio.
func (b *patientBody) unpack() (io.Reader, func(), error) {
	switch encoding := b.r.Header.Get("Content-Encoding"); encoding {
	case "", "identity":
		return b, func() {}, nil
	case "gzip":
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, nil, packedError(err)
		}
		return &boundedReader{r: z, body: b}, func() { _ = z.Close() }, nil
	case "zstd":
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderMaxMemory(maxWindow))
		if err != nil {
			return nil, nil, packedError(err)
		}
		return &boundedReader{r: z, body: b}, z.Close, nil
	default:
		return nil, nil, fault("unsupported-encoding", "Content-Encoding may be gzip or zstd, one of them")
	}
}

// boundedReader is an unpacked body that may not become too large for what came over the wire.
type boundedReader struct {
	r    io.Reader
	body *patientBody
	out  int64
}

func (u *boundedReader) Read(p []byte) (int, error) {
	n, err := u.r.Read(p)
	u.out += int64(n)
	if ratio := u.body.r.limits().Ratio; u.out > freeExpansion && u.out/ratio > u.body.read {
		return 0, fault("expands-too-much", fmt.Sprintf("%d bytes unpack to more than %d times as much", u.body.read, ratio))
	}
	if err != nil && !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = packedError(err)
	}
	return n, err
}

// packedError tells a broken body from one that did not arrive.
func packedError(err error) error {
	if errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, zstd.ErrDecoderSizeExceeded) {
		return fault("bad-encoding", fmt.Sprintf("the zstd window is larger than %d bytes", maxWindow))
	}
	if errors.Is(err, gzip.ErrHeader) || errors.Is(err, gzip.ErrChecksum) || errors.Is(err, zstd.ErrMagicMismatch) || errors.Is(err, io.EOF) {
		return fault("bad-encoding", "the body is not what its Content-Encoding says")
	}
	var p *problem
	if errors.As(err, &p) {
		return p
	}
	if b := bodyError(err); b.kind.code != "bad-body" {
		return b
	}
	return fault("bad-encoding", "the body is not what its Content-Encoding says, or was cut off")
}

var smallBodies = sync.Pool{New: func() any { return bytes.NewBuffer(make([]byte, 0, smallBody)) }}

// readBody reads a whole JSON body. release gives its memory back, and must be called when nothing refers to it any more.
func (r *request) readBody() (data []byte, release func(), err error) {
	limit := r.limits().Body
	tooLarge := fault("too-large", fmt.Sprintf("a JSON body takes at most %d bytes; send NDJSON, which may be of any length", limit))
	if r.ContentLength > limit {
		return nil, nil, tooLarge
	}
	body := &patientBody{r: r, patient: r.limits().Patience, until: time.Now().Add(r.limits().BodyTime)}
	in, done, err := body.unpack()
	if err != nil {
		return nil, nil, err
	}
	defer done()
	small := smallBodies.Get().(*bytes.Buffer)
	small.Reset()
	release = func() { smallBodies.Put(small) }
	if n, err := fill(small.AvailableBuffer()[:smallBody], in); err != nil {
		release()
		return nil, nil, bodyError(err)
	} else if n < smallBody {
		return small.AvailableBuffer()[:n], release, nil
	}
	return r.readLarge(in, small.AvailableBuffer()[:smallBody], limit, tooLarge, release)
}

// readLarge goes on reading a body that begins with head, within the memory that large bodies share.
func (r *request) readLarge(in io.Reader, head []byte, limit int64, tooLarge error, done func()) ([]byte, func(), error) {
	defer done()
	share := limit
	if n := r.ContentLength; n >= 0 && r.Header.Get("Content-Encoding") == "" {
		share = n
	}
	give, err := r.takeMemory(share)
	if err != nil {
		return nil, nil, err
	}
	buf := bytes.NewBuffer(make([]byte, 0, min(share+bytes.MinRead, 1<<20)))
	buf.Write(head)
	if _, err := buf.ReadFrom(io.LimitReader(in, share+1-int64(len(head)))); err != nil {
		give()
		return nil, nil, bodyError(err)
	}
	if int64(buf.Len()) > share {
		give()
		return nil, nil, tooLarge
	}
	return buf.Bytes(), give, nil
}

// takeMemory takes a share of the memory for large bodies and answers, and waits for it if it must.
func (r *request) takeMemory(n int64) (give func(), err error) {
	ctx, cancel := context.WithTimeout(r.Context(), r.limits().Patience)
	defer cancel()
	name := r.tenant.Name()
	if err := r.s.memory.take(ctx, name, n); err != nil {
		return nil, fault("busy", "too many large bodies are being read or written").after(time.Second)
	}
	return func() { r.s.memory.give(name, n) }, nil
}

// fill reads until p is full or the input ends.
func fill(p []byte, in io.Reader) (n int, err error) {
	for n < len(p) && err == nil {
		var k int
		k, err = in.Read(p[n:])
		n += k
	}
	if err == io.EOF { // the end itself; one that is wrapped is a body that was cut
		err = nil
	}
	return n, err
}
