package server

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/monitor"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// retentionRoutes do by hand what the service does every night by a log's settings, and bring segments back.
func retentionRoutes() []route {
	return []route{
		{Method: "GET", Pattern: logPath + "/retired", Permission: tenant.PermStats, ID: "listRetired", Handle: listRetired},
		{Method: "POST", Pattern: logPath + "/retire", Permission: tenant.PermManageLog, Body: true, ID: "retireExpired", Handle: retireExpired},
		{Method: "POST", Pattern: logPath + "/restore", Permission: tenant.PermManageLog, Body: true, ID: "restoreSegment", Handle: restoreSegment},
	}
}

// retiredSegment is one as the API shows it: where the server keeps its files is not the client's business.
type retiredSegment struct {
	immutable.Retired
	Cold bool `json:"cold"` // it was moved, and can be brought back
}

func segmentsOf(list []immutable.Retired) []retiredSegment {
	out := make([]retiredSegment, 0, len(list))
	for _, r := range list {
		out = append(out, retiredSegment{Retired: r, Cold: r.Cold != ""})
	}
	return out
}

// listRetired answers with the tombstones that are in effect, the oldest first.
func listRetired(r *request) error {
	list, err := r.log.Retired(r.Context())
	if err != nil {
		return err
	}
	return r.json(http.StatusOK, map[string]any{"retired": segmentsOf(list)})
}

type expiredSegment struct {
	First uint64 `json:"first"`
	End   uint64 `json:"end"`
	Bytes int64  `json:"bytes"`
}

// retireExpired retires what the log's settings let go, or says what that is. It cannot take what they keep.
func retireExpired(r *request) error {
	if r.s.o.Monitor == nil {
		return fault("not-found", nothingHere)
	}
	var body struct {
		Reason string `json:"reason"`
		DryRun bool   `json:"dryRun"`
	}
	if err := r.decode(&body); err != nil {
		return err
	}
	if body.DryRun {
		return r.wouldRetire()
	}
	if err := checkWhy(body.Reason); err != nil {
		return err
	}
	done, more, err := r.s.o.Monitor.Retire(r.Context(), r.principal, r.log, body.Reason)
	if err != nil {
		return keepsProblem(err)
	}
	return r.json(http.StatusOK, map[string]any{"retired": segmentsOf(done), "more": more})
}

func (r *request) wouldRetire() error {
	list, err := r.s.o.Monitor.Expired(r.Context(), r.log)
	if err != nil {
		return keepsProblem(err)
	}
	holds, err := r.log.Holds(r.Context())
	if err != nil {
		return err
	}
	out := make([]expiredSegment, 0, len(list))
	for _, x := range list {
		out = append(out, expiredSegment{First: x.First, End: x.End, Bytes: x.Bytes})
	}
	return r.json(http.StatusOK, map[string]any{"expired": out, "held": len(holds) > 0})
}

func keepsProblem(err error) error {
	if errors.Is(err, monitor.ErrKeeps) {
		return fault("conflict", `the log's settings keep everything: set keepDays, and expired to "move" or "delete"`)
	}
	if e, ok := errors.AsType[*immutable.HeldError](err); ok {
		ids := make([]string, 0, len(e.Holds))
		for _, h := range e.Holds {
			ids = append(ids, h.ID)
		}
		return fault("conflict", fmt.Sprintf("nothing is retired while a legal hold is active: %.1000s", strings.Join(ids, ", ")))
	}
	return err
}

// restoreSegment brings the segment that was retired last back from the cold directory that its tombstone names.
func restoreSegment(r *request) error {
	var body struct {
		Reason string `json:"reason"`
	}
	if err := r.decode(&body); err != nil {
		return err
	}
	if err := checkWhy(body.Reason); err != nil {
		return err
	}
	list, err := r.log.Retired(r.Context())
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return fault("conflict", "no segment of the log is retired")
	}
	if last := list[len(list)-1]; last.Cold == "" {
		return fault("conflict", fmt.Sprintf("entries %d to %d were deleted, as entry %d says; with a copy of them, `immutable retire --undo --cold` brings them back", last.First, last.End-1, last.Entry))
	}
	if err := r.tenant.Record(r.Context(), r.principal, tenant.SegmentRestore, immutable.Fields{"log": r.log.Name(), "reason": body.Reason}); err != nil {
		return err
	}
	back, err := r.log.Restore(r.Context(), immutable.RestoreOptions{Reason: body.Reason, By: r.principal.ID})
	if err != nil {
		return err
	}
	return r.json(http.StatusOK, segmentsOf([]immutable.Retired{back})[0])
}

// checkWhy checks a reason that stands in the log for ever.
func checkWhy(reason string) error {
	if reason == "" || len(reason) > maxReason || !utf8.ValidString(reason) {
		return fault("bad-parameter", fmt.Sprintf("reason: say why, in at most %d bytes", maxReason))
	}
	return nil
}
