package tenant

import (
	"fmt"
	"strings"
	"time"

	"github.com/adhocore/gronx"
)

// Off stands for a cron expression that never comes.
const Off = "off"

// NextRun is the first minute after a moment that a cron expression names, in UTC; the zero time for Off. The expression has
// five fields: minute, hour, day of the month, month, day of the week (0 or 7 is Sunday; names such as JAN and MON do too).
// Where both days are restricted either will do, as in cron. A day that no year has is an error.
func NextRun(expr string, after time.Time) (time.Time, error) {
	if expr == Off {
		return time.Time{}, nil
	}
	bad := func() error {
		return fmt.Errorf("%q is not a cron expression of five fields (minute, hour, day, month, day of the week), or %q", expr, Off)
	}
	if len(expr) > maxCron || len(strings.Fields(expr)) != 5 || strings.Trim(expr, "0123456789*,/- ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") != "" || !gronx.IsValid(expr) {
		return time.Time{}, bad()
	}
	next, err := gronx.NextTickAfter(expr, after.UTC(), false)
	if err != nil || !next.After(after) {
		return time.Time{}, bad()
	}
	return next.UTC(), nil
}
