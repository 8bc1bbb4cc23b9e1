package peer

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	mrand "math/rand/v2"
	"reflect"
	"strconv"
	"testing"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"google.golang.org/grpc/credentials"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/otlp"
)

func credentialsOf(pool *x509.CertPool) credentials.TransportCredentials {
	return credentials.NewClientTLSFromCert(pool, "")
}

// random writes a value of any kind, at most depth deep.
func random(rng *mrand.Rand, v pcommon.Value, depth int) {
	switch kind := rng.IntN(8); {
	case kind == 0 && depth > 0:
		s := v.SetEmptySlice()
		for range rng.IntN(4) {
			random(rng, s.AppendEmpty(), depth-1)
		}
	case kind == 1 && depth > 0:
		randomMap(rng, v.SetEmptyMap(), depth-1)
	case kind == 2:
		v.SetInt(int64(rng.Uint64()) >> rng.IntN(64))
	case kind == 3:
		v.SetDouble(math.Ldexp(rng.NormFloat64(), rng.IntN(200)-100))
	case kind == 4:
		v.SetBool(rng.IntN(2) == 0)
	case kind == 5:
		b := make([]byte, rng.IntN(5))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		v.SetEmptyBytes().FromRaw(b)
	case kind == 6: // empty
	default:
		v.SetStr(randomText(rng))
	}
}

func randomText(rng *mrand.Rand) string {
	runes := []rune("abc \"\\\n\t\x00\x7f\u0085é€😀")
	out := make([]rune, rng.IntN(12))
	for i := range out {
		out[i] = runes[rng.IntN(len(runes))]
	}
	return string(out)
}

func randomMap(rng *mrand.Rand, m pcommon.Map, depth int) {
	for i := range rng.IntN(16) {
		random(rng, m.PutEmpty(fmt.Sprint(i, randomText(rng))), depth)
	}
}

// meaning is what an entry's metadata says for a value, after the collector's decoder.
func meaning(v pcommon.Value) any {
	switch v.Type() {
	case pcommon.ValueTypeMap:
		return meaningOf(v.Map())
	case pcommon.ValueTypeSlice:
		out := []any{}
		for _, e := range v.Slice().All() {
			out = append(out, meaning(e))
		}
		return out
	case pcommon.ValueTypeInt:
		if n := v.Int(); n >= 1<<53 || n <= -1<<53 {
			return strconv.FormatInt(n, 10)
		}
		return float64(v.Int())
	case pcommon.ValueTypeBytes:
		return map[string]any{"bytesValue": base64.StdEncoding.EncodeToString(v.Bytes().AsRaw())}
	}
	return v.AsRaw() // string, bool, double, nil
}

func meaningOf(m pcommon.Map) map[string]any {
	out := map[string]any{}
	for k, v := range m.All() {
		out[k] = meaning(v)
	}
	return out
}

// TestDecodersAgree: what the collector's library writes, in protobuf and in JSON, means to us what it means to that library.
func TestDecodersAgree(t *testing.T) {
	for seed := range uint64(200) {
		rng := mrand.New(mrand.NewPCG(seed, 1))
		logs := plog.NewLogs()
		for range rng.IntN(3) {
			rl := logs.ResourceLogs().AppendEmpty()
			randomMap(rng, rl.Resource().Attributes(), 2)
			rl.SetSchemaUrl(randomText(rng))
			for range rng.IntN(3) {
				sl := rl.ScopeLogs().AppendEmpty()
				sl.Scope().SetName(randomText(rng))
				randomMap(rng, sl.Scope().Attributes(), 1)
				for range rng.IntN(5) {
					r := sl.LogRecords().AppendEmpty()
					r.SetTimestamp(pcommon.Timestamp(rng.Uint64() >> rng.IntN(64)))
					r.SetObservedTimestamp(pcommon.Timestamp(rng.Uint64()))
					r.SetSeverityNumber(plog.SeverityNumber(rng.IntN(25)))
					r.SetSeverityText(randomText(rng))
					r.SetEventName(randomText(rng))
					r.SetFlags(plog.LogRecordFlags(rng.Uint32N(3)))
					r.SetDroppedAttributesCount(rng.Uint32N(3))
					if rng.IntN(2) == 0 {
						r.SetTraceID([16]byte{byte(rng.Uint32()), 1})
						r.SetSpanID([8]byte{byte(rng.Uint32()), 2})
					}
					randomMap(rng, r.Attributes(), 4)
					random(rng, r.Body(), 6)
				}
			}
		}
		request := plogotlp.NewExportRequestFromLogs(logs)
		inProtobuf, err := request.MarshalProto()
		if err != nil {
			t.Fatal(err)
		}
		text, err := request.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		inJSON, err := otlp.FromJSON(text)
		if err != nil {
			t.Fatalf("seed %d: %v: %s", seed, err, text)
		}
		for name, body := range map[string][]byte{"protobuf": inProtobuf, "JSON": inJSON} {
			compare(t, fmt.Sprint("seed ", seed, " in ", name), logs, body)
		}
	}
}

