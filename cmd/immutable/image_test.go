//go:build unix

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestImageServesAndStops builds the image with buildah and runs it: as a user of its own, over a root that it does not write,
// healthy by its own health check, and stopped by SIGTERM.
func TestImageServesAndStops(t *testing.T) {
	if _, err := exec.LookPath("buildah"); err != nil || os.Getuid() != 0 {
		t.Skip("no buildah here, or not root: Debian has it in the package buildah")
	}
	dir := t.TempDir()
	builder := []string{"buildah", "--storage-driver", "vfs", "--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run")}
	command := func(args ...string) *exec.Cmd {
		return exec.CommandContext(t.Context(), builder[0], append(builder[1:], args...)...)
	}
	must := func(cmd *exec.Cmd) string {
		t.Helper()
		out, err := cmd.Output()
		if err != nil {
			var said []byte
			if e, ok := err.(*exec.ExitError); ok {
				said = e.Stderr
			}
			t.Fatalf("%v: %v\n%s%s", cmd.Args, err, out, said)
		}
		return strings.TrimSpace(string(out))
	}
	build := exec.CommandContext(t.Context(), filepath.Join("..", "..", "deploy", "image"), "immutable-test")
	build.Env = append(os.Environ(), "IMMUTABLE_BUILDER="+strings.Join(builder, " "))
	must(build)
	var image struct {
		Docker struct {
			Config struct {
				User, StopSignal string
				Entrypoint, Cmd  []string
				Healthcheck      *struct{ Test []string }
				Volumes          map[string]struct{}
			} `json:"config"`
		}
	}
	if err := json.Unmarshal([]byte(must(command("inspect", "--type", "image", "immutable-test"))), &image); err != nil {
		t.Fatal(err)
	}
	c := image.Docker.Config
	if _, volume := c.Volumes["/data"]; c.User != "65532:65532" || c.StopSignal != "SIGTERM" || !volume || c.Healthcheck == nil ||
		fmt.Sprint(c.Entrypoint, c.Cmd, c.Healthcheck.Test) != "[/immutable] [serve] [CMD /immutable healthcheck]" {
		t.Errorf("the image says %+v", c)
	}
	container := must(command("from", "immutable-test"))
	files := must(exec.CommandContext(t.Context(), "ls", "-A", must(command("mount", container))))
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	within := []string{"run", "--isolation", "chroot", "--env", "IMMUTABLE_LISTEN=" + address, container, "--", "/immutable"}
	serve := command(append(within, "serve", "--json")...)
	out, err := serve.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.Contains(line, `"dataDir":"/data"`) {
		t.Fatalf("it says %q, %v", line, err)
	}
	must(command(append(within, c.Healthcheck.Test[2:]...)...))
	// What a container's runtime does: the signal goes to the first process in the container, not to the builder around it.
	if err := syscall.Kill(lastDescendant(t, serve.Process.Pid), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := serve.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	if down, err := net.Dial("tcp", address); err == nil {
		down.Close()
		t.Error("it still answers")
	}
	after := must(exec.CommandContext(t.Context(), "ls", "-A", must(command("mount", container))))
	for name := range strings.Lines(after) {
		if name = strings.TrimSpace(name); !strings.Contains("\n"+files+"\n", "\n"+name+"\n") && name != "dev" && name != "proc" && name != "sys" && name != "run" {
			t.Errorf("it wrote /%s beside its volume", name)
		}
	}
}

// lastDescendant follows the only child of each process to the end.
func lastDescendant(t *testing.T, pid int) int {
	t.Helper()
	for {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
		if err != nil || len(tasks) == 0 {
			t.Skipf("this kernel does not say what children process %d has: %v", pid, err)
		}
		child := 0
		for _, task := range tasks {
			if data, err := os.ReadFile(task); err == nil && len(strings.Fields(string(data))) > 0 {
				if child, err = strconv.Atoi(strings.Fields(string(data))[0]); err != nil {
					t.Fatal(err)
				}
			}
		}
		if child == 0 {
			return pid
		}
		pid = child
	}
}
