package server

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
)

// BenchmarkExportLogs takes b.N log records in exports of 512 over HTTP with protobuf, from two connections whose sender costs little:
// ns/op is the time of a record, durable and answered, the sender in the same process.
func BenchmarkExportLogs(b *testing.B) {
	const batch, conns = 512, 4
	sv := serve(b, nil)
	var text bytes.Buffer
	text.WriteString(`{"resourceLogs":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"shop"}},{"key":"host.name","value":{"stringValue":"web-1"}}]},"scopeLogs":[{"scope":{"name":"lib"},"logRecords":[`)
	for i := range batch {
		if i > 0 {
			text.WriteByte(',')
		}
		fmt.Fprintf(&text, `{"timeUnixNano":"%d","observedTimeUnixNano":"1764000000000000000","severityNumber":9,"body":{"stringValue":"GitHub commit created"},"attributes":[{"key":"repo","value":{"stringValue":"tree-of-life-system"}},{"key":"sha","value":{"stringValue":"%040x"}},{"key":"author","value":{"stringValue":"ann@example.com"}},{"key":"files","value":{"intValue":"7"}},{"key":"http.route","value":{"stringValue":"/commits"}}]}`, uint64(1<<60)+uint64(i), i)
	}
	text.WriteString(`]}]}]}`)
	body := protobuf(b, text.String())
	stamp := bytes.Index(body, binary.LittleEndian.AppendUint64(nil, 1<<60)) // the first record's time: no export is another's repeat
	var next atomic.Int64
	cs := make([]*rawConn, conns)
	for i := range cs {
		cs[i] = dialRaw(b, sv.addr)
	}
	b.SetBytes(int64(len(body) / batch))
	b.ResetTimer()
	var wg sync.WaitGroup
	for _, c := range cs {
		wg.Go(func() {
			head := fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer %s\r\nContent-Type: application/x-protobuf\r\nContent-Length: %d\r\n\r\n", otlpLogs, sv.root, len(body))
			request := append(head, body...)
			for {
				n := next.Add(1)
				if n*batch > int64(b.N)+batch-1 {
					return
				}
				binary.LittleEndian.PutUint64(request[len(head)+stamp:], uint64(1<<60)+uint64(n)<<20)
				status, _, err := c.exchange(request)
				if err != nil || status != http.StatusOK {
					b.Errorf("status %d, %v", status, err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
}
