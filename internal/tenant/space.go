package tenant

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/vfs"
)

// systemReserve is how much of the disk is kept for the logs of the log, as the file "reserve" in the data directory. On a full disk it
// is given up to them: appends of others are refused from then on, so that reads can still be recorded, and so still happen.
const (
	systemReserve = 16 << 20
	reserveName   = "reserve"
)

// space is the installation's view of a full disk.
type space struct {
	changing sync.Mutex // one gives the reserve up or makes it again; held while that is written

	full atomic.Bool // the reserve is given up, or there was no room for it

	mu   sync.Mutex // guards what follows; never held across I/O
	mute error      // why the last record could not be written, on a full disk; nil where it was
}

// ErrFull is wrapped where an append is refused because the disk is full. It wraps immutable.ErrNoSpace.
var ErrFull = fmt.Errorf("the disk is full, and what is left of it is for the records of reads: %w", immutable.ErrNoSpace)

// Space says what a full disk has put out of action: appends, and, where records is not nil, what must be recorded: reads and changes.
func (in *Installation) Space() (full bool, records error) {
	in.space.mu.Lock()
	defer in.space.mu.Unlock()
	return in.space.full.Load(), in.space.mute
}

func isNoSpace(err error) bool {
	return errors.Is(err, immutable.ErrNoSpace) || err != nil && vfs.IsNoSpace(err)
}

// reserveSpace makes the reserve where there is none. To end the state of a full disk there must be room for two of them: what was just
// given up alone is no sign that anybody has made room.
func (in *Installation) reserveSpace() error {
	s := &in.space
	s.changing.Lock()
	defer s.changing.Unlock()
	want := in.o.Reserve
	if s.full.Load() {
		want *= 2
	}
	err := in.allocateReserve(want)
	if err == nil && want > in.o.Reserve {
		err = in.allocateReserve(in.o.Reserve)
	}
	switch {
	case err == nil && s.full.Swap(false):
		s.mu.Lock()
		s.mute = nil
		s.mu.Unlock()
		in.logger.Info("the disk has room again: appends are taken")
	case isNoSpace(err) && !s.full.Swap(true):
		in.logger.Error("the disk is full: appends are refused until there is room", "wanted", want, "error", err)
	}
	return err
}

// allocateReserve makes the reserve n bytes of allocated space; one of another size is made anew.
func (in *Installation) allocateReserve(n int64) error {
	name := in.path(reserveName)
	if info, err := in.fs.Stat(name); err == nil && info.Size == n {
		return nil
	}
	if err := in.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := in.fs.Create(name, 0o600)
	if err != nil {
		return err
	}
	err = f.Allocate(n)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return errors.Join(err, in.fs.Remove(name))
	}
	return nil
}

// giveUpReserve frees the reserve for the logs of the log. Appends of others are refused before it is free.
func (in *Installation) giveUpReserve(why error) {
	s := &in.space
	s.changing.Lock()
	defer s.changing.Unlock()
	if !s.full.Swap(true) {
		in.logger.Error("the disk is full: appends are refused until there is room", "error", why)
	}
	if err := in.fs.Remove(in.path(reserveName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		in.logger.Error("the reserve for records could not be given up", "error", err)
	}
}

// makeRoom ends the state of a full disk when somebody has made room, and records what could not be recorded before.
func (in *Installation) makeRoom() {
	if !in.space.full.Load() || in.reserveSpace() != nil {
		return
	}
	if err := in.eachTenant(func(t *Tenant) error { return t.settleOwed(context.Background()) }); err != nil {
		in.logger.Error("what could not be recorded on a full disk is tried again", "error", err)
		return
	}
	in.mu.Lock()
	config := in.config
	in.config = nil
	in.mu.Unlock()
	if config != nil {
		if err := in.NoteConfig(context.Background(), config); err != nil {
			in.logger.Error("the configuration could not be recorded", "error", err)
		}
	}
}

// recorded notes what came of a record.
func (in *Installation) recorded(err error) {
	in.space.mu.Lock()
	defer in.space.mu.Unlock()
	if isNoSpace(err) {
		in.space.mute = err
	} else if err == nil {
		in.space.mute = nil
	}
}

// appendSystem writes to the tenant's log of the log: behind what is owed to it, and on a full disk with the help of the reserve.
func (t *Tenant) appendSystem(ctx context.Context, events ...immutable.Event) error {
	t.owing.Lock()
	owed := t.owed
	if len(owed) == 0 {
		t.owing.Unlock()
		return t.appendWithReserve(ctx, events...)
	}
	defer t.owing.Unlock() // in order: the start before what came of it
	if err := t.appendWithReserve(ctx, append(owed[:len(owed):len(owed)], events...)...); err != nil {
		return err
	}
	t.owed = nil
	return nil
}

func (t *Tenant) appendWithReserve(ctx context.Context, events ...immutable.Event) error {
	_, err := t.system.Log.Append(ctx, events...)
	if isNoSpace(err) {
		t.in.giveUpReserve(err)
		_, err = t.system.Log.Append(ctx, events...)
	}
	t.in.recorded(err)
	return err
}

// maxOwed is how many entries a tenant's log of the log may be owed.
const maxOwed = 2 * (maxLogs + 2)

// owe keeps entries that there is no room for: they come before any other, as soon as there is.
func (t *Tenant) owe(events []immutable.Event) {
	t.owing.Lock()
	defer t.owing.Unlock()
	if len(t.owed)+len(events) <= maxOwed {
		t.owed = append(t.owed, events...)
	}
}

// settleOwed records what is owed.
func (t *Tenant) settleOwed(ctx context.Context) error {
	t.owing.Lock()
	none := len(t.owed) == 0
	t.owing.Unlock()
	if none {
		return nil
	}
	return t.record(ctx)
}
