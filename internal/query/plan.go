package query

import (
	"math/bits"
	"slices"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/index"
)

// A Plan is what the search index of one sealed segment knows of a query: which groups may have entries that the query
// selects, and of many groups how many entries they have. It never rules out an entry that is selected, and what it counts is
// exact, as far as the index is what the entries give. It is for one goroutine.
//
// Groups are those of the log: group k has the entries 256k … 256k+255. After an error, which says that the index is
// damaged, the plan is of no use and the segment's groups are to be read.
type Plan struct {
	x         *index.Search
	low, high uint64 // entries to look at
	first     uint64 // group of the log that is the segment's first
	root      part
	atoms     []*atom
	columns   []bool // that atoms ask for
	few       int    // so many groups in question are read rather than looked up in the dictionary, when there is something to count

	may, all index.Set // of the covered groups, see part.groups

	d     *index.Dictionary // once it is needed
	block index.Block
	has   bool // block is read
}

// A part is a node of the query, over the groups of a segment.
type part interface {
	// groups says which groups may have entries of which it holds, and of which groups it holds of all, without the
	// dictionary. all is within may.
	groups(p *Plan) (may, all index.Set)
	// lines says what is known of each entry of the group whose block is read. from is its first entry in the block.
	lines(p *Plan, g uint32, from int) (yes, may Bits)
	// shape says what is known of all entries of a shape where no group knows more. It is mixed where columns or groups decide.
	shape(p *Plan, shape int) state
}

type state uint8

const (
	none state = iota
	mixed
	all
)

// Bits has a bit for each entry of a group. Of two, yes and may, may has all bits of yes.
type Bits [index.GroupSize / 64]uint64

// Len is how many bits are set.
func (b *Bits) Len() (n int) {
	for _, w := range b {
		n += bits.OnesCount64(w)
	}
	return n
}

var everything = Bits{^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0)}

// NewPlan plans a query for the entries low … high-1 of a segment. Costs a few reads of the index.
func NewPlan(root Node, x *index.Search, low, high uint64) (*Plan, error) {
	end := x.First + uint64(x.Groups)*index.GroupSize
	p := &Plan{x: x, low: max(low, x.First), high: min(high, end), first: x.First / index.GroupSize, few: few}
	var err error
	if p.root, err = p.part(root); err != nil {
		return nil, err
	}
	p.may, p.all = p.root.groups(p)
	return p, nil
}

// state is what may and all say of a group.
func (p *Plan) state(g uint32) state { return state(btoi(p.may.Has(g)) + btoi(p.all.Has(g))) }

// nowhere and everywhere are sets of the covered groups.
func (p *Plan) nowhere() index.Set { return index.NewSet(p.x.Covered) }

func (p *Plan) everywhere() index.Set {
	s := p.nowhere()
	s.Fill(p.x.Covered)
	return s
}

// where are the sets that say of each group what hold says of it.
func (p *Plan) where(hold func(g uint32) state) (may, whole index.Set) {
	may, whole = p.nowhere(), p.nowhere()
	for g := range p.x.Covered {
		switch hold(g) {
		case all:
			whole.Add(g)
			may.Add(g)
		case mixed:
			may.Add(g)
		}
	}
	return may, whole
}

// span are the groups that have entries to look at: from … to-1.
func (p *Plan) span() (from, to uint64) {
	if p.low >= p.high {
		return p.first, p.first
	}
	return p.low / index.GroupSize, (p.high-1)/index.GroupSize + 1
}

// Groups are those that the hashed index, times and ids leave, in ascending order: a first, fast answer, where Look knows more.
func (p *Plan) Groups() (list []uint64) {
	from, to := p.span()
	list = make([]uint64, 0, p.may.Len())
	for g := range p.may.All() {
		if k := p.first + uint64(g); k >= from && k < to {
			list = append(list, k)
		}
	}
	for k := max(from, p.first+uint64(p.x.Covered)); k < to; k++ {
		list = append(list, k)
	}
	return list
}

