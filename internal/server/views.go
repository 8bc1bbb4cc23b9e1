package server

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// viewRoutes are saved views: queries with a name, shared in a tenant by those who may read the log.
func viewRoutes() []route {
	return []route{
		{Method: "GET", Pattern: tenantPath + "/views", Permission: tenant.PermViewTenant, ID: "listViews", Handle: listViews},
		{Method: "POST", Pattern: tenantPath + "/views", Permission: tenant.PermViewTenant, Body: true, ID: "saveView", Handle: saveView},
		{Method: "DELETE", Pattern: tenantPath + "/views/{id}", Permission: tenant.PermViewTenant, ID: "deleteView", Handle: deleteView},
	}
}

// Limits of saved views.
const (
	viewsName   = "views.json"
	maxViews    = 200 // of a tenant
	maxViewName = 80  // bytes
	maxViewText = 4096
)

// savedView is a query of a log, and a stretch of time: one of the page's, or from and to.
type savedView struct {
	ID    string    `json:"id"`
	Name  string    `json:"name"`
	Log   string    `json:"log"`
	Query string    `json:"query"`
	Span  string    `json:"span,omitempty"` // before now: 15m, 24h, 7d
	Since time.Time `json:"since,omitzero"`
	Until time.Time `json:"until,omitzero"`
	By    string    `json:"by"` // who saved it
	Time  time.Time `json:"time"`
}

// spanText is a time before now in minutes, hours or days.
var spanText = regexp.MustCompile(`^([1-9][0-9]{0,3}[mhd])?$`)

// views reads all views of the tenant. Whoever changes them holds Server.viewing.
func (r *request) views() (list []savedView, err error) {
	data, err := r.tenant.ReadFile(viewsName)
	if errors.Is(err, fs.ErrNotExist) {
		return []savedView{}, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &list)
	}
	if err != nil {
		return nil, fmt.Errorf("read the saved views: %w", err)
	}
	return list, nil
}

// sees says whether the principal may read what a view is of: others do not hear of it.
func (r *request) sees(log string) bool {
	l, err := r.tenant.Log(log)
	return err == nil && r.principal.Allow(tenant.PermRead, r.tenant.Name(), l.Name()) == nil
}

func listViews(r *request) error {
	list, err := r.views()
	if err != nil {
		return err
	}
	list = slices.DeleteFunc(list, func(v savedView) bool { return !r.sees(v.Log) })
	return r.json(http.StatusOK, map[string]any{"views": list})
}

func saveView(r *request) error {
	var body struct {
		Name  string    `json:"name"`
		Log   string    `json:"log"`
		Query string    `json:"query"`
		Span  string    `json:"span"`
		Since time.Time `json:"since"`
		Until time.Time `json:"until"`
	}
	if err := r.decode(&body); err != nil {
		return err
	}
	v := savedView{Name: strings.TrimSpace(body.Name), Log: body.Log, Query: body.Query, Span: body.Span, Since: body.Since, Until: body.Until, By: r.principal.ID, Time: r.s.o.Now().UTC()}
	switch {
	case v.Name == "" || len(v.Name) > maxViewName || !utf8.ValidString(v.Name):
		return fault("bad-parameter", fmt.Sprintf("name: want 1 to %d bytes of text", maxViewName))
	case !r.sees(v.Log):
		return fault("not-found", nothingHere)
	case len(v.Query) > maxViewText:
		return fault("bad-parameter", fmt.Sprintf("query: want at most %d bytes", maxViewText))
	case !spanText.MatchString(v.Span) || v.Span != "" && !(v.Since.IsZero() && v.Until.IsZero()):
		return fault("bad-parameter", "span: want a time such as 15m, 24h or 7d, without since and until")
	}
	if _, err := immutable.ParseFilter(v.Query, r.s.o.Now()); err != nil {
		return err
	}
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails, crypto/rand says
	v.ID = hex.EncodeToString(id[:])
	r.s.viewing.Lock()
	defer r.s.viewing.Unlock()
	list, err := r.views()
	if err != nil {
		return err
	}
	switch {
	case len(list) >= maxViews:
		return fault("conflict", fmt.Sprintf("the tenant has %d saved views; delete one first", maxViews))
	case slices.ContainsFunc(list, func(x savedView) bool { return x.Log == v.Log && x.Name == v.Name }):
		return fault("exists", "there is a view of that name")
	}
	if err := r.tenant.Record(r.Context(), r.principal, tenant.ViewSave, immutable.Fields{"view": v.ID, "name": v.Name, "log": v.Log, "query": v.Query}); err != nil {
		return err
	}
	if err := r.writeViews(append(list, v)); err != nil {
		return err
	}
	return r.json(http.StatusCreated, v)
}

// deleteView is for who saved it, and for administrators of the tenant.
func deleteView(r *request) error {
	r.s.viewing.Lock()
	defer r.s.viewing.Unlock()
	list, err := r.views()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(list, func(v savedView) bool { return v.ID == r.PathValue("id") && r.sees(v.Log) })
	if i < 0 {
		return fault("not-found", nothingHere)
	}
	if v := &list[i]; v.By != r.principal.ID {
		if err := r.principal.Allow(tenant.PermManageTenant, r.tenant.Name(), ""); err != nil {
			return fault("forbidden", "somebody else saved it: they, and administrators, delete it")
		}
	}
	if err := r.tenant.Record(r.Context(), r.principal, tenant.ViewDelete, immutable.Fields{"view": list[i].ID, "name": list[i].Name, "log": list[i].Log}); err != nil {
		return err
	}
	if err := r.writeViews(slices.Delete(list, i, i+1)); err != nil {
		return err
	}
	r.w.WriteHeader(http.StatusNoContent)
	return nil
}

func (r *request) writeViews(list []savedView) error {
	data, err := json.Marshal(list)
	if err != nil {
		return err
	}
	return r.tenant.WriteFile(viewsName, data)
}
