package server

import (
	"slices"
	"strings"

	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// handler answers a request that is authorized. An error that it returns becomes a problem, as long as it has not begun to
// answer.
type handler func(*request) error

// openness says who may pass a route.
type openness int

const (
	permitted     openness = iota // whoever has Permission for the tenant and log of the path
	anyone                        // any principal
	public                        // everybody
	signed                        // whoever signed the body, or has a token in it, which the handler finds out
	metricsAccess                 // as permitted, or everybody when Options.PublicMetrics
	tilesAccess                   // as permitted, or everybody when the log's settings have PublicTiles
	ownLog                        // as permitted, for the log that findOwnLog says: the path has none
)

// route is one row of the table. What the API does not have here does not exist: openapi.json and docs/http-api.md are
// compared with it.
type route struct {
	Method     string
	Pattern    string // of net/http's ServeMux, without method and host; {tenant} and {log} are opened before the handler
	Access     openness
	Permission tenant.Permission // with permitted, metricsAccess and tilesAccess
	Query      []string          // the query parameters that it takes; any other is refused
	Body       bool              // it reads a body
	Closed     bool              // it works on a log that could not be opened
	ID         string            // operationId in openapi.json
	Handle     handler

	// Fail answers with an error in the way of a protocol that is not ours; nil answers with the problem.
	Fail func(r *request, p *problem, err error)
}

const (
	tenantPath = "/api/v1/tenants/{tenant}"
	logPath    = tenantPath + "/logs/{log}"
)

// routes is the whole table. Each file has the rows of its handlers.
func routes() []route {
	return slices.Concat(
		metaRoutes(),
		deskRoutes(),
		streamRoutes(),
		countRoutes(),
		exportRoutes(),
		revenueRoutes(),
		reviewRoutes(),
		complianceRoutes(),
		viewRoutes(),
		jobRoutes(),
		adminRoutes(),
		holdRoutes(),
		retentionRoutes(),
		writeRoutes(),
		hookRoutes(),
		sourceRoutes(),
		sinkRoutes(),
		otlpRoutes(),
		cloudEventRoutes(),
		k8sAuditRoutes(),
		catalogRoutes(),
		readRoutes(),
		proveRoutes(),
		tlogRoutes(),
	)
}

func (r *route) has(wildcard string) bool { return strings.Contains(r.Pattern, wildcard) }
