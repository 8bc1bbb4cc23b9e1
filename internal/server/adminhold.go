package server

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// holdRoutes set and release legal holds. They are entries of the log itself; who did it through this API is also in the tenant's
// log of the log.
func holdRoutes() []route {
	return []route{
		{Method: "GET", Pattern: logPath + "/holds", Permission: tenant.PermStats, ID: "listHolds", Handle: listHolds},
		{Method: "PUT", Pattern: logPath + "/holds/{id}", Permission: tenant.PermManageLog, Body: true, ID: "setHold", Handle: setHold},
		{Method: "DELETE", Pattern: logPath + "/holds/{id}", Permission: tenant.PermManageLog, Query: []string{"reason"}, ID: "releaseHold", Handle: releaseHold},
	}
}

// Limits of a hold's texts, those of the log.
const (
	maxHoldID = 64
	maxReason = 1024
)

func listHolds(r *request) error {
	end, err := r.beginRead("read", "holds")
	if err != nil {
		return err
	}
	holds, err := r.log.Holds(r.Context())
	end(uint64(len(holds)), err)
	if err != nil {
		return err
	}
	return r.json(http.StatusOK, map[string]any{"holds": orEmpty(holds)})
}

// setHold begins a legal hold: from the answer on nothing of the log is retired.
func setHold(r *request) error {
	var body struct {
		Reason string `json:"reason"`
	}
	if err := r.decode(&body); err != nil {
		return err
	}
	h, active, err := r.hold(body.Reason)
	if err != nil {
		return err
	}
	if active {
		return fault("exists", fmt.Sprintf("the hold %s is active already", h.ID))
	}
	if err := r.recordHold(tenant.HoldSet, h); err != nil {
		return err
	}
	receipt, err := r.log.Hold(r.Context(), h)
	if err != nil {
		return err
	}
	return r.json(http.StatusCreated, receipt)
}

// releaseHold ends one.
func releaseHold(r *request) error {
	h, active, err := r.hold(r.param("reason"))
	if err != nil {
		return err
	}
	if !active {
		return fault("not-found", nothingHere)
	}
	if err := r.recordHold(tenant.HoldRelease, h); err != nil {
		return err
	}
	receipt, err := r.log.Release(r.Context(), h)
	if err != nil {
		return err
	}
	return r.json(http.StatusOK, receipt)
}

// hold is the one that the path names, and whether it is active.
func (r *request) hold(reason string) (h immutable.Hold, active bool, err error) {
	h = immutable.Hold{ID: r.PathValue("id"), Reason: reason, By: r.principal.ID}
	if r.principal.Name != "" {
		h.By += " (" + r.principal.Name + ")"
	}
	if len(h.ID) > maxHoldID || strings.ContainsAny(h.ID[:1], "._-") {
		return h, false, fault("bad-parameter", fmt.Sprintf("a hold's id has 1 to %d of A-Z a-z 0-9 . _ - and a letter or digit first", maxHoldID))
	}
	if reason == "" || len(reason) > maxReason || !utf8.ValidString(reason) {
		return h, false, fault("bad-parameter", fmt.Sprintf("reason: say why, in at most %d bytes", maxReason))
	}
	holds, err := r.log.Holds(r.Context())
	return h, slices.ContainsFunc(holds, func(o immutable.Hold) bool { return o.ID == h.ID }), err
}

func (r *request) recordHold(action tenant.Action, h immutable.Hold) error {
	return r.tenant.Record(r.Context(), r.principal, action, immutable.Fields{"log": r.log.Name(), "hold": h.ID, "reason": h.Reason})
}
