package evidence

import "time"

// Verdict is the answer; docs/format.md, "Verdict", defines the words.
type Verdict string

// The verdicts.
const (
	Refuted    Verdict = "refuted"
	Unknown    Verdict = "unknown"
	Proven     Verdict = "proven"
	Consistent Verdict = "consistent"
)

// Report is what a verification found. Its JSON form is stable: members are added, never changed or removed.
type Report struct {
	Verdict  Verdict   `json:"verdict"`
	Findings []Finding `json:"findings"` // contradictions, at most maxFindings
	Omitted  int       `json:"omitted,omitempty"`
	Open     []string  `json:"open"`  // what could not be told, and so keeps the verdict from being better than unknown
	Notes    []string  `json:"notes"` // what a reader should know, but is no contradiction
	Basis    []Basis   `json:"basis"` // what the verdict stands on that did not come with the bundle

	Origin     string    `json:"origin"`
	Statement  Statement `json:"statement"`
	Size       uint64    `json:"size"` // of the checkpoint
	Root       string    `json:"root"`
	Epoch      uint64    `json:"epoch"` // whose keys signed the checkpoint
	Signatures []Signed  `json:"signatures"`
	Keys       []Keys    `json:"keys"` // the chain of keys up to that epoch

	Entries      int        `json:"entries"`
	Covered      int        `json:"covered"`      // how many of them, from the first on, the basis covers
	Ranges       []Range    `json:"ranges"`       // the runs of entries without a gap; at most maxRanges
	Complete     bool       `json:"complete"`     // every entry of the statement's range is there
	QueryChecked bool       `json:"queryChecked"` // every entry was seen to match the whole statement, its query included
	Times        []TimeMark `json:"times"`
	Proves       []string   `json:"proves"` // in sentences, for people
	Limits       []string   `json:"limits"` // what it does not prove
}

const (
	maxFindings = 100
	maxRanges   = 1000
)

// Finding is one contradiction.
type Finding struct {
	Where string `json:"where"`
	Index int64  `json:"index"` // of an entry, or -1
	What  string `json:"what"`
	Got   string `json:"got,omitempty"`
	Want  string `json:"want,omitempty"`
}

func (f *Finding) String() string {
	s := f.Where + ": " + f.What
	if f.Got != "" || f.Want != "" {
		s += " (found " + f.Got + ", expected " + f.Want + ")"
	}
	return s
}

// Basis is something from outside the bundle that it agrees with.
type Basis struct {
	Kind   string `json:"kind"` // "key", "checkpoint" or "policy"
	Detail string `json:"detail"`
}

// Signed is one signature line of the checkpoint.
type Signed struct {
	Name  string    `json:"name"`
	ID    string    `json:"id"`   // 8 hex
	Role  string    `json:"role"` // "log", "epoch", "witness" or "unknown"
	Good  bool      `json:"good"` // verified; false for an unknown signer, which nobody checked
	Time  time.Time `json:"time,omitzero"`
	Known bool      `json:"known"` // a witness of a policy that did not come with the bundle
}

// Keys are the keys of one epoch.
type Keys struct {
	Epoch uint64   `json:"epoch"`
	After uint64   `json:"after"` // they sign sizes above it
	VKeys []string `json:"vkeys"`
}

// Range is the entries From … To-1.
type Range struct {
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
}

// TimeMark says that somebody had seen the log's first Size entries at Time.
type TimeMark struct {
	Kind     string        `json:"kind"` // "cosignature" or "rfc3161"
	Size     uint64        `json:"size"`
	Time     time.Time     `json:"time"`
	Accuracy time.Duration `json:"accuracy"`
	Name     string        `json:"name"`
	Trusted  bool          `json:"trusted"` // by what did not come with the bundle
	Checked  bool          `json:"checked"` // false: a time stamp that this verifier cannot check
}
