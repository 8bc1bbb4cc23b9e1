// Package page makes the page that carries a bundle and verifies it: one HTML file with package evidence, compiled to
// WebAssembly, in it. Nothing is loaded from elsewhere, and a policy in the page forbids it.
package page

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"slices"

	"github.com/tree-of-life-system/immutable/internal/evidence"
)

var (
	//go:embed assets/page.html
	html []byte
	//go:embed assets/page.css
	css []byte
	//go:embed assets/page.js
	script []byte
	// wasm_exec.js is the Go distribution's, of the release that verifier.txt names.
	//go:embed assets/wasm_exec.js
	wasmExec []byte
	//go:embed assets/LICENSES.txt
	licences []byte
	//go:embed assets/verifier.wasm.gz
	verifier []byte
)

// With returns the page that holds the data of a bundle. The same data give the same bytes.
func With(data []byte) []byte {
	element := make([]byte, 0, len(data)+len(evidence.Open)+len(evidence.Close))
	element = append(append(append(element, evidence.Open...), data...), evidence.Close...)
	return build("bundle", element)
}

// Empty returns the page without a bundle: a file can be dropped into it.
func Empty() []byte { return build("page", nil) }

// Verifier is the verifier by itself, WebAssembly packed by gzip; Runtime is the script that runs it.
func Verifier() []byte { return verifier }

// Runtime is the Go distribution's script that runs Verifier.
func Runtime() []byte { return wasmExec }

// Holds says whether file is exactly the page that this program writes around data.
func Holds(file, data []byte) bool { return bytes.Equal(file, With(data)) }

// build fills in the page. The policy allows exactly this style and this script, and WebAssembly; data elements are not run.
func build(mode string, data []byte) []byte {
	all := slices.Concat([]byte("/*\n"), licences, []byte("*/\n"), wasmExec, []byte("\n"), script)
	policy := "default-src 'none'; script-src " + digest(all) + " 'wasm-unsafe-eval'; style-src " + digest(css) +
		"; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
	var out bytes.Buffer
	out.Grow(len(html) + len(css) + len(all) + len(data) + base64.StdEncoding.EncodedLen(len(verifier)) + len(policy))
	rest := html
	for _, part := range []struct {
		name string
		text []byte
	}{
		{"{{policy}}", []byte(policy)},
		{"{{style}}", css},
		{"{{mode}}", []byte(mode)},
		{"{{data}}", data},
		{"{{verifier}}", []byte(base64.StdEncoding.EncodeToString(verifier))},
		{"{{script}}", all},
	} {
		before, after, _ := bytes.Cut(rest, []byte(part.name))
		out.Write(before)
		out.Write(part.text)
		rest = after
	}
	out.Write(rest)
	return out.Bytes()
}

// digest is the source expression of Content Security Policy for an inline element.
func digest(text []byte) string {
	sum := sha256.Sum256(text)
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}
