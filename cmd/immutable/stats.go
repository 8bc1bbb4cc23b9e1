package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/tree-of-life-system/immutable"
)

const statsUsage = `immutable stats

Prints what the log holds and how it does: entries and levels, sizes, the newest checkpoint, the last completed verification.

  immutable stats
  immutable stats --json | jq .totalEntries
  immutable stats --policy audit.policy --json | jq .witnessing

  --policy FILE          say which witnesses of this policy have cosigned, and when (IMMUTABLE_POLICY)` + serverFlags + dirFlags + commonFlags

func setupStats(c *call) func() error {
	c.dirFlags()
	c.flagsOfServer(true, "policy")
	c.set.StringVar(&c.policy, "policy", "", "")
	return func() error {
		if err := c.arguments(0, 0, "no arguments"); err != nil {
			return err
		}
		return printStats(c)
	}
}

func printStats(c *call) (err error) {
	l, err := c.openView()
	if err != nil {
		return err
	}
	defer closing(l, &err)
	s, err := l.Stats(c.ctx)
	if err != nil {
		return err
	}
	if c.json {
		return c.answer(s)
	}
	c.table(statRows(s))
	return nil
}

func statRows(s *immutable.Stats) [][2]string {
	rows := [][2]string{
		{"log", s.Origin},
		{"entries", count(s.TotalEntries)},
		{"blocks", count(s.BlockchainLength)},
		{"size", size(s.FileSize)},
		{"segments", fmt.Sprintf("%d (%d waiting to be sealed, open one %s)", s.Segments, s.Pending, size(s.OpenSize))},
	}
	for l := range immutable.Level(immutable.NumLevels) {
		if n := s.Levels[l.String()]; n > 0 {
			rows = append(rows, [2]string{"  " + l.String(), count(n)})
		}
	}
	if s.OldestEntry != nil && s.NewestEntry != nil {
		rows = append(rows, [2]string{"oldest", s.OldestEntry.Format(time.RFC3339Nano)}, [2]string{"newest", s.NewestEntry.Format(time.RFC3339Nano)})
	}
	checkpoint := "none: this log has no signatures"
	if s.Signed {
		checkpoint = "covers " + count(s.CheckpointSize) + " entries"
	}
	verified := "never on this host"
	if s.Verified != nil {
		verified = fmt.Sprintf("%s at %s entries, %s", s.Verified.Verdict, count(s.Verified.Size), s.Verified.Time.Format(time.RFC3339))
	}
	rows = append(rows, [2]string{"root", s.Root}, [2]string{"last block", s.Chain}, [2]string{"checkpoint", checkpoint}, [2]string{"verified", verified})
	rows = append(rows, witnessRows(s.Witnessing)...)
	rows = append(rows, retiredRows(s)...)
	if s.Quarantined > 0 {
		rows = append(rows, [2]string{"quarantined", strconv.Itoa(s.Quarantined) + " files that recovery moved aside"})
	}
	if s.Damage != "" {
		rows = append(rows, [2]string{"damage", s.Damage})
	}
	return rows
}

// witnessRows say how the witnesses do, by what the log's directory has of them.
func witnessRows(w *immutable.Witnessing) [][2]string {
	if w == nil {
		return nil
	}
	cosigned := "no checkpoint has the quorum"
	if w.CosignedTime != nil {
		cosigned = fmt.Sprintf("covers %s entries, at %s", count(w.CosignedSize), w.CosignedTime.Format(time.RFC3339))
	}
	rows := [][2]string{{"cosigned", cosigned}}
	for _, x := range w.Witnesses {
		state := x.Error
		if x.Time != nil {
			state = fmt.Sprintf("%s entries, at %s", count(x.Size), x.Time.Format(time.RFC3339))
		} else if state == "" {
			state = "not under the newest cosigned checkpoint"
		}
		rows = append(rows, [2]string{"  " + x.Name, state})
	}
	return rows
}