func compare(t *testing.T, what string, logs plog.Logs, body []byte) {
	t.Helper()
	r, err := otlp.Parse(body)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if r.Records != logs.LogRecordCount() {
		t.Fatalf("%s: %d records, want %d", what, r.Records, logs.LogRecordCount())
	}
	var got []immutable.Event
	for b := range r.Batches() {
		for _, e := range b.Events {
			e.RawMetadata = bytes.Clone(e.RawMetadata)
			got = append(got, e)
		}
	}
	i := 0
	for _, rl := range logs.ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			for _, rec := range sl.LogRecords().All() {
				e := got[i]
				i++
				var m struct {
					EventName, SeverityText, TimeUnixNano, ObservedTimeUnixNano string
					SeverityNumber                                              int
					Flags, DroppedAttributesCount                               uint32
					Body                                                        any
					Attributes                                                  map[string]any
					Scope, Resource                                             struct {
						Name, SchemaURL string
						Attributes      map[string]any
					}
				}
				if err := json.Unmarshal(e.RawMetadata, &m); err != nil {
					t.Fatalf("%s: %v: %s", what, err, e.RawMetadata)
				}
				body := m.Body
				if rec.Body().Type() == pcommon.ValueTypeStr {
					body = e.Message
					if rec.Body().Str() == "" {
						body = rec.Body().Str()
					}
				}
				trace := rec.TraceID().String()
				for name, pair := range map[string][2]any{
					"body": {body, meaning(rec.Body())}, "eventName": {m.EventName, rec.EventName()}, "severityText": {m.SeverityText, rec.SeverityText()},
					"severityNumber": {m.SeverityNumber, int(rec.SeverityNumber())}, "flags": {m.Flags, uint32(rec.Flags())}, "dropped": {m.DroppedAttributesCount, rec.DroppedAttributesCount()},
					"observed": {m.ObservedTimeUnixNano, strconv.FormatUint(uint64(rec.ObservedTimestamp()), 10)}, "trace": {e.TraceID, trace}, "span": {e.SpanID, rec.SpanID().String()},
					"scope": {m.Scope.Name, sl.Scope().Name()}, "schema": {m.Resource.SchemaURL, rl.SchemaUrl()},
				} {
					if !reflect.DeepEqual(pair[0], pair[1]) {
						t.Fatalf("%s: %s is %#v, want %#v: %s", what, name, pair[0], pair[1], e.RawMetadata)
					}
				}
				if at := uint64(rec.Timestamp()); at != 0 && m.TimeUnixNano != strconv.FormatUint(at, 10) {
					t.Fatalf("%s: time %s, want %d", what, m.TimeUnixNano, at)
				}
				for name, pair := range map[string][2]map[string]any{
					"attributes": {m.Attributes, meaningOf(rec.Attributes())}, "scope": {m.Scope.Attributes, meaningOf(sl.Scope().Attributes())}, "resource": {m.Resource.Attributes, meaningOf(rl.Resource().Attributes())},
				} {
					if len(pair[0])+len(pair[1]) > 0 && !reflect.DeepEqual(pair[0], pair[1]) {
						t.Fatalf("%s: %s are %#v, want %#v", what, name, pair[0], pair[1])
					}
				}
			}
		}
	}
}
