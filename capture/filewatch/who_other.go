//go:build !linux

package filewatch

import "github.com/tree-of-life-system/immutable/event"

// witness is nil where no kernel says who changed a file.
type witness struct{}

// process is who changed a file.
type process struct{}

func newWitness() *witness { return nil }

func (*witness) close()                 {}
func (*witness) watch(string)           {}
func (*witness) of(...string) *process  { return nil }
func (*process) actor() *event.Actor    { return nil }
func (*process) fields() map[string]any { return nil }
