package drill

import (
	"fmt"
	"strings"
)

// Words for the outcomes, for people: a mark that does not need colour, and a word.
var outcomeWords = map[Outcome]string{
	Refuted: "✓ refuted", NotTold: "✓ unknown", Incomplete: "✓ incomplete", Clock: "✓ clock", Uncovered: "~ uncovered", Shorter: "~ shorter", Unseen: "– not seen", NoSuch: "n/a",
}

// Word is the outcome for people.
func (o Outcome) Word() string { return outcomeWords[o] }

// Legend explains the words.
const Legend = `✓ refuted: found, with the place. ✓ unknown: not called proven; a crash could have left it. ✓ incomplete: the log stands, and what a
source sent is missing or bad. ✓ clock: the log stands, and timestamps contradict outsiders. ~ uncovered: proven, except the last
entries, and the report says from where. ~ shorter: proven, and it ends too early: only who knows that there was more sees it.
– not seen: with this knowledge nobody can see it.`

// Columns are what the verifiers know, in order, for people.
var Columns = [...]string{"directory", "head", "key", "receipt", "witnesses"}

// Page is the matrix in Markdown.
func Page() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d attacks, as `immutable drill` carries them out. Each verifier has the directory, and: nothing | this host's head | the keys of epoch 0 |\n", len(matrix))
	b.WriteString("the receipts of the last appends and a checkpoint of some time ago | a policy, what its witnesses saw last, and the roots of the time authority.\n\n")
	b.WriteString(Legend + "\n\n")
	b.WriteString("| attack | the attacker | " + strings.Join(Columns[:], " | ") + " | why |\n|---|---|---|---|---|---|---|---|\n")
	for i := range matrix {
		r := &matrix[i]
		fmt.Fprintf(&b, "| %s | %s |", r.name, r.powers)
		for _, o := range r.want {
			fmt.Fprintf(&b, " %s |", o.Word())
		}
		fmt.Fprintf(&b, " %s |\n", r.why)
	}
	return b.String()
}
