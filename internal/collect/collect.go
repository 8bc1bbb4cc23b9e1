// Package collect takes lines from files into a log and goes on where it stopped, through rotation by renaming and by copying,
// truncation, removal, restarts and kills: no line twice, no line missed as long as its bytes can still be read.
//
// A file is known by its inode and its first line, not by its name. Every entry says which bytes of which file it is made of, so
// that the log itself is the truth about how far a file was collected: what an append made durable is collected, what it did not
// is not. The file of offsets only saves reading the log; what was appended after it was written is read from the log at the
// start. Where the log cannot be read, on a server, each record has an idempotency key made of the same facts.
package collect

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"path/filepath"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/fsnotify/fsnotify"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/vfs"
)

// Config says what to collect, and into which log.
type Config struct {
	Paths   []string // files, directories (every file in them but hidden ones), and patterns of path.Match
	Offsets string   // the file that remembers how far
	Name    string   // of the log, so that offsets are not used for another
	Source  string   // this host

	// Append makes events durable, all or none.
	Append func(context.Context, ...immutable.Event) ([]immutable.Receipt, error)
	// Entries reads the log from an index on. Nil where it cannot be read: then idempotency keys alone hold against repeats.
	Entries func(context.Context, immutable.Query) iter.Seq2[immutable.Entry, error]
	// Keys gives each event an idempotency key: for a log behind a network.
	Keys bool

	// Decode makes an event of a line without its end; nil makes the line the message.
	Decode func(line []byte) (immutable.Event, error)
	Level  immutable.Level // of lines, where Decode is nil

	Multiline *regexp.Regexp // begins a record; lines that do not match go on with the one before. Nil: each line is one
	FromEnd   bool           // files that are there at the first start are collected from their end on
	Once      bool           // stop when all that is there is collected
	Poll      time.Duration  // how often files are looked at where nothing tells of changes; 0 is a second

	Logger   *slog.Logger
	Progress func(lines int)
}

// Stats is what a run has done.
type Stats struct {
	Entries   uint64 `json:"entries"`   // appended
	Repeated  uint64 `json:"repeated"`  // that the log had already
	Files     int    `json:"files"`     // followed at the end
	Malformed uint64 `json:"malformed"` // that the format did not fit; they are kept as they came
	Gaps      uint64 `json:"gaps"`      // files that went before all of them was read
	Left      int64  `json:"left"`      // bytes of last lines that have no end yet
}

// Limits of one batch and one record.
const (
	maxRecord    = 48 << 10 // bytes of a line in one entry at most; a longer line is several entries
	batchEntries = 4096
	batchBytes   = 2 << 20
	chunk        = 256 << 10
	saveEvery    = time.Second
	retryMost    = 30 * time.Second
)

type collector struct {
	Config
	fs  vfs.FS
	now func() time.Time

	known []*fileState
	files []*tracked
	gaps  []immutable.Event

	truncated []*fileState // lives that ended with bytes that were not collected, of this scan
	size      uint64       // of the log, as far as this knows
	dirty     bool         // something is not in the offsets file
	saved     time.Time
	started   bool
	said      map[string]bool

	events  []immutable.Event
	pending int // bytes
	buf     []byte
	scratch []byte
	stats   Stats
}

// Run collects until ctx ends, or, with Once, until all is collected. What it returns nil for is in the log.
func Run(ctx context.Context, cfg Config) (Stats, error) {
	c := &collector{Config: cfg, fs: vfs.OS(), now: time.Now, said: map[string]bool{}, buf: make([]byte, chunk)}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Poll <= 0 {
		c.Poll = time.Second
	}
	for i, p := range c.Paths { // what the offsets remember must not depend on where it is started
		abs, err := filepath.Abs(p)
		if err != nil {
			return Stats{}, err
		}
		c.Paths[i] = abs
	}
	unlock, err := c.lock()
	if err != nil {
		return Stats{}, err
	}
	defer unlock()
	if err := c.load(ctx); err != nil {
		if ctx.Err() != nil {
			return Stats{}, nil // told to stop before anything was done
		}
		return Stats{}, err
	}
	err = c.run(ctx)
	if c.dirty {
		err = errors.Join(err, c.save())
	}
	for _, t := range c.files {
		if size, serr := t.f.Size(); serr == nil && size > t.state.Offset {
			c.stats.Left += size - t.state.Offset
		}
		_ = t.f.Close()
	}
	c.stats.Files = len(c.files)
	return c.stats, err
}

