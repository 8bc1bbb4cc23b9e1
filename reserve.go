package immutable

import "fmt"

// The reserve is allocated space, at least as much as the largest batch this log has seen: on a full disk it is given
// up, so that recovery can move an incomplete batch aside and Close can sign. It is best effort: a disk too small for it
// has none.
const minReserve = 1 << 20

// growReserve makes the reserve at least n bytes, before a batch of n bytes is written. Only land calls it.
func (l *Log) growReserve(n int64) {
	if n <= l.reserve {
		return
	}
	want := int64(minReserve)
	for want < n {
		want *= 2
	}
	l.reserve = want // whatever comes of it: it is not tried again for batches of this size
	name := l.path(reserveName)
	if info, err := l.fs.Stat(name); err == nil && info.Size >= want {
		return
	}
	f, err := l.fs.OpenRW(name)
	if notExist(err) {
		f, err = l.fs.Create(name, 0o600)
	}
	if err != nil {
		l.logger.Debug("no reserve", "error", err)
		return
	}
	defer f.Close()
	if err := f.Allocate(want); err != nil {
		l.logger.Warn("no room for the reserve that helps close cleanly on a full disk", "error", fmt.Errorf("allocate %d bytes: %w", want, err))
	}
}

// giveUpReserve frees the reserve. It says whether there was one.
func (l *Log) giveUpReserve() bool {
	return l.fs.Remove(l.path(reserveName)) == nil
}
