package intake

// ParseLine reads one line of JSON Lines as Reader does: an event of ours, or any other object, which becomes the metadata.
// The event refers to line.
func ParseLine(line []byte, o *Options) Record {
	r := Record{Number: 1}
	if len(line) > maxRecord {
		r.Err = tooLong("line")
		return r
	}
	p := parser{o: o}
	p.object(&r, line, false)
	if r.Err == nil {
		r.Err = Check(&r.Event)
	}
	return r
}
