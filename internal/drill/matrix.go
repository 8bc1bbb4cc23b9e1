package drill

import (
	"strings"

	"github.com/tree-of-life-system/immutable"
)

// A row of the matrix is an attack and what each verifier must say of it.
type row struct {
	name   string
	powers string // what the attacker has, in one sentence
	why    string // in plain words
	want   [numKnowledge]Outcome
	says   string // what the first finding says, where it is refuted; alternatives are separated by |
	do     func(t *target) error
	verify func(t *target, k Knowledge) (Outcome, string, error) // nil: the directory is verified
}

// contains says whether a text has one of the alternatives in it.
func contains(text, alternatives string) bool {
	for alternative := range strings.SplitSeq(alternatives, "|") {
		if strings.Contains(text, alternative) {
			return true
		}
	}
	return false
}

// said is the first of what a verifier found.
func said(list []immutable.Finding) string {
	if len(list) == 0 {
		return ""
	}
	return list[0].String()
}

var everybody = [numKnowledge]Outcome{Refuted, Refuted, Refuted, Refuted, Refuted}

var matrix = []row{}
