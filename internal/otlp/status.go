package otlp

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"
)

// Code is one of gRPC's.
type Code uint32

// The codes that a receiver of exports answers with. Exporters send again what ResourceExhausted with a delay, or Unavailable, refused.
const (
	OK                Code = 0
	InvalidArgument   Code = 3
	NotFound          Code = 5
	AlreadyExists     Code = 6
	PermissionDenied  Code = 7
	ResourceExhausted Code = 8
	Unimplemented     Code = 12
	Unavailable       Code = 14
	Unauthenticated   Code = 16
)

// Status is a google.rpc.Status: why an export was refused.
type Status struct {
	Code    Code
	Message string
	Retry   time.Duration // when to try again; 0 says nothing of it
}

const retryInfo = "type.googleapis.com/google.rpc.RetryInfo"

// Protobuf is the status as a message.
func (s *Status) Protobuf() []byte {
	out := appendBytes(appendVarint(nil, 1, uint64(s.Code)), 2, s.Message)
	if s.Retry > 0 {
		delay := appendVarint(nil, 1, uint64(s.Retry/time.Second))
		if nanos := s.Retry % time.Second; nanos > 0 {
			delay = appendVarint(delay, 2, uint64(nanos))
		}
		out = appendBytes(out, 3, appendBytes(appendBytes(nil, 1, retryInfo), 2, appendBytes(nil, 1, delay)))
	}
	return out
}

// JSON is the status as protobuf's JSON mapping has it.
func (s *Status) JSON() []byte {
	type detail struct {
		Type  string `json:"@type"`
		Delay string `json:"retryDelay"`
	}
	v := struct {
		Code    Code     `json:"code"`
		Message string   `json:"message"`
		Details []detail `json:"details,omitempty"`
	}{Code: s.Code, Message: s.Message}
	if s.Retry > 0 {
		v.Details = []detail{{retryInfo, strconv.FormatFloat(s.Retry.Seconds(), 'f', -1, 64) + "s"}}
	}
	out, err := json.Marshal(v)
	if err != nil {
		return []byte("{}") // strings and numbers do not fail
	}
	return out
}

// gRPC over HTTP/2, as far as one call with one message each way needs it.

// GRPCPath is the call that exports logs.
const GRPCPath = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"

// FrameHeader is what stands before a message: whether it is compressed, and its length.
const FrameHeader = 5

// ErrFrame is returned for a first byte that gRPC does not have.
var ErrFrame = errors.New("the message does not begin as gRPC's do")

// ParseFrame reads the header of a message.
func ParseFrame(h [FrameHeader]byte) (compressed bool, length uint32, err error) {
	if h[0] > 1 {
		return false, 0, ErrFrame
	}
	return h[0] == 1, binary.BigEndian.Uint32(h[1:]), nil
}

// GRPCMessage is the status' message for the header grpc-message: percent-encoded, and no longer than a header should be.
func (s *Status) GRPCMessage() string {
	const most = 1024
	var b strings.Builder
	for i := 0; i < len(s.Message) && i < most; i++ {
		if c := s.Message[i]; c >= ' ' && c <= '~' && c != '%' {
			b.WriteByte(c)
			continue
		}
		b.WriteString("%" + strings.ToUpper(strconv.FormatUint(uint64(s.Message[i])|1<<8, 16)[1:]))
	}
	return b.String()
}

// GRPCDetails is the status for the header grpc-status-details-bin.
func (s *Status) GRPCDetails() string {
	return base64.RawStdEncoding.EncodeToString(s.Protobuf())
}
