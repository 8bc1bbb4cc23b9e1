package server

import (
	"context"
	"net/http"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/tenant"
	"github.com/tree-of-life-system/immutable/internal/trail"
)

func k8sAuditRoutes() []route {
	return []route{
		// The API server's client adds the time that it will wait.
		{Method: "POST", Pattern: logPath + "/k8s-audit", Permission: tenant.PermAppend, Query: []string{"timeout"}, Body: true, ID: "appendKubernetesAudit", Handle: appendK8sAudit},
	}
}

// k8sAuditBatch is how many items are committed together, which are below the limit of one batch however long each is. A list is answered when all of it is durable; one that is sent
// again, since an answer was lost or a part of it failed, is known by the ids and stages of its events.
const k8sAuditBatch = 128

// appendK8sAudit takes what the webhook backend of Kubernetes' API server sends: an EventList of audit.k8s.io. An item that is no
// event is kept as it is; a body that is no JSON is refused.
func appendK8sAudit(r *request) error {
	given, err := r.given()
	if err != nil {
		return err
	}
	if given.key != "" {
		return fault("bad-parameter", "Idempotency-Key: an event's auditID and stage are its key")
	}
	if err := r.wants("application/json"); err != nil {
		return err
	}
	body, release, err := r.readBody()
	if err != nil {
		return err
	}
	defer release()
	events, err := trail.KubernetesAudit(body)
	if err != nil {
		r.s.o.Sources.Rejected(context.WithoutCancel(r.Context()), r.tenant.Name(), r.log.Name(), string(trail.K8sAudit), r.principal.ID, "malformed", body[:min(len(body), maxSample)])
		return fault("bad-json", err.Error())
	}
	for i := range events {
		given.fill(&events[i], 0)
	}
	receipts := make([]immutable.Receipt, 0, len(events))
	for from := 0; from < len(events); from += k8sAuditBatch {
		rs, err := given.append(r, events[from:min(from+k8sAuditBatch, len(events))])
		if err != nil {
			return err
		}
		receipts = append(receipts, rs...)
	}
	r.s.o.Sources.Seen(r.tenant.Name(), r.log.Name(), string(trail.K8sAudit), r.principal.ID, len(receipts))
	return r.json(http.StatusOK, map[string]any{"accepted": len(receipts)})
}
