package immutable

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
	"github.com/tree-of-life-system/immutable/proof"
)

func held(t testing.TB, b *ReceiptBook) (out []Receipt) {
	t.Helper()
	for r, err := range b.Receipts() {
		must(t, err)
		out = append(out, r)
	}
	return out
}

func sameReceipts(a, b []Receipt) bool {
	return slices.EqualFunc(a, b, func(a, b Receipt) bool {
		return a.Index == b.Index && a.ID == b.ID && a.Leaf == b.Leaf && a.Hash == b.Hash && a.Timestamp.Equal(b.Timestamp)
	})
}

func TestReceiptBookKeepsWhatItTook(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, filepath.Join(dir, "log"), nil)
	defer closeTest(t, l)
	all := fill(t, l, 700, 100)
	path := filepath.Join(dir, "receipts")
	b, err := OpenReceipts(path, l.Origin())
	must(t, err)
	must(t, b.Append(all[:1]...))
	must(t, b.Append())
	must(t, b.Append(all[1:500]...))
	if _, err := OpenReceipts(path, ""); err == nil {
		t.Error("two writers have one book")
	}
	r, err := ReadReceipts(path)
	must(t, err)
	if !sameReceipts(held(t, r), all[:500]) {
		t.Error("a reader beside the writer sees something else")
	}
	if err := r.Append(all[500]); !errors.Is(err, ErrReadOnly) {
		t.Errorf("appending to a book that is read: %v", err)
	}
	must(t, r.Close())
	must(t, b.Close())
	if _, err := OpenReceipts(path, "example.com/other"); err == nil {
		t.Error("a book of another log is opened")
	}
	b, err = OpenReceipts(path, "")
	must(t, err)
	must(t, b.Append(all[500:]...))
	if !sameReceipts(held(t, b), all) || b.Origin() != l.Origin() {
		t.Error("after reopening the book holds something else")
	}
	if h, found, err := b.Highest(); err != nil || !found || h.Index != 699 {
		t.Errorf("highest %d, %v, %v", h.Index, found, err)
	}
	rep, err := b.Check(context.Background(), l)
	if err != nil || rep.Receipts != 700 || rep.Kept != 700 || len(rep.Broken) != 0 {
		t.Errorf("report %+v, %v", rep, err)
	}
	must(t, b.Close())
	if _, err := OpenReceipts(filepath.Join(dir, "new"), ""); err == nil {
		t.Error("a new book without a log's name is made")
	}
	must(t, os.WriteFile(filepath.Join(dir, "foreign"), []byte("hello\n"), 0o600))
	if _, err := OpenReceipts(filepath.Join(dir, "foreign"), ""); err == nil {
		t.Error("a file that is no book is opened")
	}
}

// TestReceiptsNameBrokenPromises checks books against logs of the same name that are not the one which gave them.
func TestReceiptsNameBrokenPromises(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, filepath.Join(dir, "log"), nil)
	defer closeTest(t, l)
	all := fill(t, l, 600, 100)
	book := func(rs ...Receipt) *ReceiptBook {
		b, err := OpenReceipts(filepath.Join(t.TempDir(), "receipts"), l.Origin())
		must(t, err)
		t.Cleanup(func() { must(t, b.Close()) })
		must(t, b.Append(rs...))
		return b
	}
	otherLeaf, otherChain, beyond := all[300], all[301], all[302]
	otherLeaf.Leaf[0] ^= 1
	otherChain.Hash[0] ^= 1
	beyond.Index = 600
	rep, err := book(all[0], otherLeaf, otherChain, beyond, all[599]).Check(context.Background(), l)
	must(t, err)
	if rep.Receipts != 5 || rep.Kept != 2 || len(rep.Broken) != 3 {
		t.Fatalf("report %+v", rep)
	}
	for i, want := range []string{"another entry", "entries before it", "ends before it, at 600"} {
		if !strings.Contains(rep.Broken[i].What, want) {
			t.Errorf("%q, want %q", rep.Broken[i].What, want)
		}
	}
	// A log that was made anew, with the same name and as many entries.
	forged := openTest(t, filepath.Join(dir, "forged", "log"), func(c *Config) { c.StateDir = filepath.Join(dir, "forged", "state") })
	defer closeTest(t, forged)
	fill(t, forged, 600, 100)
	if rep, err = book(all...).Check(context.Background(), forged); err != nil || rep.Kept != 0 || len(rep.Broken) != 100 {
		t.Errorf("a forged log keeps %d of %d promises: %v", rep.Kept, rep.Receipts, err)
	}
	other := openTest(t, filepath.Join(dir, "other", "log"), func(c *Config) { c.Origin = "example.com/other" })
	defer closeTest(t, other)
	if _, err := book(all...).Check(context.Background(), other); err == nil {
		t.Error("receipts are checked against a log of another name")
	}
	// More receipts than were read at first, of a group that has grown since.
	c := receiptChecker{l: l}
	if what, err := c.check(context.Background(), &all[599]); err != nil || what != "" {
		t.Fatalf("%q, %v", what, err)
	}
	more := fill(t, l, 10, 10)
	if what, err := c.check(context.Background(), &more[9]); err != nil || what != "" {
		t.Errorf("%q, %v", what, err)
	}
}

