package immutable

import (
	"context"
	"fmt"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/index"
	"github.com/tree-of-life-system/immutable/internal/query"
	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
)

// TestOpenSegmentIsSearchedOnce: what a search has read of it is ruled out from memory the next time, and what was appended since is found
// at once, in a group that was remembered too.
func TestOpenSegmentIsSearchedOnce(t *testing.T) {
	l, err := Open(diskDir, sealedConfig(vfstest.New()))
	must(t, err)
	defer l.Close()
	const groups = 4
	for range groups {
		_, err := l.Append(context.Background(), variedEvents(256)...)
		must(t, err)
	}
	size := l.Size()
	ask := func(text string, verified bool) (n int, x Explain) {
		return len(searchAll(t, l, Query{Text: text, Verified: verified, Explain: &x})), x
	}
	if n, x := ask("zebra", false); n != 0 || x.GroupsRead != x.Groups || x.GroupsKnown != 0 {
		t.Fatalf("the first search finds %d and reads %d of %d groups", n, x.GroupsRead, x.Groups)
	}
	for _, text := range []string{"giraffe", `"failed zebra"`, "user.name:giraffe", `~" giraffe "`, "giraf* zebra", "since:2100-01-01"} {
		if n, x := ask(text, false); n != 0 || x.GroupsRead != 0 || x.GroupsKnown != x.Groups {
			t.Errorf("%s: finds %d and reads %d of %d groups", text, n, x.GroupsRead, x.Groups)
		}
	}
	if n, x := ask("giraffe", true); n != 0 || x.GroupsRead != x.Groups || x.GroupsKnown != 0 {
		t.Errorf("a verified search reads %d of %d groups", x.GroupsRead, x.Groups)
	}
	c, err := l.CountBy(context.Background(), Query{}, "level")
	must(t, err)
	v, err := l.CountBy(context.Background(), Query{Verified: true}, "level")
	must(t, err)
	if c.N != size || c.Sealed || fmt.Sprint(c) != fmt.Sprint(v) {
		t.Errorf("counts %v, verified %v", c, v)
	}
	for i := range 3 {
		_, err := l.Append(context.Background(), Event{Message: fmt.Sprintf("giraffe%d", i), Metadata: Fields{"kind": fmt.Sprintf("z\"ebra%d", i)}})
		must(t, err)
		for _, text := range []string{"giraffe%d", "ebra%d", `kind:"z\"ebra%d"`} {
			text = fmt.Sprintf(text, i)
			if n, x := ask(text, false); n != 1 || x.GroupsRead > 1 {
				t.Errorf("%s: finds %d and reads %d groups", text, n, x.GroupsRead)
			}
		}
	}
}

func TestRememberedGroupsAreBounded(t *testing.T) {
	var r remembered
	for k := range uint64(3 * maxRemembered >> 20) {
		r.keep(k%20, &query.Facts{Levels: [NumLevels]uint16{uint16(k)}, Words: make(index.Filter, 1<<17)})
		if sum := 0; r.bytes > maxRemembered {
			for _, f := range r.groups {
				sum += f.Size()
			}
			t.Fatalf("%d bytes are remembered, %d by their sum", r.bytes, sum)
		}
	}
	if len(r.groups) < 10 {
		t.Errorf("%d groups are remembered", len(r.groups))
	}
	r.forget()
	if r.of(1, 1) != nil || r.bytes != 0 {
		t.Error("something is still remembered")
	}
}
