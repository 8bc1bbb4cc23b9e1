package server

import (
	_ "embed"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// metaRoutes say what runs here and who asks.
func metaRoutes() []route {
	return []route{
		{Method: "GET", Pattern: "/healthz", Access: public, ID: "health", Handle: health},
		{Method: "GET", Pattern: "/readyz", Access: public, ID: "readiness", Handle: readiness},
		{Method: "GET", Pattern: "/errors/{code}", Access: public, ID: "explainError", Handle: explainError},
		{Method: "GET", Pattern: "/api/v1/openapi.json", Access: public, ID: "openAPI", Handle: openAPI},
		{Method: "GET", Pattern: "/metrics", Access: metricsAccess, Permission: tenant.PermMetrics, ID: "metrics", Handle: serveMetrics},
		{Method: "GET", Pattern: "/api/v1/whoami", Access: anyone, ID: "whoAmI", Handle: whoAmI},
	}
}

// health says that the process answers.
func health(r *request) error {
	return r.send(http.StatusOK, "text/plain; charset=utf-8", []byte("ok\n"))
}

// readiness says whether traffic should come here. Anybody may ask: the details of why not are for the server's log.
func readiness(r *request) error {
	if r.s.o.Ready != nil {
		if err := r.s.o.Ready(r.Context()); err != nil {
			r.s.o.Logger.Warn("not ready", "error", err)
			why := "the server's own log says why"
			if e, ok := errors.AsType[*notReady](err); ok {
				why = e.public
			}
			return fault("not-ready", why)
		}
	}
	return r.send(http.StatusOK, "text/plain; charset=utf-8", []byte("ready\n"))
}

func explainError(r *request) error {
	for _, k := range kinds {
		if k.code == r.PathValue("code") {
			text := fmt.Sprintf("%s (%d %s)\n\n%s: %s\n", k.code, k.status, http.StatusText(k.status), k.title, k.text)
			r.w.Header().Set("Cache-Control", "public, max-age=3600")
			return r.send(http.StatusOK, "text/plain; charset=utf-8", []byte(text))
		}
	}
	return fault("not-found", nothingHere)
}

//go:embed openapi.json
var openAPIDocument []byte

func openAPI(r *request) error {
	r.w.Header().Set("Cache-Control", "public, max-age=3600")
	return r.send(http.StatusOK, "application/json", openAPIDocument)
}

func serveMetrics(r *request) error {
	if r.s.o.Metrics == nil {
		return fault("not-found", nothingHere)
	}
	r.extendWrite()
	r.s.o.Metrics.ServeHTTP(&r.w, r.Request)
	return nil
}

// whoView is a principal as the API shows it.
type whoView struct {
	ID      string        `json:"id"`
	Name    string        `json:"name"`
	Tenant  *string       `json:"tenant"` // null: the whole installation
	Role    tenant.Role   `json:"role"`
	Logs    []string      `json:"logs"`   // empty: all
	Levels  tenant.Levels `json:"levels"` // empty: all
	Expires *string       `json:"expires"`
}

func viewPrincipal(p *tenant.Principal) *whoView {
	out := &whoView{ID: p.ID, Name: p.Name, Role: p.Role, Logs: orEmpty(p.Logs), Levels: p.Levels}
	if p.Tenant != "" {
		out.Tenant = &p.Tenant
	}
	if !p.Expires.IsZero() {
		at := timeText(p.Expires)
		out.Expires = &at
	}
	return out
}

func whoAmI(r *request) error { return r.json(http.StatusOK, viewPrincipal(r.principal)) }

// orEmpty makes JSON say [] rather than null.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// timeLayout is how this API writes times: RFC 3339, in UTC, with the fraction of a second that there is.
const timeLayout = time.RFC3339Nano

func timeText(t time.Time) string { return t.UTC().Format(timeLayout) }
