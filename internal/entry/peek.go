package entry

import "bytes"

// Offsets of the members with a fixed place in every line; Append writes them there. They follow from the format.
const (
	idAt    = len(`{"id":"`)
	timeAt  = idAt + 36 + len(`","timestamp":"`)
	levelAt = timeAt + 30 + len(`","level":"`)
)

// ContentAt is where in every line the value of the level begins. What the source said stands from there on.
const ContentAt = levelAt

// Peek reads timestamp and level of a line from their fixed places, without checking the rest. It is for lines that a
// hash has proven; ok is false where the places do not hold them.
func Peek(line []byte) (unixNano int64, level Level, ok bool) {
	if len(line) < levelAt+len(`SECURITY"`) {
		return 0, 0, false
	}
	unixNano, err := ParseTime(line[timeAt : timeAt+30])
	if err != nil {
		return 0, 0, false
	}
	name := line[levelAt : levelAt+len(`SECURITY"`)]
	before, _, ok0 := bytes.Cut(name, []byte{'"'})
	if !ok0 {
		return 0, 0, false
	}
	for l := range Level(NumLevels) {
		if string(before) == l.String() {
			return unixNano, l, true
		}
	}
	return 0, 0, false
}
