package drill

import (
	"strings"

	"github.com/tree-of-life-system/immutable/internal/segment"
)

// unseal makes of the newest archive the pending file that it was made of.
func (t *target) unseal() error {
	b, err := t.open()
	if err != nil {
		return err
	}
	last := b.sealed[len(b.sealed)-1]
	out := segment.AppendHeader(nil, last[0], b.chainBefore(last[0]))
	for _, line := range b.lines[last[0]:last[1]] {
		out = append(append(out, line...), '\n')
	}
	t.log["pending/"+segment.PendingName(last[0])] = segment.AppendCommit(out, last[0], last[1], b.chainBefore(last[1]), b.root(last[1]))
	for name := range t.log {
		if strings.HasPrefix(name, "archive/"+segment.ArchiveName(last[0])) || strings.HasPrefix(name, "index/"+strings.TrimSuffix(segment.SealName(last[0]), segment.SealSuffix)) {
			delete(t.log, name)
		}
	}
	return nil
}
