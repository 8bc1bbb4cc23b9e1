package main

import (
	"bytes"
	"context"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/access"
	"github.com/tree-of-life-system/immutable/internal/server"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

func TestMessagesReachTheServerAndComeBackProven(t *testing.T) {
	const token = "first-administrator-of-a-test"
	ctx := context.Background()
	in, err := tenant.Open(ctx, tenant.Options{Dir: t.TempDir(), OriginPrefix: "log.example/test", Log: immutable.Config{}})
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close(ctx)
	if _, _, err := in.Bootstrap(ctx, token); err != nil {
		t.Fatal(err)
	}
	auth, err := access.New(ctx, in, access.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer auth.Close(ctx)
	var handler http.Handler = server.New(server.Options{Installation: in, Auth: auth})
	s := httptest.NewServer(handler)
	defer s.Close()
	tn, err := in.Tenant("default")
	if err != nil {
		t.Fatal(err)
	}
	l, err := tn.Log("main")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	keys := filepath.Join(dir, "keys")
	if err := os.WriteFile(keys, []byte(strings.Join(l.VerifierKeys(), "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := run(ctx, log.New(&out, "", 0), token, []string{s.URL, keys, filepath.Join(dir, "app"), "first", "second"}); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), "1 AUDIT second\n0 AUDIT first\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if err := run(ctx, log.New(&out, "", 0), token, []string{s.URL}); err == nil {
		t.Error("a call without arguments is taken")
	}
}
