package intake

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/entry"
)

// FuzzParseEvent: what is taken as an event and what the log then takes is JSON for encoding/json too, with members of an event and
// no others, each once; and the elements of an array are the values that encoding/json sees in it.
func FuzzParseEvent(f *testing.F) {
	for _, seed := range []string{
		`{"message":"m"}`, `{"message":"\u00e9","level":"audit","metadata":{"a":[1,{"b":"]}"}]},"eventTime":"2026-01-02T03:04:05Z","hostname":"h","pid":7}`,
		`{"message":"m","producer":{"key":"0123456789abcdef","counter":1,"signature":"AAAA"}}`, `{"message":"m","message":"n"}`, `{"message" : "m" , "pid":1}`, ` []`, `[{"message":"m"},2]`, `[]`, `{}`, `[,]`, `{"message":"m"`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var e entry.Event
		if err := ParseEvent(data, &e); err == nil && Check(&e) == nil {
			var members map[string]json.RawMessage
			if err := json.Unmarshal(data, &members); err != nil {
				t.Fatalf("%q was taken: %v", data, err)
			}
			for name := range members {
				if !strings.Contains(" message level metadata eventTime hostname pid traceId spanId idempotencyKey producer ", " "+name+" ") {
					t.Fatalf("%q was taken with the member %q", data, name)
				}
			}
			var message string
			if err := json.Unmarshal(members["message"], &message); err != nil || message != e.Message {
				t.Fatalf("%q: message %q, want %q, %v", data, e.Message, message, err)
			}
		}
		var elements []string
		err := EachEvent(data, func(element []byte) error {
			elements = append(elements, string(element))
			return nil
		})
		var want []json.RawMessage
		if jerr := json.Unmarshal(data, &want); jerr == nil && want != nil {
			if err != nil || len(elements) != len(want) {
				t.Fatalf("%q: %d elements, %v, want %d", data, len(elements), err, len(want))
			}
			for i := range want {
				if elements[i] != string(want[i]) {
					t.Fatalf("%q: element %d is %q, want %q", data, i, elements[i], want[i])
				}
			}
		}
	})
}

func TestPeersAreReadAsTheyAre(t *testing.T) {
	read := func(in io.Reader) (numbers []uint64, bad int, err error) {
		r := NewReader(in, Options{Events: true, Workers: 1, Ahead: 1})
		defer r.Close()
		for {
			c, err := r.Next()
			if err != nil {
				return numbers, bad, err
			}
			for _, rec := range c.Records {
				if numbers = append(numbers, rec.Number); rec.Err != nil {
					bad++
				}
			}
			c.Release()
		}
	}
	numbers, bad, err := read(strings.NewReader("{\"message\":\"a\"}\n\n{\"other\":1}\n{\"message\":\"b\"}"))
	if !errors.Is(err, io.EOF) || bad != 1 || len(numbers) != 3 || numbers[2] != 4 {
		t.Errorf("lines %v, %d bad, %v", numbers, bad, err)
	}
	// What looks packed is not unpacked: how much it may unpack to is somebody else's to say.
	if numbers, bad, err = read(bytes.NewReader([]byte("\x28\xb5\x2f\xfd\x00\x00\x01\x00\x00\n"))); !errors.Is(err, io.EOF) || len(numbers) != 1 || bad != 1 {
		t.Errorf("a zstd frame: %v, %d bad, %v", numbers, bad, err)
	}
	// Where reading fails, a last line that is whole by chance is dropped all the same.
	cut := errors.New("cut")
	if numbers, _, err = read(io.MultiReader(strings.NewReader("{\"message\":\"a\"}\n{\"message\":\"b\"}"), &failing{cut})); !errors.Is(err, cut) || len(numbers) != 1 {
		t.Errorf("a body that was cut: lines %v, %v", numbers, err)
	}
}

type failing struct{ err error }

func (f *failing) Read([]byte) (int, error) { return 0, f.err }
