package server

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable/internal/otlp"
)

// exportLogsGRPC is exportLogs as a call of gRPC: one message in, an empty one out, the outcome in the trailers. It is HTTP/2 and
// nothing more, so it goes through the same table, authorization and limits as every request.
func exportLogsGRPC(r *request) error {
	if kind := r.Header.Get("Content-Type"); r.ProtoMajor != 2 || kind != kindGRPC && !strings.HasPrefix(kind, kindGRPC+"+proto") && !strings.HasPrefix(kind, kindGRPC+";") {
		return fault("unsupported-media-type", "this address takes gRPC over HTTP/2, with protobuf")
	}
	body, release, err := r.readMessage()
	if err != nil {
		return err
	}
	defer release()
	if err := appendExport(r, body, body); err != nil {
		return err
	}
	h := r.w.Header()
	h.Set("Content-Type", kindGRPC)
	h.Set(http.TrailerPrefix+"Grpc-Status", "0")
	r.extendWrite()
	r.w.WriteHeader(http.StatusOK)
	_, _ = r.w.Write(make([]byte, otlp.FrameHeader)) // an empty message; an error is the client's loss of its connection
	return nil
}

const kindGRPC = "application/grpc"

// failGRPC answers with a status of gRPC, or, to who does not speak it, with a problem.
func failGRPC(r *request, p *problem, err error) {
	if r.ProtoMajor != 2 || !strings.HasPrefix(r.Header.Get("Content-Type"), kindGRPC) {
		r.failProblem(p)
		return
	}
	_, s := exportStatus(p, err)
	if p.kind.code == "unsupported-encoding" {
		s.Code = otlp.Unimplemented
		r.w.Header().Set("Grpc-Accept-Encoding", "identity,gzip")
	}
	h := r.w.Header()
	h.Set("Content-Type", kindGRPC)
	h.Set("Grpc-Status", strconv.Itoa(int(s.Code)))
	h.Set("Grpc-Message", s.GRPCMessage())
	h.Set("Grpc-Status-Details-Bin", s.GRPCDetails())
	r.extendWrite()
	r.w.WriteHeader(http.StatusOK)
}

// readMessage reads the one message of a call. Its length stands before it, so it takes no more of the memory for large bodies than
// it has.
func (r *request) readMessage() (data []byte, release func(), err error) {
	body := &patientBody{r: r, patient: r.limits().Patience, until: time.Now().Add(r.limits().BodyTime)}
	var header [otlp.FrameHeader]byte
	if _, err := io.ReadFull(body, header[:]); err != nil {
		return nil, nil, bodyError(err)
	}
	compressed, n, err := otlp.ParseFrame(header)
	if err != nil {
		return nil, nil, fault("bad-body", err.Error())
	}
	if int64(n) > r.limits().Body {
		return nil, nil, fault("too-large", fmt.Sprintf("a message takes at most %d bytes", r.limits().Body))
	}
	data, release, err = r.room(int64(n))
	if err != nil {
		return nil, nil, err
	}
	if _, err := io.ReadFull(body, data); err != nil {
		release()
		return nil, nil, bodyError(err)
	}
	if k, err := body.Read(header[:1]); k > 0 || !errors.Is(err, io.EOF) {
		release()
		return nil, nil, fault("bad-body", "a call of Export has one message")
	}
	if !compressed {
		return data, release, nil
	}
	defer release()
	if e := r.Header.Get("Grpc-Encoding"); e != "gzip" {
		return nil, nil, fault("unsupported-encoding", "grpc-encoding may be gzip or identity")
	}
	return r.gunzip(data)
}

// room is memory for n bytes of a body, a share of Limits.BodyMemory where they are many.
func (r *request) room(n int64) ([]byte, func(), error) {
	if n <= smallBody {
		return make([]byte, n), func() {}, nil
	}
	give, err := r.takeMemory(n)
	if err != nil {
		return nil, nil, err
	}
	return make([]byte, n), give, nil
}

// gunzip unpacks a message within the limits of a body. gzip says at its end how long what is packed is; what is not of that length
// is refused, so that the memory is known before.
func (r *request) gunzip(packed []byte) ([]byte, func(), error) {
	broken := fault("bad-encoding", "the message is not gzip, or was cut off")
	if len(packed) < 18 { // header and trailer
		return nil, nil, broken
	}
	size := int64(binary.LittleEndian.Uint32(packed[len(packed)-4:]))
	if size > r.limits().Body {
		return nil, nil, fault("too-large", fmt.Sprintf("a message takes at most %d bytes, unpacked", r.limits().Body))
	}
	if size > freeExpansion && size/r.limits().Ratio > int64(len(packed)) {
		return nil, nil, fault("expands-too-much", fmt.Sprintf("%d bytes unpack to more than %d times as much", len(packed), r.limits().Ratio))
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, nil, broken
	}
	data, release, err := r.room(size)
	if err != nil {
		return nil, nil, err
	}
	_, err = io.ReadFull(z, data)
	if err == nil {
		var more [1]byte
		var k int
		if k, err = z.Read(more[:]); k == 0 && errors.Is(err, io.EOF) {
			return data, release, nil
		}
	}
	release()
	return nil, nil, broken
}

// otlpReceiver is a listener for OTLP over gRPC alone, with TLS where the service has a certificate, else over plain HTTP/2. Who
// exports says who they are, as everywhere: the listener has a log, and no rights.
type otlpReceiver struct {
	target *receiveTarget
	http   *http.Server
}

func newOTLPReceiver(t *receiveTarget, api http.Handler) *otlpReceiver {
	only := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != otlp.GRPCPath {
			w.Header().Set("Content-Type", kindGRPC)
			w.Header().Set("Grpc-Status", strconv.Itoa(int(otlp.Unimplemented)))
			w.Header().Set("Grpc-Message", "this listener takes "+otlp.GRPCPath)
			return
		}
		api.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), ownLogKey{}, t.Log)))
	})
	srv := httpServer(withRequestID(only, t.s.logger), t.s.c.IdleTimeout, t.s.logger)
	srv.Protocols = new(http.Protocols)
	srv.Protocols.SetHTTP2(t.tls != nil)
	srv.Protocols.SetUnencryptedHTTP2(t.tls == nil)
	srv.ConnState = newConnections(t.s.connectionLimit()).state
	return &otlpReceiver{t, srv}
}

func (o *otlpReceiver) Name() string   { return o.target.name() }
func (o *otlpReceiver) Addr() net.Addr { return o.target.listener.Addr() }

// Serve implements receiver. Calls that are under way when ctx ends are answered.
func (o *otlpReceiver) Serve(ctx context.Context) error {
	served := make(chan error, 1)
	go func() {
		if o.target.tls == nil {
			served <- o.http.Serve(o.target.listener)
			return
		}
		o.http.TLSConfig = o.target.tls.Clone()
		served <- o.http.ServeTLS(o.target.listener, "", "")
	}()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.target.s.c.ShutdownTime)
	defer cancel()
	err := o.http.Shutdown(stop)
	if err != nil {
		_ = o.http.Close()
	}
	if e := <-served; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return err
}