// Look says whether group k, one of Groups, may have entries that the query selects, and how many it selects for sure.
func (p *Plan) Look(k uint64) (sure int, may bool, err error) {
	g := uint32(k - p.first)
	if g >= p.x.Covered {
		return 0, true, nil
	}
	if p.state(g) == all {
		yes := p.within(k, everything)
		return yes.Len(), true, nil
	}
	if p.may.Len()-p.all.Len() <= fewBlocks*p.few || !p.worthwhile() {
		return 0, true, nil
	}
	yes, some, err := p.look(k, g)
	return yes.Len(), some != Bits{}, err
}

// choose says which entries of group k, one of Groups, the query selects. Where sure is false the index does not know, and there
// may be others.
func (p *Plan) choose(k uint64) (yes Bits, sure bool, err error) {
	g := uint32(k - p.first)
	if g >= p.x.Covered {
		return Bits{}, false, nil
	}
	if p.state(g) == all {
		return p.within(k, everything), true, nil
	}
	if !p.worthwhile() {
		return Bits{}, false, nil
	}
	yes, may, err := p.look(k, g)
	return yes, yes == may, err
}

// within keeps the entries to look at.
func (p *Plan) within(k uint64, b Bits) Bits {
	first := k * index.GroupSize
	if first >= p.low && first+index.GroupSize <= p.high {
		return b
	}
	for i := range uint64(index.GroupSize) {
		if at := first + i; at < p.low || at >= p.high {
			b[i/64] &^= 1 << (i % 64)
		}
	}
	return b
}

const few = 4

// fewBlocks is how many times as many groups a search reads at once: their blocks take half as long as they do, and tell of most that they
// are to be read.
const fewBlocks = 4

// worthwhile says whether to read the dictionary: not where only a few groups are in question.
func (p *Plan) worthwhile() bool {
	if p.d != nil {
		return true
	}
	return p.may.Len()-p.all.Len() > p.few
}

// look reads a group's block and asks of each entry.
func (p *Plan) look(k uint64, g uint32) (yes, may Bits, err error) {
	if err := p.load(g); err != nil {
		return yes, may, err
	}
	yes, may = p.root.lines(p, g, int(g-p.block.First)*index.GroupSize)
	return p.within(k, yes), p.within(k, may), nil
}

// load reads the block of a group, unless it is the present one.
func (p *Plan) load(g uint32) error {
	if err := p.dictionary(); err != nil {
		return err
	}
	if p.has && g >= p.block.First && g < p.block.First+index.BlockGroups {
		return nil
	}
	p.has = false
	if err := p.x.Read(&p.block, g, p.columns); err != nil {
		return err
	}
	p.has = true
	return nil
}

// dictionary reads the dictionary and asks it about each condition, once.
func (p *Plan) dictionary() (err error) {
	if p.d != nil {
		return nil
	}
	d, err := p.x.Dictionary()
	if err != nil {
		return err
	}
	d.Prepare()
	p.d = d
	p.columns = make([]bool, d.Columns())
	for _, a := range p.atoms {
		a.ask(d)
		for _, c := range a.columns {
			p.columns[c.column] = true
		}
	}
	return nil
}

// Total counts the segment's entries that the query selects, apart from the groups that it returns, which are to be read.
func (p *Plan) Total() (n uint64, unsure []uint64, err error) {
	levels, unsure, err := p.tally(false)
	for _, v := range levels {
		n += v
	}
	return n, unsure, err
}

// Levels is Total by level.
func (p *Plan) Levels() (levels [entry.NumLevels]uint64, unsure []uint64, err error) {
	return p.tally(true)
}

// isWhole says whether all entries of the segment are to be looked at, and the index covers them.
func (p *Plan) isWhole() bool {
	return p.low == p.x.First && p.high == p.x.First+uint64(p.x.Groups)*index.GroupSize && p.x.Covered == p.x.Groups
}

