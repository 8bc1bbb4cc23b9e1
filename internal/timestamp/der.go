package timestamp

import (
	"errors"
	"fmt"
)

// maxDepth bounds nesting. A stamp with its certificates needs about fifteen.
const maxDepth = 32

// checkDER says whether b is one DER value, outside strings: lengths definite and in their shortest form, tags of one byte.
// The library takes BER too, which has as many spellings as one likes and takes quadratic work to nest.
func checkDER(b []byte) error {
	if len(b) > MaxSize {
		return fmt.Errorf("%d bytes, at most %d", len(b), MaxSize)
	}
	var ends [maxDepth]int // where the values that are open end
	depth, p := 0, 0
	for {
		end, constructed, content, err := header(b, p)
		if err != nil {
			return fmt.Errorf("byte %d: %w", p, err)
		}
		limit := len(b)
		if depth > 0 {
			limit = ends[depth-1]
		}
		if end > limit || depth == 0 && end != limit {
			return fmt.Errorf("byte %d: a value that ends at %d, want one that ends at %d at most and nothing after the first", p, end, limit)
		}
		if p = end; constructed {
			if depth == maxDepth {
				return fmt.Errorf("byte %d: nested deeper than %d", content, maxDepth)
			}
			ends[depth] = end
			depth, p = depth+1, content
		}
		for depth > 0 && p == ends[depth-1] {
			depth--
		}
		if depth == 0 {
			return nil
		}
	}
}

// header reads tag and length at p.
func header(b []byte, p int) (end int, constructed bool, content int, err error) {
	if len(b)-p < 2 {
		return 0, false, 0, errors.New("the value is cut off")
	}
	tag, n := b[p], int(b[p+1])
	if tag&0x1f == 0x1f {
		return 0, false, 0, errors.New("a tag of more than one byte")
	}
	content = p + 2
	if n >= 0x80 {
		size := n - 0x80
		if size < 1 || size > 3 || len(b)-content < size {
			return 0, false, 0, errors.New("an indefinite, oversized or cut length; DER is wanted")
		}
		n = 0
		for _, c := range b[content : content+size] {
			n = n<<8 | int(c)
		}
		if content += size; n < 0x80 || n>>(8*(size-1)) == 0 {
			return 0, false, 0, errors.New("a length that is not in its shortest form; DER is wanted")
		}
	}
	if n > len(b)-content {
		return 0, false, 0, fmt.Errorf("a value of %d bytes, where %d are left", n, len(b)-content)
	}
	return content + n, tag&0x20 != 0, content, nil
}
