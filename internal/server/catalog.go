package server

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"sync/atomic"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/event/catalog"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// catalogRoutes show and change a log's catalogue: which types of event it takes, and what they must have.
func catalogRoutes() []route {
	return []route{
		{Method: "GET", Pattern: logPath + "/catalogue", Permission: tenant.PermStats, ID: "getCatalogue", Handle: getCatalogue},
		{Method: "PUT", Pattern: logPath + "/catalogue", Permission: tenant.PermManageLog, Body: true, ID: "setCatalogue", Handle: setCatalogue},
	}
}

// heldCatalogue is a log's catalogue in use. Its counts begin at zero with the process and with each change.
type heldCatalogue struct {
	*catalog.Catalogue
	refused, marked atomic.Uint64
}

// Check is how tenant.Log.AppendAs holds events to the catalogue.
func (h *heldCatalogue) Check(events []immutable.Event) ([]immutable.Event, error) {
	out, faults, err := h.Catalogue.Check(events...)
	if err != nil {
		h.refused.Add(1)
		return nil, err
	}
	h.marked.Add(uint64(faults))
	return out, nil
}

// brokenCatalogue stands for one that cannot be read: what nobody can check is not taken.
type brokenCatalogue struct{ err error }

func (b brokenCatalogue) Check([]immutable.Event) ([]immutable.Event, error) { return nil, b.err }

// loadCatalogues puts the catalogues of all logs to use.
func (s *Server) loadCatalogues() {
	if s.o.Installation == nil {
		return
	}
	for _, t := range s.o.Installation.Tenants() {
		for _, l := range t.Logs() {
			_ = l.SetChecker(func() (tenant.Checker, error) { // which returns no error
				data, err := t.ReadFile(catalogueFile(l.Name()))
				if errors.Is(err, fs.ErrNotExist) {
					return nil, nil
				}
				var c *catalog.Catalogue
				if err == nil {
					c, err = catalog.Parse(data)
				}
				if err != nil {
					err = fmt.Errorf("read the catalogue of the log: %w; set it again: PUT …/catalogue", err)
					s.o.Logger.Error("a log takes nothing, since its catalogue cannot be read", "tenant", t.Name(), "log", l.Name(), "error", err)
					return brokenCatalogue{&tenant.UnavailableError{Tenant: t.Name(), Log: l.Name(), Err: err}}, nil
				}
				return &heldCatalogue{Catalogue: c}, nil
			})
		}
	}
}

// catalogueFile is the name of a log's catalogue among its tenant's files, whose names are not longer than those of logs.
func catalogueFile(log string) string {
	const most = 63
	if len("catalogue-")+len(log) > most {
		digest := sha256.Sum256([]byte(log))
		log = hex.EncodeToString(digest[:16])
	}
	return "catalogue-" + log + ".json"
}

func getCatalogue(r *request) error { return r.sendCatalogue() }

func (r *request) sendCatalogue() error {
	out := struct {
		Catalogue *catalog.Document `json:"catalogue,omitempty"`
		Refused   uint64            `json:"refused"`
		Marked    uint64            `json:"marked"`
		Schemas   []string          `json:"schemas"`
	}{Schemas: catalog.Names()}
	switch c := r.log.Checker().(type) {
	case *heldCatalogue:
		out.Catalogue, out.Refused, out.Marked = &c.Document, c.refused.Load(), c.marked.Load()
	case brokenCatalogue:
		return c.err
	}
	return r.json(http.StatusOK, out)
}

// setCatalogue replaces the catalogue. The change is on record, by its digest, before it counts.
func setCatalogue(r *request) error {
	if err := r.wants("application/json"); err != nil {
		return err
	}
	data, err := r.readSettings()
	if err != nil {
		return err
	}
	if err := uniqueNames(data); err != nil {
		return fault("bad-json", err.Error())
	}
	c, err := catalog.Parse(data)
	if err != nil {
		return fault("bad-settings", err.Error()).with("field", "catalogue")
	}
	if r.log.Name() == tenant.SystemName {
		return fault("conflict", "the log of the log has no catalogue: the service alone writes it")
	}
	plain, err := json.Marshal(c.Document)
	if err != nil {
		return fmt.Errorf("encode the catalogue: %w", err)
	}
	digest := sha256.Sum256(plain)
	err = r.log.SetChecker(func() (tenant.Checker, error) {
		err := r.tenant.Record(r.Context(), r.principal, tenant.LogUpdate, immutable.Fields{
			"log": r.log.Name(), "catalogue": immutable.Fields{"mode": c.Mode, "types": len(c.Types), "sha256": hex.EncodeToString(digest[:])},
		})
		if err != nil {
			return nil, err
		}
		return &heldCatalogue{Catalogue: c}, r.tenant.WriteFile(catalogueFile(r.log.Name()), plain)
	})
	if err != nil {
		return err
	}
	return r.sendCatalogue()
}