// tally counts. Where levels do not matter all entries may count as one.
func (p *Plan) tally(byLevel bool) (levels [entry.NumLevels]uint64, unsure []uint64, err error) {
	if p.may.Len() == 0 && p.x.Covered == p.x.Groups {
		return levels, nil, nil
	}
	if p.isWhole() && (byLevel || p.worthwhile()) {
		special, err := p.special()
		if err != nil {
			return levels, nil, err
		}
		if special.Len() < int(p.x.Covered)/4 && p.byShape(&levels) {
			return p.amend(levels, special, byLevel)
		}
	}
	unsure, err = p.each(p.Groups(), func(k uint64, yes Bits) (bool, error) {
		return true, p.add(&levels, k, yes, byLevel)
	})
	return levels, unsure, err
}

// each calls count with the selected entries of each group that has some, and returns the groups of which the index does not know,
// or count returns false.
func (p *Plan) each(groups []uint64, count func(k uint64, yes Bits) (bool, error)) (unsure []uint64, err error) {
	for _, k := range groups {
		yes, sure, err := p.choose(k)
		if err != nil {
			return nil, err
		}
		if sure && yes != (Bits{}) {
			if sure, err = count(k, yes); err != nil {
				return nil, err
			}
		}
		if !sure {
			unsure = append(unsure, k)
		}
	}
	return unsure, nil
}

// special reads the dictionary, and returns the groups of which its shapes alone do not tell.
func (p *Plan) special() (index.Set, error) {
	if err := p.dictionary(); err != nil {
		return nil, err
	}
	set := index.NewSet(p.x.Covered + 1)
	for _, a := range p.atoms {
		if err := a.special(p.x, set); err != nil {
			return nil, err
		}
	}
	return set, nil
}

// byShape counts all entries by their shapes; false if shapes do not tell.
func (p *Plan) byShape(levels *[entry.NumLevels]uint64) bool {
	for i := range p.d.Shapes {
		switch p.root.shape(p, i) {
		case mixed:
			*levels = [entry.NumLevels]uint64{}
			return false
		case all:
			levels[p.d.Shapes[i].Level] += uint64(p.d.Shapes[i].Count)
		}
	}
	return true
}

// amend takes the special groups out of a count by shapes, and counts them one by one.
func (p *Plan) amend(levels [entry.NumLevels]uint64, special index.Set, byLevel bool) (_ [entry.NumLevels]uint64, unsure []uint64, err error) {
	var groups []uint64
	for g := range special.All() {
		if err := p.load(g); err != nil {
			return levels, nil, err
		}
		at := int(g-p.block.First) * index.GroupSize
		for _, s := range p.block.Shapes[at : at+index.GroupSize] {
			if p.root.shape(p, int(s)) == all {
				levels[p.d.Shapes[s].Level]--
			}
		}
		groups = append(groups[:0], p.first+uint64(g))
		if !p.may.Has(g) {
			continue
		}
		left, err := p.each(groups, func(k uint64, yes Bits) (bool, error) {
			return true, p.add(&levels, k, yes, byLevel)
		})
		if err != nil {
			return levels, nil, err
		}
		unsure = append(unsure, left...)
	}
	return levels, unsure, nil
}

// add counts entries of group k, by level if that matters.
func (p *Plan) add(levels *[entry.NumLevels]uint64, k uint64, of Bits, byLevel bool) error {
	if !byLevel {
		levels[0] += uint64(of.Len())
		return nil
	}
	at, err := p.read(k)
	if err != nil {
		return err
	}
	of.each(func(i int) {
		levels[p.d.Shapes[p.block.Shapes[at+i]].Level]++
	})
	return nil
}

// read makes the block of group k the present one, and returns its first entry in it.
func (p *Plan) read(k uint64) (at int, err error) {
	g := uint32(k - p.first)
	if err := p.load(g); err != nil {
		return 0, err
	}
	return int(g-p.block.First) * index.GroupSize, nil
}

