//go:build !unix

package pgxcapture

import (
	"syscall"
	"testing"
)

func asNobody(*testing.T, string) *syscall.SysProcAttr { return nil }
