//go:build unix

package immutable

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// asOrdinaryUser lets cmd run as nobody with a directory of its own, where this process is root.
func asOrdinaryUser(t *testing.T, cmd *exec.Cmd, dir string) bool {
	t.Helper()
	if os.Getuid() != 0 {
		return false
	}
	const nobody = 65534
	must(t, os.Chown(dir, nobody, nobody))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	return true
}
