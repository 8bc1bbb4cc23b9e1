package intake

import (
	"io"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/entry"
)

// A member that is not ours makes an object foreign; its level must not be lost over that.
func TestForeignObjectKeepsALevelThatIsOneOfOurs(t *testing.T) {
	const input = `{"message":"sign-in failed","level":"SECURITY","user":"root"}` + "\n" +
		`{"message":"m","level":"revenue","amount":5}` + "\n" + `{"message":"m","level":"verbose","x":1}` + "\n" + `{"message":"m","level":7,"x":1}` + "\n"
	for _, c := range []struct {
		named bool
		want  []entry.Level
	}{
		{true, []entry.Level{entry.Security, entry.Revenue, entry.Warn, entry.Warn}},
		{false, []entry.Level{entry.Warn, entry.Warn, entry.Warn, entry.Warn}},
	} {
		r := NewReader(strings.NewReader(input), Options{Level: entry.Warn, NamedLevel: c.named})
		var got []entry.Level
		for {
			chunk, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			chunk.Ready()
			for _, rec := range chunk.Records {
				got = append(got, rec.Event.Level)
			}
			chunk.Release()
		}
		r.Close()
		if len(got) != len(c.want) {
			t.Fatalf("levels %v, want %v", got, c.want)
		}
		for i := range got {
			if got[i] != c.want[i] {
				t.Errorf("named %v: record %d has level %v, want %v", c.named, i, got[i], c.want[i])
			}
		}
	}
}
