package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/alert"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// adminRoutes change what the installation has, and say what it is. Package tenant records each change, and who made it, before
// it counts.
func adminRoutes() []route {
	const api = "/api/v1"
	return []route{
		{Method: "GET", Pattern: api + "/tenants", Permission: tenant.PermViewInstallation, ID: "listTenants", Handle: listTenants},
		{Method: "POST", Pattern: api + "/tenants", Permission: tenant.PermManageInstallation, Body: true, ID: "createTenant", Handle: createTenant},
		{Method: "GET", Pattern: tenantPath, Permission: tenant.PermViewTenant, ID: "getTenant", Handle: getTenant},
		{Method: "PATCH", Pattern: tenantPath, Permission: tenant.PermManageTenant, Body: true, ID: "updateTenant", Handle: updateTenant},
		{Method: "GET", Pattern: api + "/tokens", Permission: tenant.PermViewInstallation, ID: "listInstallationTokens", Handle: listTokens},
		{Method: "POST", Pattern: api + "/tokens", Permission: tenant.PermManageInstallation, Body: true, ID: "createInstallationToken", Handle: createToken},
		{Method: "DELETE", Pattern: api + "/tokens/{id}", Permission: tenant.PermManageInstallation, ID: "revokeInstallationToken", Handle: revokeToken},
		{Method: "GET", Pattern: tenantPath + "/tokens", Permission: tenant.PermAuditTenant, ID: "listTokens", Handle: listTokens},
		{Method: "POST", Pattern: tenantPath + "/tokens", Permission: tenant.PermManageTenant, Body: true, ID: "createToken", Handle: createToken},
		{Method: "DELETE", Pattern: tenantPath + "/tokens/{id}", Permission: tenant.PermManageTenant, ID: "revokeToken", Handle: revokeToken},
		{Method: "GET", Pattern: tenantPath + "/logs", Permission: tenant.PermViewTenant, ID: "listLogs", Handle: listLogs},
		{Method: "POST", Pattern: tenantPath + "/logs", Permission: tenant.PermManageTenant, Body: true, ID: "createLog", Handle: createLog},
		{Method: "GET", Pattern: logPath, Permission: tenant.PermStats, Closed: true, ID: "getLog", Handle: getLog},
		{Method: "PATCH", Pattern: logPath, Permission: tenant.PermManageLog, Body: true, Closed: true, ID: "updateLog", Handle: updateLog},
		{Method: "POST", Pattern: logPath + "/rotate", Permission: tenant.PermManageLog, ID: "rotateLog", Handle: rotateLog},
		{Method: "POST", Pattern: logPath + "/rotate-keys", Permission: tenant.PermManageLog, ID: "rotateKeys", Handle: rotateKeys},
		{Method: "GET", Pattern: tenantPath + "/alerts", Permission: tenant.PermAuditTenant, ID: "getAlertRules", Handle: getAlertRules},
		{Method: "PUT", Pattern: tenantPath + "/alerts", Permission: tenant.PermManageTenant, Body: true, ID: "setAlertRules", Handle: setAlertRules},
		{Method: "GET", Pattern: tenantPath + "/alerts/active", Permission: tenant.PermAuditTenant, ID: "listActiveAlerts", Handle: listActiveAlerts},
		{Method: "POST", Pattern: tenantPath + "/alerts/test", Permission: tenant.PermManageTenant, Body: true, ID: "testAlertSink", Handle: testAlertSink},
	}
}

// tenantView is a tenant as the API shows it. Settings and usage are for those who may see the tenant's settings.
type tenantView struct {
	Name     string                 `json:"name"`
	Title    string                 `json:"title"`
	Error    string                 `json:"error,omitempty"` // why it cannot be used
	Settings *tenant.TenantSettings `json:"settings,omitempty"`
	Usage    *tenant.Usage          `json:"usage,omitempty"`
}

func (r *request) viewTenant(t *tenant.Tenant) tenantView {
	s := t.Settings()
	v := tenantView{Name: t.Name(), Title: s.Title}
	if t.Err() != nil {
		v.Error = "the tenant cannot be used; the server's own log says why"
	}
	if r.principal.Allow(tenant.PermAuditTenant, t.Name(), "") == nil {
		u := t.Usage()
		v.Settings, v.Usage = &s, &u
	}
	return v
}

func listTenants(r *request) error {
	out := []tenantView{}
	for _, t := range r.s.o.Installation.Tenants() {
		out = append(out, r.viewTenant(t))
	}
	return r.json(http.StatusOK, map[string]any{"tenants": out})
}

func createTenant(r *request) error {
	var s tenant.TenantSettings
	if err := r.decode(&s); err != nil {
		return err
	}
	t, err := r.s.o.Installation.CreateTenant(r.Context(), r.principal, s)
	if err != nil {
		return settingsProblem(err)
	}
	r.w.Header().Set("Location", r.URL.Path+"/"+t.Name())
	return r.json(http.StatusCreated, r.viewTenant(t))
}

