package entry

import "strings"

// Level is the kind of an entry. The numbers are part of the index format; never change.
type Level uint8

// The levels in the order of the format.
const (
	Info Level = iota
	Warn
	Error
	Critical
	Audit
	Security
	Revenue
	System

	NumLevels = 8
)

var levelNames = [NumLevels]string{"INFO", "WARN", "ERROR", "CRITICAL", "AUDIT", "SECURITY", "REVENUE", "SYSTEM"}

func (l Level) String() string {
	if l < NumLevels {
		return levelNames[l]
	}
	return "Level(" + string(appendUint(nil, uint64(l))) + ")"
}

// ParseLevel reads a level's name in any mix of ASCII cases.
func ParseLevel(name string) (Level, error) {
	for l, want := range levelNames {
		if equalFold(name, want) {
			return Level(l), nil
		}
	}
	if len(name) > 40 {
		name = name[:40] + "…"
	}
	return 0, fault("level", -1, "no level "+quoted(name)+"; levels are "+strings.Join(levelNames[:], " "))
}

// equalFold compares with upper-case ASCII. strings.EqualFold would also take ſ for S.
func equalFold(s, upper string) bool {
	if len(s) != len(upper) {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' {
			c -= 'a' - 'A'
		}
		if c != upper[i] {
			return false
		}
	}
	return true
}

// scanLevel recognises the level's name and closing quote at p.
func scanLevel(line []byte, p int) (l Level, end int) {
	if p >= len(line) {
		return NumLevels, p
	}
	switch line[p] {
	case 'I':
		l = Info
	case 'W':
		l = Warn
	case 'E':
		l = Error
	case 'C':
		l = Critical
	case 'A':
		l = Audit
	case 'R':
		l = Revenue
	case 'S':
		l = System
		if hasAt(line, p, "SE") {
			l = Security
		}
	default:
		return NumLevels, p
	}
	name := levelNames[l]
	end = p + len(name)
	if !hasAt(line, p, name) || end >= len(line) || line[end] != '"' {
		return NumLevels, p
	}
	return l, end + 1
}