func (b *Bits) each(visit func(i int)) {
	for i, w := range b {
		for ; w != 0; w &= w - 1 {
			visit(64*i + bits.TrailingZeros64(w))
		}
	}
}

// Buckets counts by time, in stretches of so many nanoseconds: those that begin at the keys of counts. What a group has that reaches
// over the end of a stretch is to be read.
func (p *Plan) Buckets(width int64, counts map[int64]uint64) (n uint64, unsure []uint64, err error) {
	if p.may.Len() == 0 && p.x.Covered == p.x.Groups {
		return 0, nil, nil
	}
	if err := p.dictionary(); err != nil {
		return 0, nil, err
	}
	unsure, err = p.each(p.Groups(), func(k uint64, yes Bits) (bool, error) {
		t := p.d.Times[k-p.first]
		start := t[0] - t[0]%width
		if start != t[1]-t[1]%width {
			return false, nil
		}
		counts[start] += uint64(yes.Len())
		n += uint64(yes.Len())
		return true, nil
	})
	return n, unsure, err
}

// Values counts by the values of a field, as CountBy does: missing are the entries without a value.
func (p *Plan) Values(f Field, counts map[string]uint64) (n, missing uint64, unsure []uint64, err error) {
	if p.may.Len() == 0 && p.x.Covered == p.x.Groups {
		return 0, 0, nil, nil
	}
	path, ok, err := p.column(f)
	if err != nil || !ok {
		return 0, 0, p.Groups(), err
	}
	if _, everything := p.root.(allPart); everything && p.isWhole() && path >= 0 {
		n, missing = p.wholeColumn(path, counts)
		return n, missing, nil, nil
	}
	unsure, err = p.each(p.Groups(), func(k uint64, yes Bits) (bool, error) {
		n += uint64(yes.Len())
		if path < 0 {
			missing += uint64(yes.Len())
			return true, nil
		}
		at, err := p.read(k)
		if err != nil {
			return false, err
		}
		var entries [256]uint32 // by tuple plus one
		tuples := p.block.Tuples[p.d.Paths[path].Column-1]
		yes.each(func(i int) { entries[tuples[at+i]]++ })
		missing += p.addTuples(path, func(t int) uint64 { return uint64(entries[t]) }, counts) + uint64(entries[0])
		return true, nil
	})
	return n, missing, unsure, err
}

// column is the path of a field, and asks for its column. ok is false where the index does not have the values of every entry;
// the path is below 0 where no entry has it.
func (p *Plan) column(f Field) (path int, ok bool, err error) {
	if err := p.dictionary(); err != nil {
		return 0, false, err
	}
	kind, isPath := kindOfPath[f.Root]
	if !isPath || f.Root != Metadata && f.Path != "" {
		return 0, false, nil
	}
	if slices.ContainsFunc(p.d.Shapes, func(s index.Shape) bool { return s.Keys == 0 }) {
		return 0, false, nil
	}
	path = slices.IndexFunc(p.d.Paths, func(at index.Path) bool { return at.Kind == kind && at.Name == f.Path })
	if path < 0 {
		return path, true, nil
	}
	column := p.d.Paths[path].Column - 1
	if column < 0 {
		return 0, false, nil
	}
	if !p.columns[column] {
		p.columns[column], p.has = true, false
	}
	return path, true, nil
}

// wholeColumn counts all entries of the segment by their values at a column.
func (p *Plan) wholeColumn(path int, counts map[string]uint64) (n, missing uint64) {
	for i := range p.d.Shapes {
		n += uint64(p.d.Shapes[i].Count)
	}
	tuples := p.d.Paths[path].Tuples
	missing = n
	for i := range tuples {
		missing -= min(missing, uint64(tuples[i].Count))
	}
	return n, missing + p.addTuples(path, func(t int) uint64 { return uint64(tuples[t-1].Count) }, counts)
}

