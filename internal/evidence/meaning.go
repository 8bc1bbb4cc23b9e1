package evidence

import (
	"fmt"
	"time"
)

// meaning says what a report shows and what it does not. The command and the page print the same sentences.
func meaning(r *Report) (proves, limits []string) {
	if r.Verdict == Refuted {
		return []string{"Something in this file was changed, is missing or was forged: the findings say what. Rely on none of it."},
			[]string{"Who changed it, and whether the log itself is intact: verify the log."}
	}
	which := fmt.Sprintf("These %d entries are, byte for byte and at these indexes, what the log %s held when it signed its checkpoint of %d entries.", r.Entries, r.Origin, r.Size)
	if r.Covered < r.Entries {
		which = "If the keys in this file are the log's: " + which
	}
	proves = append(proves, which)
	if 0 < r.Covered && r.Covered < r.Entries {
		proves = append(proves, fmt.Sprintf("The first %d of them agree with what you gave, whoever has the keys.", r.Covered))
	}
	s := &r.Statement
	switch {
	case r.Complete:
		proves = append(proves, fmt.Sprintf("Nothing is missing from index %d up to, not including, %d: every entry in that range is here.", s.From, s.To))
	case s.Query != "" && !r.QueryChecked:
		limits = append(limits, "That each entry matches the query: this verifier did not run it.")
	default:
		proves = append(proves, "Each entry matches what the statement says was asked for.")
	}
	if !r.Complete {
		limits = append(limits, "That nothing which matches was left out: a selection shows what is in it, not what is not. A bundle of a whole index range does.")
	}
	for _, t := range r.Times {
		if t.Trusted {
			proves = append(proves, fmt.Sprintf("Entries below index %d existed at %s: %s, whom you trust, had seen the log then.", t.Size, t.Time.UTC().Format(time.RFC3339), t.Name))
		}
	}
	if r.Verdict == Consistent {
		limits = append(limits, "That the keys are the log's: everything here agrees with itself, and so would a forgery made with keys of its own. Compare a key with one you got from elsewhere.")
	}
	if r.Verdict == Unknown {
		limits = append(limits, r.Open...)
	}
	limits = append(limits,
		"Entries after the checkpoint, and entries outside the statement's range.",
		"That what a source told the log is true or complete. Signatures of producers inside the entries are not checked here; `immutable verify` of the whole log checks them.",
		"When it happened: timestamps are the log's own clock, unless a time above is from somebody you trust.",
		"Who asked, when, and with which program: the statement is the word of whoever made this file.")
	if unchecked(r) {
		limits = append(limits, "The RFC 3161 time stamps in this file: this verifier does not check them; `immutable verify FILE` does.")
	}
	return proves, limits
}

func unchecked(r *Report) bool {
	for _, t := range r.Times {
		if !t.Checked {
			return true
		}
	}
	return false
}