func getTenant(r *request) error {
	v := r.viewTenant(r.tenant)
	if v.Settings == nil { // a tag would let it try what they are
		return r.json(http.StatusOK, v)
	}
	return r.settings(v, v.Settings)
}

// settings answers with a view, under the ETag of the settings that it shows.
func (r *request) settings(view, settings any) error {
	data, err := json.Marshal(settings)
	if err != nil {
		return fmt.Errorf("encode settings: %w", err)
	}
	r.w.Header().Set("ETag", tagOf(data))
	return r.json(http.StatusOK, view)
}

// unchanged checks If-Match: who changes settings that somebody else has changed meanwhile is told so.
func (r *request) unchanged(settings any) error {
	want := r.Header.Get("If-Match")
	if want == "" || want == "*" {
		return nil
	}
	data, err := json.Marshal(settings)
	if err != nil {
		return fmt.Errorf("encode settings: %w", err)
	}
	if want != tagOf(data) {
		return fault("conflict", "the settings were changed since you read them; read them again")
	}
	return nil
}

func updateTenant(r *request) error {
	change, err := r.readPatch()
	if err != nil {
		return err
	}
	r.s.changes.Lock()
	defer r.s.changes.Unlock()
	now := r.tenant.Settings()
	if err := r.unchanged(now); err != nil {
		return err
	}
	s, err := patched(now, change)
	if err != nil {
		return err
	}
	if err := r.tenant.Update(r.Context(), r.principal, s); err != nil {
		return settingsProblem(err)
	}
	return r.settings(r.viewTenant(r.tenant), r.tenant.Settings())
}

// settingsProblem says which setting was refused.
func settingsProblem(err error) error {
	if e, ok := errors.AsType[*tenant.SettingsError](err); ok {
		return fault("bad-settings", err.Error()).with("field", e.Field)
	}
	return err
}

// tokens are those of the tenant of the path, or of the installation.
type tokens interface {
	CreateToken(ctx context.Context, by *tenant.Principal, s tenant.TokenSpec) (plain string, token tenant.Token, err error)
	Tokens() []tenant.Token
	RevokeToken(ctx context.Context, by *tenant.Principal, id string) error
}

func (r *request) tokens() tokens {
	if r.tenant == nil {
		return r.s.o.Installation
	}
	return r.tenant
}

func listTokens(r *request) error {
	return r.json(http.StatusOK, map[string]any{"tokens": orEmpty(r.tokens().Tokens())})
}

// createToken answers with the token itself. This is the only time that anybody sees it.
func createToken(r *request) error {
	var spec tenant.TokenSpec
	if err := r.decode(&spec); err != nil {
		return err
	}
	plain, token, err := r.tokens().CreateToken(r.Context(), r.principal, spec)
	if err != nil {
		return settingsProblem(err)
	}
	r.w.Header().Set("Location", r.URL.Path+"/"+token.ID)
	return r.json(http.StatusCreated, struct {
		Secret string `json:"token"`
		tenant.Token
	}{plain, token})
}

func revokeToken(r *request) error {
	if err := r.tokens().RevokeToken(r.Context(), r.principal, r.PathValue("id")); err != nil {
		return err
	}
	r.w.WriteHeader(http.StatusNoContent)
	return nil
}

// logView is a log as the API shows it.
type logView struct {
	Name     string             `json:"name"`
	Title    string             `json:"title"`
	Origin   string             `json:"origin,omitempty"`
	Size     uint64             `json:"size"`     // entries
	Writable bool               `json:"writable"` // it was opened for appending
	Error    string             `json:"error,omitempty"`
	Settings tenant.LogSettings `json:"settings"`
}

func viewLog(l *tenant.Log) logView {
	s := l.Settings()
	v := logView{Name: l.Name(), Title: s.Title, Settings: s, Writable: l.Err() == nil}
	if l.Log != nil {
		v.Origin, v.Size = l.Origin(), l.Size()
	}
	switch {
	case l.Log == nil:
		v.Error = "it could not be opened; the server's own log says why"
	case l.Err() != nil:
		v.Error = "it is open for reading only; the server's own log says why"
	}
	return v
}

// listLogs answers with the logs of the tenant that the principal may know of.
func listLogs(r *request) error {
	out := []logView{}
	for _, l := range r.tenant.Logs() {
		if r.principal.Allow(tenant.PermStats, r.tenant.Name(), l.Name()) == nil {
			out = append(out, viewLog(l))
		}
	}
	return r.json(http.StatusOK, map[string]any{"logs": out})
}

func createLog(r *request) error {
	var s tenant.LogSettings
	if err := r.decode(&s); err != nil {
		return err
	}
	l, err := r.tenant.CreateLog(r.Context(), r.principal, s)
	if err != nil {
		return settingsProblem(err)
	}
	r.w.Header().Set("Location", r.URL.Path+"/"+l.Name())
	return r.json(http.StatusCreated, viewLog(l))
}

