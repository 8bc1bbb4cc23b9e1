package fsck

import (
	"path"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
)

// A toucher sets the time of immutable.log during every check.
type toucher struct {
	*vfstest.Disk
	checks int
	each   func(check int) // called when a check begins to read; may be nil
}

func (f *toucher) Open(name string) (vfs.File, error) {
	if path.Base(name) == latestName { // once in a check
		f.checks++
		if f.each != nil {
			f.each(f.checks)
		}
	}
	return f.Disk.Open(name)
}

func (f *toucher) Stat(name string) (vfs.Info, error) {
	info, err := f.Disk.Stat(name)
	if path.Base(name) == openName {
		info.ModTime = info.ModTime.Add(time.Duration(f.checks) * time.Hour)
	}
	return info, err
}

// Whoever can touch a file makes no proof with it: what a crash may leave is a batch in flight only where a later check sees it gone.
func TestTouchForgivesNoLeftover(t *testing.T) {
	const origin = "example.com/log"
	b := newHybrid(t, origin)
	b.add(3)
	b.publish(true)
	older := b.files[latestName]
	b.add(4)
	b.close()
	b.noHead = true
	newest := b.files[latestName]
	b.files[latestName] = older
	torn := b.clone()
	torn.files[latestName] = newest
	torn.files[openName] = append(torn.files[openName], `{"id":`...)
	for _, tt := range []struct {
		name     string
		log      *book
		done     int // before this check the writer has published; 0: never
		verdict  Verdict
		attempts int
	}{
		{"an older checkpoint", b, 0, Unknown, maxAttempts},
		{"an incomplete batch", torn, 0, Unknown, maxAttempts},
		{"gone at the second check", b, 2, Proven, 2},
		{"gone at the last check", b, maxAttempts, Proven, maxAttempts},
	} {
		o := tt.log.options()
		d := &toucher{Disk: tt.log.disk()}
		d.each = func(check int) {
			if check == tt.done {
				must(t, d.WriteFileRaw(testDir+"/"+latestName, newest))
			}
		}
		o.FS, o.Keys = d, []string{makeEpoch(t, origin, 0).ed.Key().String()}
		r := verify(t, o)
		if r.Verdict != tt.verdict || r.Attempts != tt.attempts {
			t.Errorf("%s: %s after %d attempts, want %s after %d: %v %v", tt.name, r.Verdict, r.Attempts, tt.verdict, tt.attempts, r.Findings, r.Notes)
		}
	}
}
