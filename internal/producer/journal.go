package producer

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/vfs"
)

// Journal gives out the counters of one key in one log, each once, durably: a counter that Reserve or GiveOut has returned is
// given out again only after Settle has been told that nothing signed with it is, or can come, into the log. So a crash at any
// moment makes neither a number used twice nor, once what was open at the crash is settled, one that is missing.
//
// It is a file of lines: a header, then facts, each with a checksum and the length of the file up to which everything was
// durable before it. What a crash tore lies beyond the largest such length; anything else that does not read is damage.
type Journal struct {
	fs     vfs.FS
	name   string
	header string

	mu     sync.Mutex // guards what follows; held across I/O: a counter is of no use before it is durable
	f      vfs.File
	length int64                   // of the file
	synced int64                   // of it, durable
	high   uint64                  // highest counter given out
	free   []uint64                // below high, to be given out again, ascending
	open   map[uint64]*Reservation // given out, and not known to be in the log
	failed error                   // a write whose outcome is not known
}

// Reservation is a counter that was given out and that nobody has settled.
type Reservation struct {
	Counter uint64
	From    uint64 // the log's size when it was reserved: what was signed with it stands at this index or after
	Out     bool   // it was given out by GiveOut: its event may come into the log by whatever way, at any time
	Key     string // by GiveOut: hex of a hash of the event's idempotency key; empty without one
}

const (
	journalHeader  = "immutable/counters/1"
	maxJournal     = 64 << 20 // bytes of the file
	compactJournal = 4 << 20  // from which on it is written anew, when little of it is needed
	// MaxReserve bounds one Reserve: the events of one append.
	MaxReserve = 65536
	maxOpen    = 1 << 20 // reservations that are not settled
)

// OpenJournal reads the journal of a key in the log of the given origin, and begins one where there is none. The caller has
// the key's lock.
func OpenJournal(fsys vfs.FS, name, keyID, origin string) (*Journal, error) {
	j := &Journal{fs: fsys, name: name, header: journalHeader + " " + keyID + " " + origin + "\n", open: map[uint64]*Reservation{}}
	data, err := vfs.ReadFile(fsys, name, maxJournal)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := j.rewrite(); err != nil {
			return nil, fmt.Errorf("begin the counters %s: %w", name, err)
		}
		return j, nil
	case err != nil:
		return nil, fmt.Errorf("read the counters: %w", err)
	}
	if err := j.load(data); err != nil {
		return nil, fmt.Errorf("counters %s: %w; without them numbers would be used twice: bring the file back, or make a new key with `immutable producer new`", name, err)
	}
	// Written anew, so that the torn part is gone and everything that was read is durable.
	if err := j.rewrite(); err != nil {
		return nil, fmt.Errorf("go on with the counters %s: %w", name, err)
	}
	return j, nil
}

// Begun reports whether a counter was ever given out, or Raise told of one.
func (j *Journal) Begun() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.high > 0
}

// Reserve gives out n counters, ascending: free ones first. from is the log's size.
func (j *Journal) Reserve(n int, from uint64) ([]uint64, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if n < 1 || n > MaxReserve {
		return nil, fmt.Errorf("reserve %d counters: want 1 to %d", n, MaxReserve)
	}
	list, err := j.next(n)
	if err != nil {
		return nil, err
	}
	if err := j.record(true, "sent", strconv.FormatUint(from, 10), ranges(list)); err != nil {
		return nil, err
	}
	j.take(list, Reservation{From: from})
	return list, nil
}

// GiveOut gives out one counter for an event that goes its own way to the log. The same idempotency key, hashed, gets the
// same counter until it is settled; empty is none.
func (j *Journal) GiveOut(key string) (uint64, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if key != "" {
		for _, r := range j.open {
			if r.Key == key {
				return r.Counter, nil
			}
		}
	}
	list, err := j.next(1)
	if err != nil {
		return 0, err
	}
	word := key
	if word == "" {
		word = "-"
	}
	if err := j.record(true, "out", word, ranges(list)); err != nil {
		return 0, err
	}
	j.take(list, Reservation{Out: true, Key: key})
	return list[0], nil
}

// Settle says of counters that are open that their entries are in the log, or that nothing signed with them is or can come
// into it: those are given out again.
func (j *Journal) Settle(done, free []uint64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	isOpen := func(c uint64) bool { return j.open[c] != nil }
	done, free = keep(done, isOpen), keep(free, isOpen)
	if len(done) > 0 {
		// Not synced: a crash leaves it open, and whoever settles then finds it in the log.
		if err := j.record(false, "done", ranges(done)); err != nil {
			return err
		}
	}
	if len(free) > 0 {
		if err := j.record(true, "free", ranges(free)); err != nil {
			return err
		}
	}
	for _, c := range done {
		delete(j.open, c)
	}
	for _, c := range free {
		delete(j.open, c)
		j.giveBack(c)
	}
	if j.length > compactJournal && j.length > int64(64*(len(j.open)+len(j.free))) {
		return j.rewrite()
	}
	return nil
}

