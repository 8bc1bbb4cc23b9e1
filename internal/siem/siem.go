// Package siem writes entries as other systems want them: events of the Open Cybersecurity Schema Framework (OCSF 1.9) and
// documents of the Elastic Common Schema (ECS). Both carry which entry it is and its exact line, so that a copy elsewhere can be
// compared with the log. Pure: the same entry is always written the same way. docs/sinks.md has the tables.
package siem

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/event"
)

// Mapping is the version of the mapping, which each event says. A copy that another version wrote is compared by its line alone.
const Mapping = 1

const (
	product  = "Immutable"
	unknown  = "unknown" // where a schema demands a value that the source did not give
	maxExtra = 8 << 10   // bytes of further metadata that are written beside the line, which has all of it
)

// Mark says which entry an event is.
type Mark struct {
	Origin  string `json:"origin"`
	Index   uint64 `json:"index"`
	Leaf    string `json:"leaf"`           // hex
	Size    uint64 `json:"size,omitempty"` // of the newest signed checkpoint when the event left; 0 where there was none
	Mapping int    `json:"mapping"`
}

func (m Mark) of(e *immutable.Entry) Mark {
	m.Index, m.Leaf, m.Mapping = e.Index, e.Leaf.String(), Mapping
	return m
}

// members is a JSON object that is being made. What is empty is left out.
type members map[string]any

func (m members) text(name, value string) {
	if value != "" {
		m[name] = value
	}
}

func (m members) object(name string, o members) {
	if len(o) > 0 {
		m[name] = o
	}
}

// line appends an object as one line of JSON.
func (m members) line(dst []byte, e *immutable.Entry) ([]byte, error) {
	b := bytes.NewBuffer(dst)
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(m); err != nil {
		return dst, fmt.Errorf("entry %d: %w", e.Index, err)
	}
	return b.Bytes(), nil
}

// source is an entry as both mappings read it.
type source struct {
	e *immutable.Entry
	event.Shape
}

// read takes the common shape from the entry's metadata. What has another form there is in the line all the same.
func read(e *immutable.Entry) *source {
	s := &source{e: e}
	s.Shape, _ = event.Parse(e.Metadata)
	if s.Actor == nil {
		s.Actor = &event.Actor{}
	}
	if s.Target == nil {
		s.Target = &event.Target{}
	}
	if s.Source == nil {
		s.Source = &event.Source{}
	}
	if s.Request == nil {
		s.Request = &event.Request{}
	}
	if s.Action == "" && e.Control != nil {
		s.Kind, s.Action = event.KindLog, "log.control"
	}
	return s
}

// extra is further metadata, without the bytes that the event was made of; nil where it is too much to write twice.
func (s *source) extra() json.RawMessage {
	f := immutable.Fields{}
	for k, v := range s.Extra {
		switch k {
		case event.KeyRaw, event.KeyRaw64, event.KeyRawSHA256, event.KeyRawBytes, event.KeyRawHead:
		default:
			f[k] = v
		}
	}
	if len(f) == 0 {
		return nil
	}
	data, err := json.Marshal(f)
	if err != nil || len(data) > maxExtra {
		return nil
	}
	return data
}

// ip is the source's address, if it is one.
func (s *source) ip() string {
	a, err := netip.ParseAddr(s.Source.IP)
	if err != nil || a.Zone() != "" {
		return ""
	}
	return a.Unmap().String()
}

func (s *source) port() int {
	if p := s.Source.Port; p > 0 && p < 65536 {
		return p
	}
	return 0
}

var emailForm = regexp.MustCompile(`^[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+\.[A-Za-z0-9.-]+$`)

func email(s string) string {
	if len(s) <= 254 && emailForm.MatchString(s) {
		return s
	}
	return ""
}

// traceID is the entry's, or that of the request that it was part of.
func (s *source) traceID() string { return or(s.e.TraceID, s.Request.TraceID) }

// verb is the last word of the action.
func (s *source) verb() string {
	return s.Action[strings.LastIndexByte(s.Action, '.')+1:]
}

// or is the first of them that is not empty.
func or(all ...string) string {
	for _, s := range all {
		if s != "" {
			return s
		}
	}
	return ""
}
