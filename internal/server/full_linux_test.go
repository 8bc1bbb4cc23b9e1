package server

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tree-of-life-system/immutable/internal/config"
)

// smallDisk mounts a file system of 48 MiB.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=48m"); err != nil {
		t.Skipf("this user may not mount a small file system: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// fillDisk takes what is left of the disk, and returns how to give it back.
func fillDisk(t *testing.T, dir string) (free func()) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "others-"+time.Now().Format("150405.000000000")), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	chunk := make([]byte, 64<<10)
	for size := len(chunk); size > 0; {
		if _, err := f.Write(chunk[:size]); err != nil {
			if !errors.Is(err, unix.ENOSPC) {
				t.Fatal(err)
			}
			size /= 2
		}
	}
	return func() { _ = os.Remove(f.Name()) }
}

// run starts a whole service in dir, and returns its URL and how to stop it.
func run(t *testing.T, dir string) (url string, stop func()) {
	t.Helper()
	c := config.New()
	c.DataDir, c.StateDir, c.Listen, c.BootstrapToken = dir, filepath.Join(dir, "state"), "127.0.0.1:0", rootToken
	ctx, cancel := context.WithCancel(context.Background())
	started, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- Run(ctx, c, Runtime{Logger: slog.New(slog.DiscardHandler), Started: func(s Started) error { started <- s.URL; return nil }})
	}()
	select {
	case url = <-started:
	case err := <-ended:
		t.Fatalf("the service does not start: %v", err)
	}
	return url, func() {
		cancel()
		_ = <-ended // on a full disk it says that the stop is not on record
	}
}

func ready(t *testing.T, url string) (status int, body string) {
	t.Helper()
	return fetch(t, "GET", url+"/readyz", "")
}

func fetch(t *testing.T, method, url, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+rootToken)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

// eventually asks until the status is there.
func eventually(t *testing.T, want int, ask func() (int, string)) string {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		got, body := ask()
		if got == want {
			return body
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %d for 30 s, want %d: %s", got, want, body)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// TestFullDiskRefusesAppendsAndRecordsReads fills the disk under a service: appends are refused and /readyz says so, reads go on and are
// on record. It starts again on a disk without a free byte, also without its reserve, and goes on when there is room.
func TestFullDiskRefusesAppendsAndRecordsReads(t *testing.T) {
	dir := smallDisk(t)
	url, stop := run(t, filepath.Join(dir, "data"))
	entries := url + mainLog + "/entries"
	if status, body := fetch(t, "POST", entries, `{"message":"before"}`); status != http.StatusCreated {
		t.Fatalf("append: %d %s", status, body)
	}
	free := fillDisk(t, dir)
	event := `{"message":"` + strings.Repeat("x", 60_000) + `"}`
	eventually(t, http.StatusInsufficientStorage, func() (int, string) { return fetch(t, "POST", entries, event) })
	if status, body := ready(t, url); status != http.StatusServiceUnavailable || !strings.Contains(body, "the disk is full") {
		t.Errorf("readyz on a full disk: %d %s", status, body)
	}
	if status, body := fetch(t, "GET", entries+"?q=before", ""); status != http.StatusOK {
		t.Errorf("a read on a full disk: %d %s", status, body)
	}
	if status, body := fetch(t, "POST", entries, `{"message":"small"}`); status != http.StatusInsufficientStorage {
		t.Errorf("an append that takes the space of records: %d %s", status, body)
	}
	stop()

	t.Run("start without a free byte", func(t *testing.T) {
		more := fillDisk(t, dir) // the reserve is given up, and others have taken it
		url, stop := run(t, filepath.Join(dir, "data"))
		defer stop()
		entries := url + mainLog + "/entries"
		if status, body := ready(t, url); status != http.StatusServiceUnavailable || !strings.Contains(body, "full") {
			t.Errorf("readyz: %d %s", status, body)
		}
		if status, body := fetch(t, "POST", entries, `{"message":"small"}`); status < 500 {
			t.Errorf("append: %d %s", status, body)
		}
		if status, body := fetch(t, "GET", entries, ""); status != http.StatusServiceUnavailable || !strings.Contains(body, "record-failed") {
			t.Errorf("a read that cannot be recorded: %d %s", status, body)
		}
		if _, body := ready(t, url); !strings.Contains(body, "also for records") {
			t.Errorf("readyz where nothing can be recorded: %s", body)
		}
		more()
		free()
		eventually(t, http.StatusOK, func() (int, string) { return ready(t, url) })
		eventually(t, http.StatusCreated, func() (int, string) { return fetch(t, "POST", entries, `{"message":"after"}`) })
		_, body := fetch(t, "GET", url+"/api/v1/tenants/default/logs/system/entries?q=action:service.start", "")
		if n := strings.Count(body, `"action":"service.start"`); n != 2 {
			t.Errorf("%d starts are on record, want 2", n)
		}
	})
	url, stop = run(t, filepath.Join(dir, "data"))
	defer stop()
	if status, body := ready(t, url); status != http.StatusOK {
		t.Errorf("with room: %d %s", status, body)
	}
}

// TestStoppedWriterIsNotReady has somebody else write to a log's open segment. Its writer stops, as after a sync that failed, and takes
// nothing more until a restart: /readyz and the metrics say so, without naming the log.
func TestStoppedWriterIsNotReady(t *testing.T) {
	dir := t.TempDir()
	url, stop := run(t, dir)
	defer stop()
	if status, body := ready(t, url); status != http.StatusOK {
		t.Fatalf("readyz: %d %s", status, body)
	}
	f, err := os.OpenFile(filepath.Join(dir, "tenants/default/logs/main/immutable.log"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("others"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if status, body := fetch(t, "POST", url+mainLog+"/entries", `{"message":"m"}`); status != http.StatusServiceUnavailable {
		t.Fatalf("append: %d %s", status, body)
	}
	if status, body := ready(t, url); status != http.StatusServiceUnavailable || !strings.Contains(body, "restart the service") || strings.Contains(body, "main") {
		t.Errorf("readyz: %d %s", status, body)
	}
	_, metrics := fetch(t, "GET", url+"/metrics", "")
	for _, want := range []string{"immutable_ready 0", `immutable_log_up{log="main",tenant="default"} 0`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("the metrics have no %s", want)
		}
	}
}
