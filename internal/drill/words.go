package drill

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
