package server

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/tree-of-life-system/immutable/internal/desk"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// deskRoutes are the dashboard's files, and its sessions. The files hold nothing of any log, so that everybody may have them:
// what the pages show, they ask the API for.
func deskRoutes() []route {
	return []route{
		{Method: "GET", Pattern: "/{$}", Access: public, ID: "home", Handle: home},
		{Method: "GET", Pattern: "/desk/{file}", Access: public, ID: "deskFile", Handle: deskFile},
		{Method: "GET", Pattern: "/api/v1/session", Access: public, ID: "getSession", Handle: getSession},
		{Method: "POST", Pattern: "/api/v1/session", Access: signed, Body: true, ID: "signIn", Handle: signIn},
		{Method: "DELETE", Pattern: "/api/v1/session", Access: anyone, ID: "signOut", Handle: signOut},
	}
}

// deskFiles are packed when they are first asked for.
var deskFiles = sync.OnceValues(desk.Files)

// home is the dashboard to a browser, and a few lines of text to everything else.
func home(r *request) error {
	const text = `Immutable: a tamper-evident, append-only log service.

dashboard  / in a browser
API        /api/v1 (OpenAPI: /api/v1/openapi.json)
entries    /api/v1/tenants/{tenant}/logs/{log}/entries
tiles      /tlog/{tenant}/{log}/checkpoint
errors     /errors/{code}
health     /healthz, /readyz, /metrics
`
	r.w.Header().Set("Vary", "Accept")
	if strings.Contains(r.Header.Get("Accept"), "text/html") {
		return r.sendDesk("index.html")
	}
	return r.send(http.StatusOK, "text/plain; charset=utf-8", []byte(text))
}

func deskFile(r *request) error { return r.sendDesk(r.PathValue("file")) }

// sendDesk answers with a file of the dashboard. A browser asks again each time whether it has changed, so that the page of a new
// version never runs with scripts of the one before.
func (r *request) sendDesk(name string) error {
	files, err := deskFiles()
	if err != nil {
		return err
	}
	f, ok := files[name]
	if !ok {
		return fault("not-found", nothingHere)
	}
	h := r.w.Header()
	h.Set("Content-Security-Policy", desk.Policy)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-cache")
	h.Set("ETag", f.Tag)
	h.Add("Vary", "Accept-Encoding")
	if r.Header.Get("If-None-Match") == f.Tag {
		r.w.WriteHeader(http.StatusNotModified)
		return nil
	}
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		return r.send(http.StatusOK, f.Kind, f.Packed)
	}
	z, err := gzip.NewReader(bytes.NewReader(f.Packed))
	if err != nil {
		return err
	}
	data, err := io.ReadAll(z)
	if err != nil {
		return err
	}
	return r.send(http.StatusOK, f.Kind, data)
}

// getSession says who is signed in, which may be nobody: a page's first question, to which that is no error.
func getSession(r *request) error {
	out := struct {
		Principal *whoView `json:"principal"`
	}{}
	p, err := r.s.o.Auth.Principal(r.Request)
	if err == nil {
		out.Principal = viewPrincipal(p)
	} else if !errors.Is(err, tenant.ErrUnauthenticated) {
		return err
	}
	return r.json(http.StatusOK, out)
}

// signIn begins the session of a browser, for whom a token names. That it began is on record before the cookie leaves.
func signIn(r *request) error {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" {
		return fault("forbidden", "a page of another site cannot sign anybody in")
	}
	var in struct {
		Token string `json:"token"`
	}
	if err := r.decode(&in); err != nil {
		return err
	}
	p, cookie, err := r.s.o.Auth.SignIn(r.Request, in.Token)
	if err != nil {
		return err
	}
	if err := r.recordSession(p, tenant.SessionBegin); err != nil {
		r.AddCookie(cookie)
		r.s.o.Auth.SignOut(r.Request)
		return err
	}
	http.SetCookie(&r.w, cookie)
	r.w.WriteHeader(http.StatusNoContent)
	return nil
}

// signOut ends the session that the request has.
func signOut(r *request) error {
	http.SetCookie(&r.w, r.s.o.Auth.SignOut(r.Request))
	if err := r.recordSession(r.principal, tenant.SessionEnd); err != nil {
		return err
	}
	r.w.WriteHeader(http.StatusNoContent)
	return nil
}

// recordSession writes into the log of the log of the principal's tenant, or of the installation.
func (r *request) recordSession(p *tenant.Principal, action tenant.Action) error {
	t := r.s.o.Installation.System()
	if p.Tenant != "" {
		var err error
		if t, err = r.s.o.Installation.Tenant(p.Tenant); err != nil {
			return err
		}
	}
	return t.Record(r.Context(), p, action, nil)
}
