package page

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "build the verifier again and write it into assets; scripts/wasm does")

const wasmPackage = "github.com/tree-of-life-system/immutable/internal/evidence/wasm"

// TestCommittedVerifierIsBuiltFromThisSource fails when the verifier in the page is not what its source gives: its source has
// to be the recorded one always, and with the recorded Go release the build has to give the very bytes.
func TestCommittedVerifierIsBuiltFromThisSource(t *testing.T) {
	source := sourceDigest(t)
	record := func(wasm []byte) string {
		return fmt.Sprintf("go %s\nsource %s\nwasm %x\n", runtime.Version(), source, sha256.Sum256(wasm))
	}
	if *update {
		wasm := buildWASM(t)
		writeAsset(t, "verifier.wasm.gz", packed(t, wasm))
		writeAsset(t, "wasm_exec.js", glue(t))
		writeAsset(t, "verifier.txt", []byte(record(wasm)))
		return
	}
	recorded := string(readAsset(t, "verifier.txt"))
	const next = "run scripts/wasm and commit internal/evidence/page/assets"
	if !strings.Contains(recorded, "\nsource "+source+"\n") {
		t.Fatalf("the verifier's source has changed since it was built: %s", next)
	}
	committed := unpacked(t)
	if !strings.HasSuffix(recorded, fmt.Sprintf("\nwasm %x\n", sha256.Sum256(committed))) {
		t.Fatalf("verifier.wasm.gz is not the one in verifier.txt: %s", next)
	}
	if !strings.HasPrefix(recorded, "go "+runtime.Version()+"\n") {
		t.Skipf("this is %s, the verifier was built by another Go: its source is compared, its bytes are not", runtime.Version())
	}
	if got := buildWASM(t); !bytes.Equal(got, committed) {
		t.Errorf("the source builds to %x, committed is %x: %s", sha256.Sum256(got), sha256.Sum256(committed), next)
	}
	if !bytes.Equal(glue(t), wasmExec) {
		t.Errorf("wasm_exec.js is not that of %s: %s", runtime.Version(), next)
	}
}

// goTool runs the go command for the browser, without anything of the environment that would change what it builds.
func goTool(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("go", args...)
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); name != "GOFLAGS" && name != "GOEXPERIMENT" && name != "GOWASM" && name != "GODEBUG" && name != "GOFIPS140" {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, "GOOS=js", "GOARCH=wasm", "CGO_ENABLED=0", "GOWORK=off")
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, errOut.String())
	}
	return out
}

func buildWASM(t *testing.T) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "verifier.wasm")
	goTool(t, "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", out, wasmPackage)
	wasm, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return wasm
}

// sourceDigest covers the files of this module that the verifier is made of, and the versions of the others.
func sourceDigest(t *testing.T) string {
	t.Helper()
	const list = `{{if not .Standard}}{{if .Module.Main}}{{$d := .Dir}}{{range .GoFiles}}{{$d}}/{{.}}{{"\n"}}{{end}}{{else}}{{.Module.Path}}@{{.Module.Version}}{{"\n"}}{{end}}{{end}}`
	lines := strings.Fields(string(goTool(t, "list", "-deps", "-f", list, wasmPackage)))
	sort.Strings(lines)
	h := sha256.New()
	for i, line := range lines {
		if strings.Contains(line, "@") && !filepath.IsAbs(line) {
			if i == 0 || lines[i-1] != line {
				h.Write([]byte(line + "\n"))
			}
			continue
		}
		data, err := os.ReadFile(line)
		if err != nil {
			t.Fatal(err)
		}
		h.Write(fmt.Appendf(nil, "%s/%s %x\n", filepath.Base(filepath.Dir(line)), filepath.Base(line), sha256.Sum256(data)))
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

func glue(t *testing.T) []byte {
	t.Helper()
	root := strings.TrimSpace(string(goTool(t, "env", "GOROOT")))
	data, err := os.ReadFile(filepath.Join(root, "lib", "wasm", "wasm_exec.js"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func packed(t *testing.T, wasm []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(wasm); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func unpacked(t *testing.T) []byte {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(verifier))
	if err != nil {
		t.Fatal(err)
	}
	wasm, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return wasm
}

func readAsset(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("assets", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func writeAsset(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join("assets", name), data, 0o644); err != nil {
		t.Fatal(err)
	}
}