// addTuples counts the values of tuples, of which there are so many by their number plus one. It returns how many have none.
func (p *Plan) addTuples(path int, entries func(t int) uint64, counts map[string]uint64) (without uint64) {
	for t, tuple := range p.d.Paths[path].Tuples {
		n := entries(t + 1)
		if n == 0 {
			continue
		}
		none := true
		for i, v := range tuple.Values {
			if v.Kind.IsScalar() && !slices.ContainsFunc(tuple.Values[:i], func(o index.Value) bool { return o.Kind.IsScalar() && o.Text == v.Text }) {
				counts[v.Text] += n
			}
			none = none && !v.Kind.IsScalar()
		}
		if none {
			without += n
		}
	}
	return without
}

type andPart []part

type orPart []part

type notPart struct{ part }

type allPart struct{}

// part makes the parts of a node.
func (p *Plan) part(n Node) (part, error) {
	list := func(nodes []Node) (parts []part, err error) {
		for _, sub := range nodes {
			s, err := p.part(sub)
			if err != nil {
				return nil, err
			}
			parts = append(parts, s)
		}
		return parts, nil
	}
	switch n := n.(type) {
	case All:
		return allPart{}, nil
	case And:
		parts, err := list(n.Nodes)
		return andPart(parts), err
	case Or:
		parts, err := list(n.Nodes)
		return orPart(parts), err
	case Not:
		sub, err := p.part(n.Node)
		return notPart{sub}, err
	}
	return p.atom(n)
}

func (allPart) groups(p *Plan) (may, whole index.Set) { return p.everywhere(), p.everywhere() }
func (allPart) lines(*Plan, uint32, int) (Bits, Bits) { return everything, everything }
func (allPart) shape(*Plan, int) state                { return all }
func (n andPart) shape(p *Plan, i int) state {
	return n.each(func(s part) state { return s.shape(p, i) })
}

func (n orPart) shape(p *Plan, i int) state {
	return n.each(func(s part) state { return s.shape(p, i) })
}
func (n notPart) shape(p *Plan, i int) state { return all - n.part.shape(p, i) }

func (n andPart) groups(p *Plan) (may, whole index.Set) {
	may, whole = p.everywhere(), p.everywhere()
	for _, s := range n {
		m, w := s.groups(p)
		may.And(m)
		whole.And(w)
	}
	return may, whole
}

func (n orPart) groups(p *Plan) (may, whole index.Set) {
	may, whole = p.nowhere(), p.nowhere()
	for _, s := range n {
		m, w := s.groups(p)
		may.Or(m)
		whole.Or(w)
	}
	return may, whole
}

func (n notPart) groups(p *Plan) (may, whole index.Set) {
	m, w := n.part.groups(p)
	may, whole = p.everywhere(), p.everywhere()
	may.Without(w)
	whole.Without(m)
	return may, whole
}

func (n andPart) each(of func(part) state) state {
	least := all
	for _, s := range n {
		if least = min(least, of(s)); least == none {
			break
		}
	}
	return least
}

func (n orPart) each(of func(part) state) state {
	most := none
	for _, s := range n {
		if most = max(most, of(s)); most == all {
			break
		}
	}
	return most
}

func (n andPart) lines(p *Plan, g uint32, from int) (yes, may Bits) {
	yes, may = everything, everything
	for _, s := range n {
		y, m := s.lines(p, g, from)
		for i := range y {
			yes[i] &= y[i]
			may[i] &= m[i]
		}
		if may == (Bits{}) {
			break
		}
	}
	return yes, may
}

func (n orPart) lines(p *Plan, g uint32, from int) (yes, may Bits) {
	for _, s := range n {
		y, m := s.lines(p, g, from)
		for i := range y {
			yes[i] |= y[i]
			may[i] |= m[i]
		}
	}
	return yes, may
}

func (n notPart) lines(p *Plan, g uint32, from int) (yes, may Bits) {
	y, m := n.part.lines(p, g, from)
	for i := range y {
		yes[i], may[i] = ^m[i], ^y[i]
	}
	return yes, may
}
