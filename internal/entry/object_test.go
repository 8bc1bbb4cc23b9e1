package entry

// AppendObject is what Append does with raw metadata, by itself: it appends the JSON object raw without its whitespace and otherwise byte for byte. It refuses what the
// format refuses inside metadata, and more than MaxLine bytes; dst is then returned as it was.
func AppendObject(dst, raw []byte) ([]byte, error) {
	out, err := appendRaw(dst, raw, len(dst)+MaxLine, 1, true)
	if err != nil {
		return dst, err
	}
	return out, nil
}
