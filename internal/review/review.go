// Package review says what somebody who looks at a day should see: findings, as queries, and a sample that nobody can choose. Pure.
package review

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
)

// Finding is a question about a day; its answer is a count, and the entries behind it.
type Finding struct {
	ID     string `json:"id"`
	Title  string `json:"title"`
	Query  string `json:"query"` // docs/search.md, without times
	System bool   `json:"-"`     // asked of the log of the log; the others of every other log
}

// Findings are asked of each day, what is most urgent first.
func Findings() []Finding {
	return []Finding{
		{"files", "Files that somebody else changed", "action:file.changed", true},
		{"verification", "Verifications that did not prove everything", "action:verify.finished NOT verdict:proven", true},
		{"alerts", "Alerts", "action:alert.raised", true},
		{"refused", "Refused authentication", "action:auth.refused", true},
		{"rejected", "Sources that were refused", "action:source.rejected OR action:source.malformed", true},
		{"administration", "Administration", "action:tenant.create OR action:tenant.update OR action:token.create OR action:token.revoke OR action:log.create OR action:log.update OR action:log.rotate OR " +
			"action:hold.set OR action:hold.release OR action:alert.rules OR action:sink* OR action:source.create OR action:source.update OR action:source.delete OR action:source.secret OR action:config.change", true},
		{"retired", "Segments that were retired or brought back", "action:segment.retire OR action:segment.restore OR action:retention.failed", true},
		{"restarts", "Starts and stops of the service", "action:service.start OR action:service.stop", true},
		{"critical", "CRITICAL", "level:CRITICAL", false},
		{"errors", "ERROR", "level:ERROR", false},
		{"logins", "Failed logins", "action:user.login outcome:failure", false},
		{"lockouts", "Lockouts", "action:user.lockout", false},
		{"accounts", "Accounts and rights that were changed", "kind:account", false},
		{"denied", "Refused by a rule", "outcome:denied", false},
		{"security", "Security findings", "kind:security", false},
		{"clock", "Steps of the log's clock", "control:clock", false},
	}
}

// SampleSize is how many entries of a log are drawn for a day.
const SampleSize = 10

// Sample draws indexes in [first, end): the first SampleSize different values of first + x mod (end - first), where x is the first 8
// bytes, big-endian, of SHA-256 over "immutable review sample v1\n", the log's origin, the day (2006-01-02), the root in base64 and
// i = 0, 1, … in decimal, each followed by a newline. The root is that of the first kept checkpoint which covers the day, so that a
// reviewer cannot choose what is drawn, and anybody who has the checkpoint can draw it again.
func Sample(origin, day, root string, first, end uint64) []uint64 {
	list := []uint64{}
	if end <= first {
		return list
	}
	n := end - first
	for i := 0; len(list) < SampleSize && uint64(len(list)) < n; i++ {
		digest := sha256.Sum256(fmt.Appendf(nil, "immutable review sample v1\n%s\n%s\n%s\n%d\n", origin, day, root, i))
		if index := first + binary.BigEndian.Uint64(digest[:8])%n; !slices.Contains(list, index) {
			list = append(list, index)
		}
	}
	slices.Sort(list)
	return list
}