func (c *collector) run(ctx context.Context) error {
	watch := c.watch()
	defer watch.close()
	for {
		if err := c.scan(); err != nil {
			return err
		}
		c.started = true
		for ctx.Err() == nil {
			if err := c.batch(); err != nil {
				return err
			}
			if len(c.events) == 0 {
				break
			}
			if err := c.commit(ctx); err != nil {
				return err
			}
		}
		if c.dirty && (c.now().Sub(c.saved) >= saveEvery || c.Once) {
			if err := c.save(); err != nil {
				return err
			}
		}
		if ctx.Err() != nil || c.Once {
			return nil
		}
		watch.wait(ctx, c.Poll)
	}
}

// batch reads what is new, a part of each file in turn, until a batch is full or nothing is left.
func (c *collector) batch() error {
	c.events, c.gaps = append(c.events, c.gaps...), nil
	c.stats.Gaps += uint64(len(c.events))
	for progress := true; progress; {
		progress = false
		for _, t := range c.files {
			n, err := c.read(t)
			if err != nil {
				return fmt.Errorf("read %s: %w", t.state.Path, err)
			}
			progress = progress || n
			if len(c.events) >= batchEntries || c.pending >= batchBytes {
				return nil
			}
		}
	}
	return nil
}

// read takes what one file has now, at most a chunk of it.
func (c *collector) read(t *tracked) (progress bool, err error) {
	size, err := t.f.Size()
	if err != nil {
		return false, err
	}
	if size > t.next.Size {
		t.next.Size, t.state.Size, t.grew, c.dirty = size, size, c.now(), true
	}
	if size <= t.next.Offset || c.shaded(t, size) {
		return false, nil
	}
	n, err := t.f.ReadAt(c.buf, t.next.Offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	// What was read goes on where it was left only if the file was not written over: looked at after reading.
	if same, err := t.next.intact(t.f); err != nil || !same {
		return false, err
	}
	atEnd := t.next.Offset+int64(n) >= size
	over := atEnd && !t.named && c.now().Sub(t.grew) >= settle // nobody writes to it any more
	data := c.buf[:n]
	for len(data) > 0 && len(c.events) < batchEntries && c.pending < batchBytes {
		length, whole := c.cut(data, t, atEnd)
		if length == 0 && (!over || len(data) > maxRecord) {
			break
		}
		if length == 0 {
			length, whole = len(data), true
		}
		c.record(t, data[:length], !whole)
		data = data[length:]
		progress = true
	}
	return progress, nil
}

// shaded says whether a file is a copy of another that still has all of it. Once the other is truncated, has gone, or this one has
// grown beyond it, this is a file of its own, and goes on behind what was collected of the other.
func (c *collector) shaded(t *tracked, size int64) bool {
	ref := t.state.CopyOf
	if ref == nil {
		return false
	}
	var was *before
	for _, k := range c.known {
		switch {
		case k.Inode != ref.Inode || k == t.state:
		case k.Generation == ref.Generation:
			was = k.life()
		default:
			for i := range k.Before {
				if k.Before[i].Generation == ref.Generation {
					was = &k.Before[i]
				}
			}
		}
	}
	still := false
	for _, o := range c.files {
		if o.state.Inode == ref.Inode && o.state.Generation == ref.Generation && !o.state.Over {
			theirs, err := o.f.Size()
			still = err == nil && theirs >= size
		}
	}
	t.next.Size = size
	if was != nil && was.Offset > t.next.Offset {
		t.next.goOn(was)
	}
	if !still || t.next.Offset >= size {
		t.next.CopyOf = nil
	}
	*t.state, c.dirty = t.next, true
	return still || t.next.Offset >= size
}

// cut says how many bytes the first record takes, and whether it ends there; 0 where its end is not there yet.
func (c *collector) cut(data []byte, t *tracked, atEnd bool) (length int, whole bool) {
	end := bytes.IndexByte(data, '\n') + 1
	if end == 0 || end > maxRecord {
		if len(data) < maxRecord {
			return 0, false
		}
		return runeEnd(data, maxRecord), false
	}
	if c.Multiline == nil || t.next.Part > 0 {
		return end, true
	}
	for {
		next := bytes.IndexByte(data[end:], '\n') + 1
		switch {
		case next == 0 && !atEnd && len(data) == len(c.buf) && end < maxRecord:
			return end, true // a chunk that is full of one line's beginning
		case next == 0 && c.now().Sub(t.grew) < c.multilineTime():
			return 0, false
		case next == 0 || end+next > maxRecord || c.Multiline.Match(bytes.TrimRight(data[end:end+next], "\r\n")):
			return end, true
		}
		end += next
	}
}

// multilineTime is how long the last record of a file may still get further lines.
func (c *collector) multilineTime() time.Duration {
	if c.Once {
		return 0
	}
	return 2 * time.Second
}

// runeEnd is a place at or shortly before n where no character of UTF-8 is cut.
func runeEnd(b []byte, n int) int {
	for k := n; k > n-utf8.UTFMax && k > 0; k-- {
		if k == len(b) || utf8.RuneStart(b[k]) {
			return k
		}
	}
	return n
}

// record makes an entry of the bytes, or several where one cannot hold them.
func (c *collector) record(t *tracked, raw []byte, more bool) {
	p := place{
		Source: c.Source, Path: strings.ToValidUTF8(t.next.Path, "\uFFFD"), Dev: t.next.Dev, Inode: t.next.Inode, First: t.next.First, FirstBytes: t.next.FirstBytes,
		Generation: t.next.Generation, Offset: t.next.Offset, Bytes: int64(len(raw)), Sum: sum(raw), More: more,
	}
	if more || t.next.Part > 0 {
		p.Part = t.next.Part + 1
	}
	e, ok := c.event(raw, &p)
	if !ok {
		middle := runeEnd(raw, len(raw)/2)
		c.record(t, raw[:middle], true)
		c.record(t, raw[middle:], more)
		return
	}
	c.events = append(c.events, e)
	c.pending += len(raw) + 512
	n := &t.next
	n.Offset, n.Last, n.LastSum, n.Part = n.Offset+int64(len(raw)), p.Bytes, p.Sum, 0
	if more {
		n.Part = p.Part
	}
}

// event makes the entry of one record; false where it does not fit one.
func (c *collector) event(raw []byte, p *place) (immutable.Event, bool) {
	line := bytes.TrimSuffix(bytes.TrimSuffix(raw, []byte("\n")), []byte("\r"))
	if c.Decode != nil && p.Part == 0 {
		e, err := c.Decode(line)
		if err == nil {
			if e.Hostname == "" {
				e.Hostname = c.Source
			}
			if c.finish(&e, p) {
				return e, true
			}
		} else {
			c.stats.Malformed++
		}
		if e, ok := c.plain(line, p, err); ok {
			return e, true
		}
		return e, false
	}
	return c.plain(line, p, nil)
}

// plain makes the line the message. Of one that is not UTF-8, or ends with CR LF, metadata keeps the bytes.
func (c *collector) plain(line []byte, p *place, malformed error) (immutable.Event, bool) {
	e := immutable.Event{Level: c.Level, Message: string(line), Hostname: c.Source, Metadata: immutable.Fields{}}
	if !utf8.Valid(line) {
		e.Message = strings.ToValidUTF8(e.Message, "\uFFFD")
		e.Metadata["raw64"] = bytes.Clone(line)
	}
	if malformed != nil {
		e.Level = immutable.Warn
		e.Metadata["parseError"] = malformed.Error()
	}
	return e, c.finish(&e, p)
}

// finish puts the place into the event, and says whether it can be an entry.
func (c *collector) finish(e *immutable.Event, p *place) bool {
	if len(e.RawMetadata) > 0 {
		data, err := json.Marshal(p)
		if err != nil {
			return false
		}
		object := bytes.TrimSuffix(bytes.TrimSpace(e.RawMetadata), []byte("}"))
		joined := append(make([]byte, 0, len(object)+len(data)+16), object...)
		if len(bytes.TrimSpace(object)) > 1 {
			joined = append(joined, ',')
		}
		e.RawMetadata = append(append(append(joined, `"collect":`...), data...), '}')
	} else {
		if e.Metadata == nil {
			e.Metadata = immutable.Fields{}
		}
		e.Metadata["collect"] = p
	}
	if e.IdempotencyKey = ""; c.Keys {
		e.IdempotencyKey = p.key()
	}
	out, err := entry.Append(c.scratch[:0], e)
	c.scratch = out
	return err == nil
}

// commit makes the batch durable, and only then counts its files as read so far.
func (c *collector) commit(ctx context.Context) error {
	if len(c.events) == 0 {
		return nil
	}
	pause := 100 * time.Millisecond
	events := c.events
	for len(events) > 0 {
		// What was begun is waited for: a batch whose outcome is unknown would have to be looked up.
		receipts, err := c.Append(context.WithoutCancel(ctx), events...)
		var conflict *immutable.KeyConflictError
		switch {
		case err == nil:
			c.committed(receipts)
			events = nil
			continue
		case c.Keys && errors.As(err, &conflict) && conflict.Event >= 0 && conflict.Event < len(events):
			// The key says that these bytes are in the log. What differs is what does not make them others, such as the file's name.
			c.stats.Repeated++
			events = append(append([]immutable.Event{}, events[:conflict.Event]...), events[conflict.Event+1:]...)
			continue
		case !c.Keys || ctx.Err() != nil:
			return fmt.Errorf("append: %w", err)
		}
		c.warnOnce("append", "the log takes nothing now; it is tried again", "error", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("append: %w", err)
		}
		pause = min(2*pause, retryMost)
	}
	if c.Progress != nil {
		c.Progress(len(c.events))
	}
	clear(c.events)
	c.events, c.pending = c.events[:0], 0
	for _, t := range c.files {
		*t.state = t.next
	}
	c.dirty = true
	if c.now().Sub(c.saved) >= saveEvery {
		return c.save()
	}
	return nil
}

func (c *collector) committed(receipts []immutable.Receipt) {
	for i := range receipts {
		if c.size = max(c.size, receipts[i].Index+1); receipts[i].Repeated {
			c.stats.Repeated++
		} else {
			c.stats.Entries++
		}
	}
}

// warnOnce says a thing once in a run.
func (c *collector) warnOnce(key, what string, args ...any) {
	if !c.said[key] {
		c.said[key] = true
		c.Logger.Warn(what, args...)
	}
}

// watcher wakes the collector when something changes in the directories that it looks into.
type watcher struct{ w *fsnotify.Watcher }

func (c *collector) watch() *watcher {
	w, err := fsnotify.NewBufferedWatcher(64)
	if err != nil {
		c.Logger.Debug("files are looked at by the clock alone", "error", err)
		return &watcher{}
	}
	for _, p := range c.Paths {
		if info, err := c.fs.Stat(p); err != nil || !info.Dir {
			p = filepath.Dir(p)
		}
		if err := w.Add(p); err != nil {
			c.Logger.Debug("a directory is looked at by the clock alone", "path", p, "error", err)
		}
	}
	return &watcher{w}
}

// gather is how long further changes are waited for once there was one.
const gather = 20 * time.Millisecond

func (w *watcher) wait(ctx context.Context, most time.Duration) {
	timer := time.NewTimer(most)
	defer timer.Stop()
	if w.w == nil {
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		return
	}
	select {
	case <-timer.C:
		return
	case <-ctx.Done():
		return
	case <-w.w.Events:
	case <-w.w.Errors: //nolint:errcheck // events were lost: look at all
	}
	timer.Reset(min(gather, most))
	for {
		select {
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		case <-w.w.Events:
		case <-w.w.Errors: //nolint:errcheck // all is looked at anyway
		}
	}
}

func (w *watcher) close() {
	if w.w != nil {
		_ = w.w.Close()
	}
}
