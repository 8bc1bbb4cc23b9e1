package server

import (
	"errors"
	"net/http"

	"github.com/tree-of-life-system/immutable/internal/sink"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// sinkRoutes are where entries go on to. Package sink authorizes again, and records each change before it counts.
func sinkRoutes() []route {
	const path = tenantPath + "/sinks"
	return []route{
		{Method: "GET", Pattern: path, Permission: tenant.PermAuditTenant, ID: "listSinks", Handle: listSinks},
		{Method: "POST", Pattern: path, Permission: tenant.PermManageTenant, Body: true, ID: "createSink", Handle: createSink},
		{Method: "GET", Pattern: path + "/{id}", Permission: tenant.PermAuditTenant, ID: "getSink", Handle: getSink},
		{Method: "PATCH", Pattern: path + "/{id}", Permission: tenant.PermManageTenant, Body: true, ID: "updateSink", Handle: updateSink},
		{Method: "DELETE", Pattern: path + "/{id}", Permission: tenant.PermManageTenant, ID: "deleteSink", Handle: deleteSink},
		{Method: "POST", Pattern: path + "/{id}/pause", Permission: tenant.PermManageTenant, ID: "pauseSink", Handle: pauseSink},
		{Method: "POST", Pattern: path + "/{id}/resume", Permission: tenant.PermManageTenant, ID: "resumeSink", Handle: resumeSink},
		{Method: "POST", Pattern: path + "/{id}/retry", Permission: tenant.PermManageTenant, Body: true, ID: "retrySink", Handle: retrySink},
		{Method: "GET", Pattern: path + "/{id}/dead-letters", Permission: tenant.PermAuditTenant, ID: "listDeadLetters", Handle: listDeadLetters},
		{Method: "POST", Pattern: path + "/{id}/dead-letters/drop", Permission: tenant.PermManageTenant, Body: true, ID: "dropDeadLetters", Handle: dropDeadLetters},
	}
}

// sinks is an error where this server has none.
func (r *request) sinks() (*sink.Manager, error) {
	if r.s.o.Sinks == nil {
		return nil, fault("not-found", nothingHere)
	}
	return r.s.o.Sinks, nil
}

func sinkProblem(err error) error {
	if errors.Is(err, sink.ErrSettings) {
		return fault("bad-settings", err.Error())
	}
	return err
}

func listSinks(r *request) error {
	m, err := r.sinks()
	if err != nil {
		return err
	}
	list, err := m.List(r.principal, r.tenant.Name())
	if err != nil {
		return err
	}
	return r.json(http.StatusOK, map[string]any{"sinks": orEmpty(list)})
}

func createSink(r *request) error {
	m, err := r.sinks()
	if err != nil {
		return err
	}
	var s sink.Sink
	if err := r.decode(&s); err != nil {
		return err
	}
	v, err := m.Create(r.Context(), r.principal, r.tenant.Name(), s)
	if err != nil {
		return sinkProblem(err)
	}
	r.w.Header().Set("Location", r.URL.Path+"/"+v.Name)
	return r.json(http.StatusCreated, v)
}

func getSink(r *request) error {
	m, err := r.sinks()
	if err != nil {
		return err
	}
	v, err := m.Get(r.principal, r.tenant.Name(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return r.settings(v, v.Sink)
}

// updateSink changes the members that the patch has. A secret that was not shown, and comes back as it was, stays.
func updateSink(r *request) error {
	m, err := r.sinks()
	if err != nil {
		return err
	}
	change, err := r.readPatch()
	if err != nil {
		return err
	}
	r.s.changes.Lock()
	defer r.s.changes.Unlock()
	now, err := m.Get(r.principal, r.tenant.Name(), r.PathValue("id"))
	if err != nil {
		return err
	}
	if err := r.unchanged(now.Sink); err != nil {
		return err
	}
	s, err := patched(now.Sink, change)
	if err != nil {
		return err
	}
	if s.Name != now.Name {
		return fault("bad-settings", "a sink keeps its name").with("field", "name")
	}
	v, err := m.Update(r.Context(), r.principal, r.tenant.Name(), s)
	if err != nil {
		return sinkProblem(err)
	}
	return r.settings(v, v.Sink)
}

func deleteSink(r *request) error {
	m, err := r.sinks()
	if err != nil {
		return err
	}
	if err := m.Delete(r.Context(), r.principal, r.tenant.Name(), r.PathValue("id")); err != nil {
		return err
	}
	r.w.WriteHeader(http.StatusNoContent)
	return nil
}

func pauseSink(r *request) error {
	m, err := r.sinks()
	if err != nil {
		return err
	}
	v, err := m.Pause(r.Context(), r.principal, r.tenant.Name(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return r.json(http.StatusOK, v)
}

func resumeSink(r *request) error {
	m, err := r.sinks()
	if err != nil {
		return err
	}
	v, err := m.Resume(r.Context(), r.principal, r.tenant.Name(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return r.json(http.StatusOK, v)
}

// letterIndexes are the dead letters that a request is about; none is all of them.
type letterIndexes struct {
	Indexes []uint64 `json:"indexes"`
}

// retrySink lets dead letters be tried again, and a sink that waits try at once.
func retrySink(r *request) error {
	m, err := r.sinks()
	if err != nil {
		return err
	}
	var body letterIndexes
	if err := r.decode(&body); err != nil {
		return err
	}
	n, err := m.Retry(r.Context(), r.principal, r.tenant.Name(), r.PathValue("id"), body.Indexes)
	if err != nil {
		return sinkProblem(err)
	}
	return r.json(http.StatusOK, map[string]any{"deadLetters": n})
}

func listDeadLetters(r *request) error {
	m, err := r.sinks()
	if err != nil {
		return err
	}
	list, err := m.DeadLetters(r.principal, r.tenant.Name(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return r.json(http.StatusOK, map[string]any{"deadLetters": orEmpty(list)})
}

// dropDeadLetters gives dead letters up. The entries stay in the log.
func dropDeadLetters(r *request) error {
	m, err := r.sinks()
	if err != nil {
		return err
	}
	var body letterIndexes
	if err := r.decode(&body); err != nil {
		return err
	}
	n, err := m.Drop(r.Context(), r.principal, r.tenant.Name(), r.PathValue("id"), body.Indexes)
	if err != nil {
		return sinkProblem(err)
	}
	return r.json(http.StatusOK, map[string]any{"deadLetters": n})
}
