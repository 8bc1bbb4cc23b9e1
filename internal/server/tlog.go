package server

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable/internal/tenant"
)

func tlogRoutes() []route {
	return []route{
		{Method: "GET", Pattern: "/tlog/{tenant}/{log}/{path...}", Access: tilesAccess, Permission: tenant.PermTiles, ID: "getTile", Handle: serveTile},
	}
}

// serveTile answers with what C2SP tlog-tiles has at the path: checkpoint, tile/ and bundles of entries. Everything but the
// checkpoint never changes. Ranges and ETags are of what is sent, so a range is never of a compressed body.
func serveTile(r *request) error {
	path := r.PathValue("path")
	end, err := r.beginRead("read", "tiles")
	if err != nil {
		return err
	}
	inner := r.Clone(r.Context())
	inner.URL.Path, inner.URL.RawPath, inner.Method = "/"+path, "", http.MethodGet
	if r.Header.Get("Range") != "" {
		inner.Header.Del("Accept-Encoding")
	}
	tile := &held{header: http.Header{}}
	r.log.TilesHandler().ServeHTTP(tile, inner)
	if tile.status != http.StatusOK {
		err = fault("not-found", nothingHere)
		if tile.status == http.StatusInternalServerError {
			err = fault("corrupt", "what is on the disk is not what was written; run a verification")
		}
		end(0, err)
		return err
	}
	h := r.w.Header()
	for _, name := range []string{"Content-Type", "Content-Encoding", "Vary"} {
		if v := tile.header.Get(name); v != "" {
			h.Set(name, v)
		}
	}
	keep := tile.header.Get("Cache-Control")
	if r.principal != nil { // what one may read, a shared cache must not give to others
		keep = strings.Replace(keep, "public", "private", 1)
	}
	h.Set("Cache-Control", keep)
	sum := sha256.Sum256(tile.body.Bytes())
	h.Set("ETag", `"`+base64.RawURLEncoding.EncodeToString(sum[:16])+`"`)
	r.extendWrite()
	http.ServeContent(&r.w, r.Request, "", time.Time{}, bytes.NewReader(tile.body.Bytes()))
	end(bundled(path), nil)
	return nil
}

// bundled is how many entries the path's bundle has, 0 where it is none.
func bundled(path string) uint64 {
	if !strings.HasPrefix(path, "tile/entries/") {
		return 0
	}
	const whole = 256
	_, width, partial := strings.Cut(path, ".p/")
	if !partial {
		return whole
	}
	n, err := strconv.ParseUint(width, 10, 8)
	if err != nil {
		return whole
	}
	return n
}

// held is an answer that is kept, at most one bundle of entries.
type held struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (h *held) Header() http.Header { return h.header }

func (h *held) WriteHeader(status int) {
	if h.status == 0 {
		h.status = status
	}
}

func (h *held) Write(p []byte) (int, error) {
	h.WriteHeader(http.StatusOK)
	return h.body.Write(p)
}