// Raise says that counters up to high were used.
func (j *Journal) Raise(high uint64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if high <= j.high {
		return nil
	}
	if err := j.record(true, "high", strconv.FormatUint(high, 10)); err != nil {
		return err
	}
	j.high = high
	return nil
}

// Open lists what is not settled, in the order of the counters.
func (j *Journal) Open() []Reservation {
	j.mu.Lock()
	defer j.mu.Unlock()
	var list []Reservation
	for _, c := range slices.Sorted(maps.Keys(j.open)) {
		list = append(list, *j.open[c])
	}
	return list
}

// Close lets go of the file. What was not synced is synced.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	err := j.failed
	if err == nil && j.synced < j.length {
		err = j.f.Sync()
	}
	j.failed = errors.New("the counters are closed")
	return errors.Join(err, j.f.Close())
}

// next are the counters to be given out next. j.mu is held.
func (j *Journal) next(n int) ([]uint64, error) {
	if len(j.open)+n > maxOpen {
		return nil, fmt.Errorf("%d counters were given out and never settled: at most %d", len(j.open), maxOpen)
	}
	list := slices.Clone(j.free[:min(n, len(j.free))])
	for c := j.high + 1; len(list) < n; c++ {
		if c > entry.MaxCounter {
			return nil, errors.New("the key has no counters left")
		}
		list = append(list, c)
	}
	return list, nil
}

// take takes down that counters were given out.
func (j *Journal) take(list []uint64, r Reservation) {
	for _, c := range list {
		if i, found := slices.BinarySearch(j.free, c); found {
			j.free = slices.Delete(j.free, i, i+1)
		}
		own := r
		own.Counter = c
		j.open[c] = &own
		j.high = max(j.high, c)
	}
}

func (j *Journal) giveBack(c uint64) {
	if i, found := slices.BinarySearch(j.free, c); !found {
		j.free = slices.Insert(j.free, i, c)
	}
}