func TestReceiptCheckOfADamagedLogIsNoAnswer(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, filepath.Join(dir, "log"), nil)
	all := fill(t, l, 300, 100)
	closeTest(t, l)
	b, err := OpenReceipts(filepath.Join(dir, "receipts"), l.Origin())
	must(t, err)
	defer b.Close()
	must(t, b.Append(all...))
	tamperFile(t, filepath.Join(dir, "log", openName), func(data []byte) []byte {
		data[bytes.Index(data, []byte("event 17"))] ^= 1
		return data
	})
	ro, err := Open(filepath.Join(dir, "log"), &Config{StateDir: l.cfg.StateDir, ReadOnly: true})
	must(t, err)
	defer closeTest(t, ro)
	if rep, err := b.Check(context.Background(), ro); err == nil && len(rep.Broken) == 0 {
		t.Errorf("a damaged log keeps its promises: %+v", rep)
	}
}

// TestCrashReceiptBookLosesNothingAcknowledged cuts the power at every operation.
func TestCrashReceiptBookLosesNothingAcknowledged(t *testing.T) {
	var rs []Receipt
	for i := range 60 {
		r := Receipt{Index: uint64(i), Leaf: proof.LeafHash([]byte{byte(i)}), Timestamp: newClock().now()}
		copy(r.ID[:], fmt.Sprintf("%036d", i))
		rs = append(rs, r)
	}
	const path, origin = "book/receipts", "example.com/test"
	points := 0
	for n := uint64(1); ; n++ {
		d := vfstest.New()
		must(t, d.Mkdir("book", 0o700))
		must(t, d.SyncDir("."))
		before := d.Ops()
		d.CutAfter(before + n)
		durable, whole := 0, true
		b, err := openReceipts(d, path, origin)
		if err != nil {
			whole = false
		}
		for i := 0; err == nil && i < len(rs); i += 7 {
			if err = b.Append(rs[i:min(i+7, len(rs))]...); err == nil {
				durable = min(i+7, len(rs))
			} else {
				whole = false
			}
		}
		if whole {
			break
		}
		points++
		after := d.Crash(vfstest.NewRand(n))
		b, err = openReceipts(after, path, origin)
		if err != nil {
			t.Fatalf("operation %d: %v", n, err)
		}
		got := held(t, b)
		if len(got) < durable || !sameReceipts(got, rs[:len(got)]) {
			t.Fatalf("operation %d: %d receipts after a crash, %d were acknowledged", n, len(got), durable)
		}
		must(t, b.Append(rs[len(got):]...))
		if !sameReceipts(held(t, b), rs) {
			t.Fatalf("operation %d: appending after a crash", n)
		}
		must(t, b.Close())
	}
	if points < 15 {
		t.Errorf("only %d places to crash at", points)
	}
}

func TestReceiptBookKnowsDamageFromACrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "receipts")
	b, err := OpenReceipts(path, "example.com/test")
	must(t, err)
	r := Receipt{Timestamp: newClock().now()}
	copy(r.ID[:], strings.Repeat("0", 36))
	many := slices.Repeat([]Receipt{r}, 6000) // more than one write
	must(t, b.Append(many...))
	must(t, b.Close())
	data, err := os.ReadFile(path)
	must(t, err)
	// A bit of an early receipt: no crash leaves that.
	early := bytes.Clone(data)
	early[200] ^= 1
	must(t, os.WriteFile(path, early, 0o600))
	if _, err := OpenReceipts(path, ""); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("early damage: %v", err)
	}
	// A torn end is moved aside, not deleted.
	torn := append(bytes.Clone(data), data[len(data)-50:len(data)-10]...)
	must(t, os.WriteFile(path, torn, 0o600))
	b, err = OpenReceipts(path, "")
	must(t, err)
	if n := len(held(t, b)); n != 6000 {
		t.Errorf("%d receipts", n)
	}
	must(t, b.Close())
	aside, err := os.ReadFile(fmt.Sprintf("%s.torn-%d", path, len(data)))
	if err != nil || !bytes.Equal(aside, torn[len(data):]) {
		t.Errorf("moved aside: %q, %v", aside, err)
	}
}

func TestReceiptBookTakesNothingAfterAFailedSync(t *testing.T) {
	d := vfstest.New()
	b, err := openReceipts(d, "receipts", "example.com/test")
	must(t, err)
	defer b.Close()
	d.SetFailSync(func(vfstest.Op) error { return errors.New("gone") })
	r := Receipt{Timestamp: newClock().now()}
	if b.Append(r) == nil {
		t.Fatal("a failed sync is acknowledged")
	}
	d.SetFailSync(nil)
	if b.Append(r) == nil {
		t.Error("the book goes on after a failed sync")
	}
}

func FuzzReceiptLine(f *testing.F) {
	r := Receipt{Index: 7, Timestamp: newClock().now()}
	copy(r.ID[:], strings.Repeat("0", 36))
	f.Add(appendReceipt(nil, &r))
	f.Fuzz(func(t *testing.T, line []byte) {
		if r, ok := parseReceipt(line); ok && !bytes.Equal(appendReceipt(nil, &r), line) {
			t.Error("a line that is not in its one form is read")
		}
	})
}
