package fsck

import (
	"fmt"

	"github.com/tree-of-life-system/immutable/internal/segment"
	"github.com/tree-of-life-system/immutable/proof"
)

// raw reads an open or pending segment and joins its entries below next, which the segment after it begins with; what the file
// holds beyond is repeated there, and its hashes at the end become a claim about that one.
func (j *joiner) raw(r *rawFile, next uint64) error {
	c := j.c
	if r.err != nil {
		c.fault(r.name, -1, r.err, hintRepair)
		j.lost = true
		return nil //nolint:nilerr // the finding says it; the check goes on
	}
	if !j.begin(r.name, r.first, r.chain) {
		j.lost = true
		return nil
	}
	if !j.rootOK {
		c.note(Finding{File: r.name, Offset: -1, Index: int64(r.first), What: "was not checked, because the tree before it is not known"})
		j.lost = true
		return nil
	}
	l := c.lines(true)
	tail, end, err := j.scan(r, func(b *segment.Batch) {
		n := int(min(uint64(len(b.Lines)), next-min(next, b.First)))
		if n == 0 {
			return
		}
		l.reset(r.name)
		l.time, l.timeOK = j.time, j.timeOK && j.size > 0
		offset := b.Offset
		for i, text := range b.Lines[:n] {
			l.check(b.First+uint64(i), text, offset, -1)
			offset += int64(len(text)) + 1
		}
		j.register(l.controls)
		j.verifySigned(l.signed)
		j.take(&l, b.Offset)
		j.add(b.Leaves[:n], nil)
		j.progress(b.End - b.Offset)
	})
	if err != nil {
		return j.rawError(r, err)
	}
	c.rep.Segments++
	c.addBytes(r.length)
	if end.size > next {
		j.repeat(r, end)
	}
	j.checkTail(r, tail)
	return nil
}

// shadow reads a pending segment that also has an archive, which counts. The file must hold the same entries all the same.
func (j *joiner) shadow(r *rawFile) error {
	if r.err != nil || r.first != j.size || !j.rootOK || !j.chainOK {
		if r.err != nil {
			j.c.fault(r.name, -1, r.err, "its archive counts")
		}
		return nil
	}
	if r.chain != j.chain {
		j.c.find(Finding{File: r.name, Offset: 0, Index: int64(r.first), What: "the chain hash in the segment line is not that of the entries before it", Got: r.chain.String(), Want: j.chain.String()})
		return nil
	}
	tail, end, err := j.scan(r, func(*segment.Batch) {})
	if err != nil {
		return j.rawError(r, err)
	}
	j.c.addBytes(r.length)
	if end.size > r.first {
		j.repeat(r, end)
	}
	j.checkTail(r, tail)
	if tail.Length == 0 {
		j.twin, j.twinEnd = r, end.size
	}
	return nil
}

// An edge is the state after a file's last batch.
type edge struct {
	size        uint64
	chain, root proof.Hash
}

func (j *joiner) scan(r *rawFile, visit func(*segment.Batch)) (segment.Tail, edge, error) {
	end := edge{size: j.size}
	f := j.f
	tail, err := segment.Scan(j.c.ctx, r.file, r.start, r.length, j.chain, &f, func(b *segment.Batch) error {
		visit(b)
		end = edge{b.Size, b.Chain, b.Root}
		return nil
	})
	return tail, end, err
}

// rawError tells the context's end from a file that cannot be read.
func (j *joiner) rawError(r *rawFile, err error) error {
	if ctxErr := j.c.ctx.Err(); ctxErr != nil {
		return ctxErr
	}
	j.c.fault(r.name, -1, err, "")
	j.lost = true
	return nil
}

// repeat claims that the segments after this one hold the same entries as this one up to its end.
func (j *joiner) repeat(r *rawFile, end edge) {
	f := Finding{File: r.name, Offset: r.length, Index: int64(r.first), What: fmt.Sprintf("its entries below %d are not the ones that the log holds", end.size)}
	short := f
	short.What = fmt.Sprintf("holds entries below %d, and the segments after it do not", end.size)
	j.claim(&claim{size: end.size, root: end.root, chain: &end.chain, file: r.name, offset: r.length, inside: true, differs: f, short: short})
}

// checkTail judges what follows the last valid commit line.
func (j *joiner) checkTail(r *rawFile, t segment.Tail) {
	if t.Length == 0 {
		return
	}
	c := j.c
	f := Finding{File: r.name, Offset: t.At, Index: int64(j.size), What: t.Reason, Got: t.Got, Want: t.Want}
	switch {
	case r.name != openName:
		f.What += ": a pending segment ends with a commit line"
	case t.Length > segment.MaxBatchBytes:
		f.What += fmt.Sprintf(", and the %d bytes after the last valid commit line are more than a batch", t.Length)
	case t.CommitInside:
		f.What += fmt.Sprintf(", and a commit line after offset %d is not the end: no crash leaves that", t.Offset)
	case c.head != nil && c.head.Size > j.size:
		f.What += fmt.Sprintf(", and this host's head says that entries below %d were durable", c.head.Size)
	default:
		f.Offset = t.Offset
		f.Got, f.Want = fmt.Sprintf("%d bytes with SHA-256 %x", t.Length, t.SHA256), "the end of the file"
		f.What = "an incomplete batch follows the last valid commit line: " + t.Reason
		c.leftover(f)
		return
	}
	f.Hint = "damage or tampering; the entries before it stand"
	c.find(f)
}
