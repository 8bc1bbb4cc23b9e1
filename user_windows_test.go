package immutable

import (
	"os/exec"
	"testing"
)

func asOrdinaryUser(*testing.T, *exec.Cmd, string) bool { return false }
