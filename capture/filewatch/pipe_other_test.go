//go:build !unix

package filewatch

import "errors"

func makePipe(string) error { return errors.ErrUnsupported }
