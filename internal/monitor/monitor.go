// Package monitor verifies logs without being asked: when a segment was sealed, on a schedule, by re-reading everything in
// the background within a set time, and by watching the files. It also runs the verifications that somebody asks for, and retires
// what has expired by a log's settings.
package monitor

import (
	"errors"
	"log/slog"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/alert"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// Options is what a monitor stands on.
type Options struct {
	Installation *tenant.Installation
	Logger       *slog.Logger      // nil is silent
	Now          func() time.Time  // nil is time.Now
	Share        float64           // of one core and of the disk's time, for the scrubber; 0 is 0.1, at most 1
	OnEvent      func(alert.Event) // hears of what goes wrong, and of its end; must not block; may be nil
}

// Trigger says why a verification ran.
type Trigger string

// The triggers.
const (
	OnRequest  Trigger = "request"
	OnSchedule Trigger = "schedule"
	OnSeal     Trigger = "seal"
	OnWatch    Trigger = "watch" // a file was not what it must be
	OnScrub    Trigger = "scrub" // the scrubber found damage
)

// Scope says what a verification reads.
type Scope string

// The scopes.
const (
	Full    Scope = "full"    // the whole directory, as `immutable verify` does
	Open    Scope = "open"    // the open segment, and the small files
	Segment Scope = "segment" // one sealed segment
)

// Phase is where a job stands.
type Phase string

// The phases.
const (
	Queued    Phase = "queued"
	Running   Phase = "running"
	Done      Phase = "done"
	Failed    Phase = "failed" // could not be carried out; Error says why
	Cancelled Phase = "cancelled"
)

// Job is a verification, as it stood when it was asked for.
type Job struct {
	ID       string              `json:"id"`
	Tenant   string              `json:"tenant"`
	Log      string              `json:"log"`
	Scope    Scope               `json:"scope"`
	Segment  uint64              `json:"segment,omitempty"` // of scope segment: its first index
	Trigger  Trigger             `json:"trigger"`
	By       string              `json:"by,omitempty"` // the principal's id
	Phase    Phase               `json:"phase"`
	Created  time.Time           `json:"created"`
	Started  time.Time           `json:"started,omitzero"`
	Ended    time.Time           `json:"ended,omitzero"`
	Progress immutable.Progress  `json:"progress"`
	Verdict  immutable.Verdict   `json:"verdict,omitempty"` // when Done
	Findings []immutable.Finding `json:"findings,omitempty"`
	Error    string              `json:"error,omitempty"`
	Report   *immutable.Report   `json:"report,omitempty"` // of scope full; the newest few jobs keep theirs
}

// Status is what the monitor knows of a log.
type Status struct {
	Last          immutable.Verdict `json:"last,omitempty"` // of the last full verification that this service ran
	LastTime      time.Time         `json:"lastTime,omitzero"`
	LastSize      uint64            `json:"lastSize"`
	LastUnread    uint64            `json:"lastUnread"`        // of LastSize entries, those that are retired and were not there to be read
	Refuted       bool              `json:"refuted"`           // something is wrong now, and no later verification said otherwise
	Running       bool              `json:"running"`           // a verification is
	Scrubbed      time.Time         `json:"scrubbed,omitzero"` // everything was re-read since
	ScrubbedShare float64           `json:"scrubbedShare"`     // of the round under way, 0 to 1
	ScrubLate     bool              `json:"scrubLate"`         // the bounded share is not enough for the set hours
	Watched       bool              `json:"watched"`           // changes of files are noticed at once, not by looking now and then
	WatchEvents   uint64            `json:"watchEvents"`       // that the system reported
	FileAlarms    uint64            `json:"fileAlarms"`
	Verifications map[string]uint64 `json:"verifications,omitempty"` // by result: a verdict, "failed" or "cancelled"
}

var (
	// ErrBusy is wrapped where as many verifications wait as may.
	ErrBusy = errors.New("too many verifications wait")

	// ErrOwn is returned for a verification that the service began by itself, where only one that was asked for can be ended.
	ErrOwn = errors.New("the service runs this verification by itself: nobody ends it")

	// ErrStopped is wrapped where the monitor does not run any more.
	ErrStopped = errors.New("the monitor has stopped")
)
