// Package query is the query language: one text, one parser, one meaning for library, command and whatever else selects
// entries. docs/search.md describes it for people.
//
// The texts of an entry are its decoded message and each scalar in its metadata, at any depth: strings decoded, numbers as
// spelled, true and false; null is no text. Words are those of index.Words, and "folded" is index.Fold.
package query

import (
	"regexp"
	"time"
)

// A Node is one condition on an entry. The types of this file are all there are; Parse makes them, in the form that
// each describes, and no other form.
type Node interface{ isNode() }

// All is what an empty query says: every entry.
type All struct{}

// And holds where each of at least two nodes does. None of them is an And or All.
type And struct{ Nodes []Node }

// Or holds where one of at least two nodes does. None of them is an Or.
type Or struct{ Nodes []Node }

// Not holds where its node does not.
type Not struct{ Node Node }

// Phrase holds where one text has the words one after the other, with no word between them.
type Phrase struct {
	In    *Field   // only this field's text: always message; nil means any text
	Words []string // folded, at least one
	Begin bool     // of the last word only the beginning is given: pay*
}

// Substring holds where a text, folded, contains Text.
type Substring struct {
	In   *Field // nil means any text
	Text string // folded, not empty
}

// Regexp holds where a text, as it is, has a match.
type Regexp struct {
	In     *Field // nil means any text
	Source string
	Re     *regexp.Regexp
}

// Equal holds where a scalar of the field, folded, is Text. Of level it is one of the eight names, folded. Of timestamp,
// eventTime, index and pid there is none, but a Compare with Eq.
type Equal struct {
	Field Field
	Text  string // folded; may be empty
}

// Begins holds where a scalar of the field, folded, begins with Text: the whole value's beginning, not a word's.
type Begins struct {
	Field Field
	Text  string // folded, not empty
}

// Compare holds where a scalar of the field compares so with the operand: with a number, JSON numbers and strings that
// spell a JSON number, by exact decimal value; with a time, strings in RFC 3339 form. Others do not hold.
type Compare struct {
	Field   Field
	Op      Op
	Operand Operand
}

// Range holds where a scalar of the field is From or above, and To or below. Both operands are of one kind.
type Range struct {
	Field    Field
	From, To Operand
}

// Exists holds where the field is there and is not null.
type Exists struct{ Field Field }

// Since holds where the timestamp is at or after At.From.
type Since struct{ At Operand }

// Until holds where the timestamp is before At.From.
type Until struct{ At Operand }

// Op is how Compare compares.
type Op uint8

const (
	Eq Op = iota
	Ge
	Gt
	Le
	Lt
)

// An Operand is a number or a time.
type Operand struct {
	IsTime bool
	Number Decimal
	// The moments that the text means: a date means its whole day, from its first to its last nanosecond, others one
	// moment. >= and < look at From, > and <= at To, = at both.
	From, To time.Time
	Text     string // canonical spelling; relative times stay relative
}

// Root is where a field's path begins.
type Root uint8

const (
	Metadata Root = iota
	Level
	Message
	Hostname
	PID
	ID
	Index
	TraceID
	SpanID
	EventTime
	Timestamp
	IdempotencyKey
	Producer // Path names a member of it; Exists alone may have none
	Control  // as Producer
)

// A Field names a place in an entry. Path is that of index.Walker: the decoded member names on the way joined by '.', the
// elements of an array under the array's own path. So a.b is b in the object a, and the member "a.b" as well.
type Field struct {
	Root Root
	Path string // within metadata, producer and control
}

func (All) isNode()       {}
func (And) isNode()       {}
func (Or) isNode()        {}
func (Not) isNode()       {}
func (Phrase) isNode()    {}
func (Substring) isNode() {}
func (Regexp) isNode()    {}
func (Equal) isNode()     {}
func (Begins) isNode()    {}
func (Compare) isNode()   {}
func (Range) isNode()     {}
func (Exists) isNode()    {}
func (Since) isNode()     {}
func (Until) isNode()     {}

// A Query is a parsed query.
type Query struct {
	Root Node
	Now  time.Time // what relative times were resolved against
}
