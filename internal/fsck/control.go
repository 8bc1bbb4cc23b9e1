package fsck

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/segment"
	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

func timeOf(unixNano int64) time.Time { return time.Unix(0, unixNano).UTC() }

// control checks a control entry's facts. The decoder has checked its form and level.
func (c *check) control(file string, e *control) {
	m, names, err := members(e.log)
	f := Finding{File: file, Offset: e.offset, Index: int64(e.index)}
	if err != nil {
		f.What = "the control object cannot be read: " + err.Error()
		c.find(f)
		return
	}
	kind := m.text("type")
	if len(c.rep.Controls) < maxControls {
		c.rep.Controls = append(c.rep.Controls, Control{Index: e.index, Type: kind, Line: string(e.line)})
	}
	want, known := controlMembers[kind]
	if !known {
		f.What, f.Got = "a control entry of a type that this program does not know", kind
		c.note(f)
		return
	}
	if names != want {
		f.What, f.Got, f.Want = "a "+kind+" entry with other members", names, want
		c.find(f)
		return
	}
	switch kind {
	case "recovery":
		err = c.checkRecovery(m, e)
	case "clock":
		err = checkClock(m, e)
	case "continue":
		err = checkContinue(m)
	case "import":
		err = checkImport(m)
	case "anchor":
		err = c.checkAnchor(m, e)
	case "producer", "producer-end":
		err = checkProducer(m)
	case "epoch":
		_, _, err = proof.ParseEpochEntry(e.line)
	case "hold", "release", "retire", "restore":
		err = c.checkRetention(kind, m, e)
	}
	if err != nil {
		f.What = "the " + kind + " entry is wrong: " + err.Error()
		c.find(f)
	}
}

// The members of each type of control entry, in their order. Part of the format; never change.
var controlMembers = map[string]string{
	"recovery": "type head size file sha256 bytes",
	"clock":    "type was now",
	"continue": "type origin size root verdict checkpoint",
	"import":   "type format blocks head broken",
	"epoch":    "type epoch vkeys",
	"anchor":   "type size time file sha256",
	"producer": "type name key", "producer-end": "type name key",
	"hold": "type id reason by", "release": "type id reason by",
	"retire":  "type first end archive bytes seal leaves cold reason by",
	"restore": "type first entry reason by",
}

// checkRecovery holds a recovery entry against its own index and the file that it names. Whether that file hashes to its name
// is checked for all files in quarantine.
func (c *check) checkRecovery(m object, e *control) error {
	head, err1 := m.number("head")
	size, err2 := m.number("size")
	length, err3 := m.number("bytes")
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	name, sum := m.text("file"), m.text("sha256")
	base, found := strings.CutPrefix(name, "quarantine/")
	_, hash, ok := parseQuarantine(base)
	switch {
	case size != e.index:
		return fmt.Errorf("size is %d, the entry's index %d", size, e.index)
	case head > size:
		return fmt.Errorf("head is %d, more than the size %d that was recovered", head, size)
	case !found || !ok || fmt.Sprintf("%x", hash) != sum:
		return fmt.Errorf("file %q is not quarantine/<offset>-%s", name, sum)
	}
	file, got, err := c.open(name)
	if err != nil {
		c.fault(name, int64(e.index), err, "the recovery entry names it: it is evidence")
		return nil
	}
	_ = file.Close()
	if length == 0 || length > segment.MaxBatchBytes {
		return fmt.Errorf("bytes is %d, an incomplete batch has 1 to %d", length, segment.MaxBatchBytes)
	}
	if uint64(got) != length {
		return fmt.Errorf("%s has %d bytes, the entry says %d", name, got, length)
	}
	return nil
}

func checkClock(m object, e *control) error {
	was, now := m.text("was"), m.text("now")
	for _, s := range []string{was, now} {
		if _, err := entry.ParseTime([]byte(s)); err != nil {
			return fmt.Errorf("%q: %w", s, err)
		}
	}
	if now != timeText(e.time) {
		return fmt.Errorf("now is %s, the entry's timestamp %s", now, timeText(e.time))
	}
	if e.known && was != timeText(e.before) {
		return fmt.Errorf("was is %s, the timestamp of the entry before %s", was, timeText(e.before))
	}
	return nil
}

