package capture

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Text is s as an entry can hold it, with at most limit bytes of it: invalid UTF-8 becomes U+FFFD, and what is cut off is said.
func Text(s string, limit int) string {
	cut := 0
	if len(s) > limit {
		cut = len(s)
		s = s[:limit]
		for i := 0; i < utf8.UTFMax-1 && s != ""; i++ { // a character is not cut in two
			if r, n := utf8.DecodeLastRuneInString(s); r != utf8.RuneError || n != 1 {
				break
			}
			s = s[:len(s)-1]
		}
	}
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	if cut > 0 {
		return fmt.Sprintf("%s… (%d bytes)", s, cut)
	}
	return s
}
