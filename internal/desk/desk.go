// Package desk has the files of the dashboard. They are sent as they are in assets/: plain HTML, CSS and JavaScript modules, built
// by nothing, so that `go run` serves them and an editor is all it takes to change them. The pages know nothing by themselves:
// what they show comes from the API, with the session of the person who looks.
package desk

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"path"

	"github.com/tree-of-life-system/immutable/internal/evidence/page"
)

//go:embed assets
var assets embed.FS

// Policy is the Content-Security-Policy of every page and file: nothing from elsewhere, nothing inline, no markup from strings,
// in no frame.
const Policy = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// File is one file of the dashboard.
type File struct {
	Kind   string // its media type
	Tag    string // its entity tag, which changes with its bytes
	Packed []byte // its bytes, by gzip
}

// kinds are the media types by the ends of names.
var kinds = map[string]string{
	".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml", ".wasm": "application/wasm",
}

// Files are all files by name. The verifier and what runs it are those that pages of evidence carry.
func Files() (map[string]File, error) {
	files := map[string]File{"verifier.wasm": file("verifier.wasm", page.Verifier())}
	packed, err := pack(page.Runtime())
	if err != nil {
		return nil, err
	}
	files["wasm_exec.js"] = file("wasm_exec.js", packed)
	list, err := assets.ReadDir("assets")
	if err != nil {
		return nil, err
	}
	for _, e := range list {
		data, err := assets.ReadFile("assets/" + e.Name())
		if err != nil {
			return nil, err
		}
		if kinds[path.Ext(e.Name())] == "" {
			return nil, fmt.Errorf("%s: no media type is known for it", e.Name())
		}
		if packed, err = pack(data); err != nil {
			return nil, err
		}
		files[e.Name()] = file(e.Name(), packed)
	}
	return files, nil
}

func file(name string, packed []byte) File {
	sum := sha256.Sum256(packed)
	return File{Kind: kinds[path.Ext(name)], Tag: `"` + hex.EncodeToString(sum[:12]) + `"`, Packed: packed}
}

func pack(data []byte) ([]byte, error) {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil { // it writes the end
		return nil, err
	}
	return b.Bytes(), nil
}
