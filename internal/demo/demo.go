// Package demo fills a data directory with a week that nobody lived, so that somebody who looks at the service for the first time
// sees what it is for. Its events go through the same code as everybody's. Nothing passes it off as real: the origin of each log
// begins with immutable.DemoPrefix, which stands in every checkpoint, and each entry's metadata has "demo": true.
package demo

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/tenant"
	"github.com/tree-of-life-system/immutable/internal/vfs"
)

// Billing is the log of the demonstration that has the money; everything else is in tenant.MainName.
const Billing = "billing"

// step is how far the clock goes between two commits: events are appended as a collector would bring them, and have their own
// time in eventTime.
const step = 5 * time.Minute

// doneName is a file that stands in a data directory which is filled whole.
const doneName = "demo.done"

// Options say where the demonstration goes.
type Options struct {
	Dir      string
	StateDir string // as in tenant.Options
	Log      immutable.Config
	Logger   *slog.Logger
	End      time.Time // of the week
	Seed     uint64
	Progress func(done, of uint64) // events; nil is nobody
}

// Check says whether the data directory is one of the demonstration, or free to become one. Anything else is refused: made-up
// events do not go among real ones.
func Check(dir string) (filled bool, err error) {
	if _, err := os.Stat(filepath.Join(dir, doneName)); err == nil {
		return true, nil
	}
	list, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if len(list) > 0 {
		return false, fmt.Errorf("%s is not a data directory of the demonstration, or was not filled to the end: give another --data-dir, or remove it", dir)
	}
	return false, nil
}

// Fill makes the installation, with two logs of the tenant "default", and appends the week.
func Fill(ctx context.Context, o Options) (events int, err error) {
	var at atomic.Int64
	begin := o.End.Add(-Days * 24 * time.Hour)
	at.Store(begin.UnixNano())
	clock := func() time.Time { return time.Unix(0, at.Load()) }
	o.Log.DemoClock = clock
	in, err := tenant.Open(ctx, tenant.Options{Dir: o.Dir, StateDir: o.StateDir, OriginPrefix: newPrefix(), Log: o.Log, Logger: o.Logger, Now: clock})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, in.Close(context.WithoutCancel(ctx))) }()
	week := Week(begin, o.Seed)
	if err := fill(ctx, in, week, &at, o.Progress); err != nil {
		return 0, err
	}
	at.Store(o.End.UnixNano())
	return len(week), vfs.WriteAtomic(vfs.OS(), filepath.Join(o.Dir, doneName+".new"), filepath.Join(o.Dir, doneName), []byte("demonstration data\n"), 0o600)
}

// newPrefix is another one each time: no two logs have one name.
func newPrefix() string {
	var bits [4]byte
	_, _ = rand.Read(bits[:]) // never fails, crypto/rand says
	return fmt.Sprintf("%s%x", immutable.DemoPrefix, bits)
}

func fill(ctx context.Context, in *tenant.Installation, week []Event, at *atomic.Int64, progress func(done, of uint64)) error {
	by := tenant.Local("immutable serve --demo")
	t, err := in.Tenant(tenant.DefaultName)
	if err != nil {
		return err
	}
	if err := t.Update(ctx, by, tenant.TenantSettings{Name: tenant.DefaultName, Title: "Demonstration data"}); err != nil {
		return err
	}
	if _, err := t.CreateLog(ctx, by, tenant.LogSettings{Name: Billing, Title: "Billing (demonstration)"}); err != nil {
		return err
	}
	logs := map[string]*tenant.Log{}
	for _, name := range []string{tenant.MainName, Billing} {
		if logs[name], err = t.Log(name); err != nil {
			return err
		}
	}
	for done := 0; done < len(week); {
		end := week[done].At.Truncate(step).Add(step)
		batch := map[string][]immutable.Event{}
		for ; done < len(week) && week[done].At.Before(end); done++ {
			e := &week[done]
			batch[e.Log] = append(batch[e.Log], e.Event)
		}
		at.Store(end.UnixNano())
		for _, name := range []string{tenant.MainName, Billing} {
			if len(batch[name]) == 0 {
				continue
			}
			if _, err := logs[name].AppendAs(ctx, by, batch[name]...); err != nil {
				return err
			}
		}
		if progress != nil {
			progress(uint64(done), uint64(len(week)))
		}
	}
	return nil
}