func checkContinue(m object) error {
	size, err := m.number("size")
	if err != nil {
		return err
	}
	text, _, found := strings.Cut(m.text("checkpoint"), "\n\n")
	if !found {
		return errors.New("checkpoint is no note")
	}
	at, err := proof.ParseCheckpoint(text + "\n")
	if err != nil {
		return err
	}
	// The other log may have gone on after its last checkpoint, or ended at it.
	if at.Origin != m.text("origin") || at.Size > size || at.Size == size && at.Root.Base64() != m.text("root") {
		return fmt.Errorf("checkpoint is of %s at size %d with root %s, the entry says %s, %d, %s", at.Origin, at.Size, at.Root.Base64(), m.text("origin"), size, m.text("root"))
	}
	if _, err := proof.ParseHash(m.text("root")); err != nil {
		return err
	}
	switch Verdict(m.text("verdict")) {
	case Refuted, Unknown, Proven, Consistent:
		return nil
	}
	return fmt.Errorf("verdict %q is none", m.text("verdict"))
}

func checkImport(m object) error {
	_, err1 := m.number("blocks")
	_, err2 := m.number("broken")
	if m.text("format") != "blockchain" {
		return fmt.Errorf("format %q is unknown", m.text("format"))
	}
	return errors.Join(err1, err2)
}

// An object is a flat JSON object's strings and numbers.
type object map[string]any

func (o object) text(name string) string {
	s, _ := o[name].(string)
	return s
}

func (o object) number(name string) (uint64, error) {
	n, _ := o[name].(json.Number)
	v, err := strconv.ParseUint(n.String(), 10, 64)
	if err != nil || strconv.FormatUint(v, 10) != n.String() {
		return 0, fmt.Errorf("%s is %v, want a decimal number", name, o[name])
	}
	return v, nil
}

// members reads an object's members and their names in order.
func members(data []byte) (object, string, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, "", errors.New("not an object")
	}
	m := object{}
	var names []string
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, "", err
		}
		name, _ := t.(string)
		var v any
		if err := d.Decode(&v); err != nil {
			return nil, "", err
		}
		m[name] = v
		names = append(names, name)
	}
	return m, strings.Join(names, " "), nil
}

// readQuarantine checks that each file that recovery moved aside is what its name says.
func (c *check) readQuarantine() {
	for _, base := range c.list("quarantine") {
		if c.ctx.Err() != nil {
			return
		}
		name := "quarantine/" + base
		_, want, ok := parseQuarantine(base)
		if !ok {
			c.note(Finding{File: name, Offset: -1, Index: -1, What: "is a name that recovery does not make"})
			continue
		}
		f, size, err := c.open(name)
		if err != nil {
			c.fault(name, -1, err, "it is evidence that recovery kept")
			continue
		}
		got, err := c.hashFile(f, size)
		_ = f.Close()
		switch {
		case err != nil:
			c.fault(name, -1, err, "")
		case got != want:
			c.find(Finding{File: name, Offset: -1, Index: -1, What: "does not hash to its name", Got: fmt.Sprintf("%x", got), Want: fmt.Sprintf("%x", want), Hint: "evidence that recovery kept was changed"})
		}
	}
}

func parseQuarantine(base string) (offset uint64, sum [sha256.Size]byte, ok bool) {
	digits, hex, found := strings.Cut(base, "-")
	offset, err := strconv.ParseUint(digits, 10, 63)
	h, err2 := proof.ParseHex(hex)
	return offset, h, found && err == nil && err2 == nil && strconv.FormatUint(offset, 10) == digits
}

// hashFile is the SHA-256 of the first size bytes.
func (c *check) hashFile(f vfs.File, size int64) (sum [sha256.Size]byte, err error) {
	h := sha256.New()
	buf := make([]byte, min(256<<10, size))
	for off := int64(0); off < size; {
		if err := c.ctx.Err(); err != nil {
			return sum, err
		}
		n := int(min(int64(len(buf)), size-off))
		if m, err := f.ReadAt(buf[:n], off); m < n {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return sum, err
		}
		h.Write(buf[:n])
		off += int64(n)
	}
	h.Sum(sum[:0])
	c.addBytes(size)
	return sum, nil
}
