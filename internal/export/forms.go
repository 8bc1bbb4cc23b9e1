package export

import (
	"bytes"
	"encoding/json"
	"strconv"

	"github.com/tree-of-life-system/immutable/internal/siem"
)

// copied is one event of a copy, whatever it came in.
type copied struct {
	bad     string // why it is none; nothing else is set then
	mark    Mark
	mapping int             // of ocsf and ecs
	format  string          // ocsf or ecs; "" is our own
	content json.RawMessage // the entry; nil where the event does not carry it
	whole   json.RawMessage // the event
}

// maxWrapped is how deep events may be wrapped: a document of a search engine around a webhook's body around an event.
const maxWrapped = 3

// read compares the events of a line: an event; a message of syslog that ends in one; a body of our webhooks; OTLP as JSON, as
// collectors write it; a document that a search engine has wrapped in _source.
func (c *copyChecker) read(line []byte, depth int) error {
	line = bytes.TrimSpace(line)
	if at := bytes.Index(line, []byte(`{"`)); at > 0 && line[0] != '{' {
		line = line[at:] // the header of syslog, or what a collector put in front
	}
	var o map[string]json.RawMessage
	if err := json.Unmarshal(line, &o); err != nil {
		return c.event(&copied{bad: "the event is no JSON object: " + err.Error()})
	}
	for _, inner := range wrapped(o) {
		if depth == maxWrapped {
			return c.event(&copied{bad: "the event is wrapped too deeply"})
		}
		if err := c.read(inner, depth+1); err != nil {
			return err
		}
	}
	if isWrapping(o) {
		return nil
	}
	return c.event(eventOf(o, line))
}

func isWrapping(o map[string]json.RawMessage) bool {
	var kind string
	return o["_source"] != nil || o["resourceLogs"] != nil || json.Unmarshal(o["type"], &kind) == nil && kind == "log.entries" && o["data"] != nil
}

// wrapped are the events within an object that is none itself.
func wrapped(o map[string]json.RawMessage) []json.RawMessage {
	switch {
	case !isWrapping(o):
		return nil
	case o["_source"] != nil:
		return []json.RawMessage{o["_source"]}
	case o["resourceLogs"] != nil:
		return otlpBodies(o["resourceLogs"])
	}
	var data struct {
		Events []json.RawMessage `json:"events"`
	}
	if json.Unmarshal(o["data"], &data) != nil {
		return []json.RawMessage{o["data"]} // which is no event, and is found to be none
	}
	return data.Events
}

func otlpBodies(data json.RawMessage) []json.RawMessage {
	var logs []struct {
		ScopeLogs []struct {
			LogRecords []struct {
				Body struct {
					StringValue string `json:"stringValue"`
				} `json:"body"`
			} `json:"logRecords"`
		} `json:"scopeLogs"`
	}
	if json.Unmarshal(data, &logs) != nil {
		return []json.RawMessage{data}
	}
	var out []json.RawMessage
	for _, r := range logs {
		for _, s := range r.ScopeLogs {
			for _, l := range s.LogRecords {
				out = append(out, json.RawMessage(l.Body.StringValue))
			}
		}
	}
	return out
}

// eventOf finds the mark of an event, and the entry in it.
func eventOf(o map[string]json.RawMessage, whole json.RawMessage) *copied {
	x := &copied{whole: whole}
	if own := o[Member]; own != nil {
		if err := json.Unmarshal(own, &x.mark); err != nil {
			return &copied{bad: "the event does not say which entry it is: its member " + Member + ": " + err.Error()}
		}
		x.content = o["entry"]
		return x
	}
	if m, ok := ocsfMark(o); ok {
		x.format, x.mark, x.mapping = "ocsf", Mark{m.Origin, m.Index, m.Leaf, m.Size}, m.Mapping
		x.content = unquoted(o["raw_data"])
		return x
	}
	if m, ok := ecsMark(o); ok {
		x.format, x.mark, x.mapping = "ecs", Mark{m.Origin, m.Index, m.Leaf, m.Size}, m.Mapping
		var ev map[string]json.RawMessage
		if json.Unmarshal(o["event"], &ev) == nil {
			x.content = unquoted(ev["original"])
		}
		return x
	}
	return &copied{bad: "the event does not say which entry it is (no member " + Member + ", unmapped." + Member + " or labels." + siem.LabelIndex + ")"}
}

func ocsfMark(o map[string]json.RawMessage) (m siem.Mark, ok bool) {
	var unmapped map[string]json.RawMessage
	if json.Unmarshal(o["unmapped"], &unmapped) != nil || unmapped[Member] == nil {
		return m, false
	}
	return m, json.Unmarshal(unmapped[Member], &m) == nil
}

func ecsMark(o map[string]json.RawMessage) (m siem.Mark, ok bool) {
	var labels map[string]string
	if json.Unmarshal(o["labels"], &labels) != nil || labels[siem.LabelOrigin] == "" {
		return m, false
	}
	index, err := strconv.ParseUint(labels[siem.LabelIndex], 10, 64)
	if err != nil {
		return m, false
	}
	m = siem.Mark{Origin: labels[siem.LabelOrigin], Index: index, Leaf: labels[siem.LabelLeaf]}
	m.Size, _ = strconv.ParseUint(labels[siem.LabelSize], 10, 64) // what is no number differs from what the entry becomes
	m.Mapping, _ = strconv.Atoi(labels[siem.LabelMapping])
	return m, true
}

// unquoted is the text of a JSON string that holds JSON; nil where there is none.
func unquoted(data json.RawMessage) json.RawMessage {
	var s string
	if data == nil || json.Unmarshal(data, &s) != nil || s == "" {
		return nil
	}
	return json.RawMessage(s)
}

// MarkOf is the mark of one event in one of our formats.
func MarkOf(line []byte) (Mark, bool) {
	var o map[string]json.RawMessage
	if json.Unmarshal(line, &o) != nil {
		return Mark{}, false
	}
	x := eventOf(o, line)
	return x.mark, x.bad == ""
}
