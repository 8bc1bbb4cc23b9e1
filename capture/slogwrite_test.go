package capture

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable/capture/internal/meta"
)

// What is written at once is what the maps would have held, whatever the attributes are; and most of what programs log is.
func TestWhatIsWrittenAtOnceIsWhatTheMapsHold(t *testing.T) {
	rec := New(nil, Config{})
	written, plain := 0, 0
	const records = 3000
	for seed := range uint64(records) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		h := NewHandler(rec, nil)
		for range rnd.IntN(3) {
			if rnd.IntN(2) == 0 {
				h, _ = h.WithGroup(anyName(rnd)).(*Handler)
			} else {
				h, _ = h.WithAttrs(anyAttrs(rnd, rnd.IntN(3), 0)).(*Handler)
			}
		}
		r := slog.NewRecord(time.Unix(1, 0), slog.LevelInfo, "m", 0)
		r.AddAttrs(anyAttrs(rnd, rnd.IntN(6), 0)...)
		w := writer{redact: rec.redact, o: meta.New()}
		if !w.scopes(h.with, &r) {
			continue
		}
		written++
		var got, want map[string]any
		data := w.o.Bytes()
		if err := json.Unmarshal(data, &got); err != nil {
			t.Fatalf("seed %d: %v in %s", seed, err, data)
		}
		maps, err := json.Marshal(h.fields(&r))
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if err := json.Unmarshal(maps, &want); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d: written %s, the maps hold %s", seed, data, maps)
		}
		if names(got) != strings.Count(string(data), `":`) {
			t.Fatalf("seed %d: a name stands twice in %s", seed, data)
		}
		if len(got) > 1 {
			plain++
		}
		w.o.Free()
	}
	if written < records/4 || plain < 100 || written == records {
		t.Errorf("%d of %d records were written at once, %d of them with several members: the test says too little", written, records, plain)
	}
}

// names counts the names in an object, at any depth. No value of the test has `":` in it.
func names(m map[string]any) int {
	n := len(m)
	for _, v := range m {
		if inner, ok := v.(map[string]any); ok {
			n += names(inner)
		}
	}
	return n
}

func anyName(rnd *rand.Rand) string {
	all := []string{"a", "b", "order", "customer", "status", "amount", "path", "region", "user", "city", "üñ", "a\"b", "password", "api_key"}
	if rnd.IntN(40) == 0 {
		return []string{"", "\xff", "\xfe", strings.Repeat("n", 300)}[rnd.IntN(4)]
	}
	return all[rnd.IntN(len(all))]
}

func anyAttrs(rnd *rand.Rand, n, depth int) []slog.Attr {
	out := make([]slog.Attr, 0, n)
	for range n {
		name := anyName(rnd)
		var v slog.Value
		switch rnd.IntN(20) {
		case 0:
			v = slog.AnyValue(errors.New("broken"))
		case 1:
			v = slog.AnyValue(map[string]any{"token": 1, "x": []int{1}})
		case 2:
			v = slog.Float64Value([]float64{0, math.Inf(1), math.NaN(), 1e-9, 1e300, -2.5}[rnd.IntN(6)])
		case 3:
			v = slog.TimeValue(time.Unix(rnd.Int64N(1e9), 0).UTC())
		case 4:
			v = slog.Int64Value([]int64{math.MaxInt64, math.MinInt64, 1 << 53, -(1 << 53), 0}[rnd.IntN(5)])
		case 5:
			v = slog.Uint64Value([]uint64{math.MaxUint64, 1<<53 + 1, 7}[rnd.IntN(3)])
		case 6:
			v = slog.StringValue([]string{"", "\xff", "a\x00b\n", strings.Repeat("é", 20000), `\"`}[rnd.IntN(5)])
		case 7, 8:
			if depth < 4 {
				v = slog.GroupValue(anyAttrs(rnd, rnd.IntN(3), depth+1)...)
			}
		case 9:
			v = slog.DurationValue(time.Duration(rnd.Int64N(1e12)))
		case 10:
			v = slog.BoolValue(rnd.IntN(2) == 0)
		case 11, 12:
			v = slog.Float64Value(rnd.NormFloat64() * 1000)
		case 13, 14, 15:
			v = slog.Int64Value(rnd.Int64N(1e6))
		default:
			v = slog.StringValue(fmt.Sprint("text ", rnd.IntN(1000)))
		}
		out = append(out, slog.Attr{Key: name, Value: v})
	}
	return out
}