func getLog(r *request) error { return r.settings(viewLog(r.log), r.log.Settings()) }

func updateLog(r *request) error {
	change, err := r.readPatch()
	if err != nil {
		return err
	}
	r.s.changes.Lock()
	defer r.s.changes.Unlock()
	now := r.log.Settings()
	if err := r.unchanged(now); err != nil {
		return err
	}
	s, err := patched(now, change)
	if err != nil {
		return err
	}
	if err := r.log.Update(r.Context(), r.principal, s); err != nil {
		return settingsProblem(err)
	}
	return r.settings(viewLog(r.log), r.log.Settings())
}

// rotateLog seals the open segment.
func rotateLog(r *request) error {
	if err := r.tenant.Record(r.Context(), r.principal, tenant.LogRotate, immutable.Fields{"log": r.log.Name(), "what": "segment"}); err != nil {
		return err
	}
	if err := r.log.Rotate(r.Context()); err != nil {
		return err
	}
	return r.json(http.StatusOK, map[string]any{"sealedSegments": len(r.log.SealedSegments()), "size": r.log.Size()})
}

// rotateKeys replaces the keys of the current epoch.
func rotateKeys(r *request) error {
	if len(r.log.VerifierKeys()) == 0 {
		return fault("conflict", "this log has no signatures, and so no keys")
	}
	if err := r.tenant.Record(r.Context(), r.principal, tenant.LogRotate, immutable.Fields{"log": r.log.Name(), "what": "keys"}); err != nil {
		return err
	}
	if err := r.log.RotateKeys(r.Context()); err != nil {
		return err
	}
	return r.json(http.StatusOK, map[string]any{"epoch": r.log.Epoch(), "keys": r.log.CurrentKeys()})
}

func getAlertRules(r *request) error {
	if r.s.o.Alerts == nil {
		return fault("not-found", nothingHere)
	}
	rules, err := r.s.o.Alerts.Rules(r.tenant.Name())
	if err != nil {
		return err
	}
	if r.principal.Allow(tenant.PermManageTenant, r.tenant.Name(), "") != nil {
		return r.json(http.StatusOK, withoutAddresses(rules)) // a tag would let it try what they are
	}
	return r.settings(rules, rules)
}

// withoutAddresses leaves of the sinks' URLs the host alone: paths of webhooks are as good as secrets.
func withoutAddresses(rules alert.Rules) alert.Rules {
	rules.Sinks = slices.Clone(rules.Sinks)
	for i := range rules.Sinks {
		if u, err := url.Parse(rules.Sinks[i].URL); rules.Sinks[i].URL != "" {
			rules.Sinks[i].URL = alert.Kept
			if err == nil && u.Host != "" {
				rules.Sinks[i].URL = u.Scheme + "://" + u.Host + "/" + alert.Kept
			}
		}
	}
	return rules
}

// setAlertRules replaces the tenant's rules and sinks. Secrets that were not shown, and come back as they were, stay.
func setAlertRules(r *request) error {
	if r.s.o.Alerts == nil {
		return fault("not-found", nothingHere)
	}
	var rules alert.Rules
	if err := r.decode(&rules); err != nil {
		return err
	}
	r.s.changes.Lock()
	defer r.s.changes.Unlock()
	if now, err := r.s.o.Alerts.Rules(r.tenant.Name()); err == nil {
		if err := r.unchanged(now); err != nil {
			return err
		}
	}
	if err := r.s.o.Alerts.SetRules(r.Context(), r.principal, r.tenant.Name(), rules); err != nil {
		if errors.Is(err, alert.ErrRules) {
			return fault("bad-parameter", err.Error())
		}
		return err
	}
	now, err := r.s.o.Alerts.Rules(r.tenant.Name())
	if err != nil {
		return err
	}
	return r.settings(now, now)
}

func listActiveAlerts(r *request) error {
	if r.s.o.Alerts == nil {
		return fault("not-found", nothingHere)
	}
	return r.json(http.StatusOK, map[string]any{"alerts": orEmpty(r.s.o.Alerts.Active(r.tenant.Name()))})
}

// testAlertSink sends a message to one sink, and answers with what came of it.
func testAlertSink(r *request) error {
	if r.s.o.Alerts == nil {
		return fault("not-found", nothingHere)
	}
	var body struct {
		Sink string `json:"sink"`
	}
	if err := r.decode(&body); err != nil {
		return err
	}
	answer := map[string]any{"sink": body.Sink, "delivered": true}
	if err := r.s.o.Alerts.Test(r.Context(), r.principal, r.tenant.Name(), body.Sink); err != nil {
		if errors.Is(err, alert.ErrRules) {
			return fault("bad-parameter", err.Error())
		}
		answer["delivered"], answer["error"] = false, err.Error()
	}
	return r.json(http.StatusOK, answer)
}
