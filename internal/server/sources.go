package server

import (
	"errors"
	"net/http"

	"github.com/tree-of-life-system/immutable/internal/source"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

func sourceRoutes() []route {
	const path = tenantPath + "/sources"
	return []route{
		{Method: "GET", Pattern: path, Permission: tenant.PermAuditTenant, ID: "listSources", Handle: listSources},
		{Method: "POST", Pattern: path, Permission: tenant.PermManageTenant, Body: true, ID: "createSource", Handle: createSource},
		{Method: "GET", Pattern: path + "/{id}", Permission: tenant.PermAuditTenant, ID: "getSource", Handle: getSource},
		{Method: "PATCH", Pattern: path + "/{id}", Permission: tenant.PermManageTenant, Body: true, ID: "updateSource", Handle: updateSource},
		{Method: "DELETE", Pattern: path + "/{id}", Permission: tenant.PermManageTenant, ID: "deleteSource", Handle: deleteSource},
		{Method: "POST", Pattern: path + "/{id}/verification", Permission: tenant.PermManageTenant, ID: "revealVerification", Handle: revealVerification},
	}
}

// sourceView is a source as the API shows it. Secret is there once: when it was made here, in the answer to that.
type sourceView struct {
	source.Source
	Path   string `json:"path"` // what the provider is to send to, on this server
	Secret string `json:"secret,omitempty"`
}

func (r *request) viewSource(s source.Source, secret string) sourceView {
	return sourceView{Source: s, Path: "/hooks/" + s.Kind + "/" + r.tenant.Name() + "/" + s.Log, Secret: secret}
}

// registry is nil where this server keeps no sources.
func (r *request) registry() (*source.Registry, error) {
	if r.s.o.Registry == nil {
		return nil, fault("not-found", nothingHere)
	}
	return r.s.o.Registry, nil
}

func sourceProblem(err error) error {
	if errors.Is(err, source.ErrSource) {
		return fault("bad-parameter", err.Error())
	}
	return err
}

// listSources answers with the tenant's sources, and with what came from each sender since the start, of other protocols too.
func listSources(r *request) error {
	reg, err := r.registry()
	if err != nil {
		return err
	}
	all, err := reg.Sources(r.tenant.Name())
	if err != nil {
		return err
	}
	views := make([]sourceView, len(all))
	for i := range all {
		views[i] = r.viewSource(all[i], "")
	}
	return r.json(http.StatusOK, map[string]any{"sources": views, "traffic": reg.Traffic(r.tenant.Name())})
}

func getSource(r *request) error {
	reg, err := r.registry()
	if err != nil {
		return err
	}
	s, err := reg.Source(r.tenant.Name(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return r.json(http.StatusOK, r.viewSource(s, ""))
}

func createSource(r *request) error {
	reg, err := r.registry()
	if err != nil {
		return err
	}
	var spec source.Spec
	if err := r.decode(&spec); err != nil {
		return err
	}
	s, secret, err := reg.Create(r.Context(), r.principal, r.tenant.Name(), spec)
	if err != nil {
		return sourceProblem(err)
	}
	r.w.Header().Set("Location", r.URL.Path+"/"+s.ID)
	return r.json(http.StatusCreated, r.viewSource(s, secret))
}

func updateSource(r *request) error {
	reg, err := r.registry()
	if err != nil {
		return err
	}
	var c source.Change
	if err := r.decode(&c); err != nil {
		return err
	}
	s, secret, err := reg.Update(r.Context(), r.principal, r.tenant.Name(), r.PathValue("id"), c)
	if err != nil {
		return sourceProblem(err)
	}
	return r.json(http.StatusOK, r.viewSource(s, secret))
}

func deleteSource(r *request) error {
	reg, err := r.registry()
	if err != nil {
		return err
	}
	if err := reg.Delete(r.Context(), r.principal, r.tenant.Name(), r.PathValue("id")); err != nil {
		return err
	}
	r.w.WriteHeader(http.StatusNoContent)
	return nil
}

// revealVerification shows the token that Notion's first request brought, which an administrator confirms there.
func revealVerification(r *request) error {
	reg, err := r.registry()
	if err != nil {
		return err
	}
	token, err := reg.Reveal(r.Context(), r.principal, r.tenant.Name(), r.PathValue("id"))
	if errors.Is(err, source.ErrSource) {
		return fault("conflict", err.Error())
	}
	if err != nil {
		return err
	}
	return r.json(http.StatusOK, map[string]any{"verificationToken": token})
}
