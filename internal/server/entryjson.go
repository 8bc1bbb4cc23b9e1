package server

import (
	"strconv"

	"github.com/tree-of-life-system/immutable"
)

// appendEntry appends an entry as JSON: its index and leaf hash, then the members of its line as they were hashed. The line is
// what stands behind the leaf, with the brace that begins it.
func appendEntry(dst []byte, e *immutable.Entry) []byte {
	dst = strconv.AppendUint(append(dst, `{"index":`...), e.Index, 10)
	dst = appendHash(append(dst, `,"leaf":"`...), &e.Leaf)
	dst = append(dst, `",`...)
	return append(dst, e.Line[1:]...)
}

// appendReceipt appends the members of a receipt, without braces.
func appendReceipt(dst []byte, r *immutable.Receipt) []byte {
	dst = strconv.AppendUint(append(dst, `"index":`...), r.Index, 10)
	dst = append(append(dst, `,"id":"`...), r.ID[:]...)
	dst = appendHash(append(dst, `","hash":"`...), &r.Hash)
	dst = appendHash(append(dst, `","leaf":"`...), &r.Leaf)
	dst = append(dst, `","timestamp":"`...)
	dst = append(r.Timestamp.UTC().AppendFormat(dst, timeLayout), '"')
	if r.Repeated {
		dst = append(dst, `,"repeated":true`...)
	}
	return dst
}

func appendHash(dst []byte, h *immutable.Hash) []byte {
	const digits = "0123456789abcdef"
	for _, b := range h {
		dst = append(dst, digits[b>>4], digits[b&15])
	}
	return dst
}
