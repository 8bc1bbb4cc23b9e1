package export

import (
	"fmt"
	"strings"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/siem"
	"github.com/tree-of-life-system/immutable/proof"
)

// Append appends an entry as a line of a copy in one of the formats json, ocsf and ecs. size is that of the newest checkpoint.
func Append(dst []byte, format, origin string, size uint64, e *immutable.Entry) ([]byte, error) {
	m := siem.Mark{Origin: origin, Size: size}
	switch format {
	case "json":
		return AppendLine(dst, origin, size, e), nil
	case "ocsf":
		return siem.AppendOCSF(dst, m, e)
	case "ecs":
		return siem.AppendECS(dst, m, e)
	}
	return dst, fmt.Errorf("there is no format %q: json, ocsf or ecs", format)
}

// CheckpointSize is what a log's newest checkpoint says; 0 where there is none.
func CheckpointSize(l interface{ Checkpoint() ([]byte, error) }) uint64 {
	note, err := l.Checkpoint()
	if err != nil {
		return 0
	}
	text, _, ok := strings.Cut(string(note), "\n\n")
	if c, err := proof.ParseCheckpoint(text + "\n"); ok && err == nil {
		return c.Size
	}
	return 0
}