// line is a fact as the file has it.
func line(after int64, words ...string) []byte {
	text := strconv.FormatInt(after, 10) + " " + strings.Join(words, " ")
	return fmt.Appendf(nil, "%08x %s\n", crc32.Checksum([]byte(text), castagnoli()), text)
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// record appends a fact. After an error nothing is given out any more: what the disk has is not known.
func (j *Journal) record(sync bool, words ...string) error {
	if j.failed != nil {
		return j.failed
	}
	b := line(j.synced, words...)
	if j.length+int64(len(b)) > maxJournal {
		return fmt.Errorf("counters %s: the file has %d bytes, at most %d: too much is not settled", j.name, j.length, maxJournal)
	}
	_, err := j.f.WriteAt(b, j.length)
	if err == nil && sync {
		err = j.f.Sync()
	}
	if err != nil {
		j.failed = fmt.Errorf("write the counters %s: %w; close the producer and open it again", j.name, err)
		return j.failed
	}
	if j.length += int64(len(b)); sync {
		j.synced = j.length
	}
	return nil
}

// rewrite puts a file that holds what is known in the place of the present one.
func (j *Journal) rewrite() error {
	b := []byte(j.header)
	add := func(words ...string) { b = append(b, line(int64(len(b)), words...)...) }
	add("high", strconv.FormatUint(j.high, 10))
	if len(j.free) > 0 {
		add("free", ranges(j.free))
	}
	sent := map[uint64][]uint64{}
	for _, c := range slices.Sorted(maps.Keys(j.open)) {
		switch r := j.open[c]; {
		case !r.Out:
			sent[r.From] = append(sent[r.From], c)
		case r.Key == "":
			add("out", "-", ranges([]uint64{c}))
		default:
			add("out", r.Key, ranges([]uint64{c}))
		}
	}
	for _, from := range slices.Sorted(maps.Keys(sent)) {
		add("sent", strconv.FormatUint(from, 10), ranges(sent[from]))
	}
	if err := vfs.WriteAtomic(j.fs, j.name+".new", j.name, b, 0o600); err != nil {
		j.failed = fmt.Errorf("write the counters %s: %w; close the producer and open it again", j.name, err)
		return j.failed
	}
	f, err := j.fs.OpenRW(j.name)
	if err != nil {
		j.failed = err
		return err
	}
	if j.f != nil {
		_ = j.f.Close() // nothing of it counts any more
	}
	j.f, j.length, j.synced = f, int64(len(b)), int64(len(b))
	return nil
}

// load reads a file. It does not change it.
func (j *Journal) load(data []byte) error {
	rest, found := bytes.CutPrefix(data, []byte(j.header))
	if !found {
		return errors.New("the file does not begin as one of this key and log does")
	}
	bad, durable, whole := int64(-1), int64(0), int64(len(data)) // bad is where the first line begins that does not read
	for at := int64(len(j.header)); len(rest) > 0; {
		l, more, complete := bytes.Cut(rest, []byte("\n"))
		after, words, err := parseLine(l)
		if err == nil && complete && after <= whole {
			durable = max(durable, after)
			if bad < 0 {
				if err := j.apply(words); err != nil {
					return fmt.Errorf("byte %d: %w", at, err)
				}
			}
		}
		if (err != nil || !complete) && bad < 0 {
			bad = at
		}
		if err != nil { // its beginning may be another line, whose newline is what was changed
			durable = max(durable, hidden(l, whole))
		}
		at += int64(len(rest) - len(more))
		rest = more
	}
	if bad >= 0 && bad < durable {
		return fmt.Errorf("byte %d: a line that does not read, where everything was durable up to byte %d", bad, durable)
	}
	return nil
}

// hidden is the length up to which everything was durable according to a line that ends a run of bytes; 0 if none does.
func hidden(l []byte, whole int64) int64 {
	const sum = 8
	for k := 1; k+sum < len(l); k++ {
		if l[k+sum] != ' ' || bytes.ContainsFunc(l[k:k+sum], func(r rune) bool { return !strings.ContainsRune("0123456789abcdef", r) }) {
			continue
		}
		if after, _, err := parseLine(l[k:]); err == nil && after <= whole {
			return after
		}
	}
	return 0
}

func parseLine(l []byte) (after int64, words []string, err error) {
	sum, text, found := strings.Cut(string(l), " ")
	if want := fmt.Sprintf("%08x", crc32.Checksum([]byte(text), castagnoli())); !found || sum != want {
		return 0, nil, errors.New("the checksum does not fit")
	}
	words = strings.Split(text, " ")
	n, err := number(words[0])
	return int64(n), words[1:], err
}

// apply takes over one fact.
func (j *Journal) apply(words []string) error {
	switch {
	case len(words) == 2 && words[0] == "high":
		high, err := number(words[1])
		j.high = max(j.high, high)
		return err
	case len(words) == 2 && (words[0] == "done" || words[0] == "free"):
		list, err := parseRanges(words[1])
		for _, c := range list {
			delete(j.open, c)
			if words[0] == "free" {
				j.giveBack(c)
			}
			j.high = max(j.high, c)
		}
		return err
	case len(words) == 3 && (words[0] == "sent" || words[0] == "out"):
		list, err := parseRanges(words[2])
		if err != nil {
			return err
		}
		r := Reservation{Out: words[0] == "out"}
		if !r.Out {
			r.From, err = number(words[1])
		} else if words[1] != "-" {
			r.Key = words[1]
		}
		j.take(list, r)
		return err
	}
	return errors.New("no known fact")
}

// ranges writes ascending counters as 1-5,7.
func ranges(list []uint64) string {
	var b strings.Builder
	for i := 0; i < len(list); {
		k := i + 1
		for k < len(list) && list[k] == list[k-1]+1 {
			k++
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.FormatUint(list[i], 10))
		if k > i+1 {
			b.WriteString("-" + strconv.FormatUint(list[k-1], 10))
		}
		i = k
	}
	return b.String()
}

func parseRanges(s string) (list []uint64, err error) {
	for part := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(part, "-")
		a, err := number(first)
		if err != nil {
			return nil, err
		}
		b := a
		if isRange {
			if b, err = number(last); err != nil {
				return nil, err
			}
		}
		if a < 1 || b < a || b-a >= maxOpen || len(list) > 0 && a <= list[len(list)-1] || len(list)+int(b-a) >= maxOpen {
			return nil, fmt.Errorf("the counters %.40q are not ascending, or too many", s)
		}
		for c := a; c <= b; c++ {
			list = append(list, c)
		}
	}
	return list, nil
}

func number(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return 0, fmt.Errorf("%.40q is not a number", s)
	}
	return n, nil
}

// keep are the elements for which ok holds, ascending and once.
func keep(list []uint64, ok func(uint64) bool) []uint64 {
	var out []uint64
	for _, c := range list {
		if ok(c) {
			out = append(out, c)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
