package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
)

// MaxFile is how large a configuration file may be, in bytes.
const MaxFile = 1 << 20

const maxValue = 4096 // bytes of one value

// readFile takes one YAML document: a mapping of our keys. Anchors, aliases, tags and merges are refused: nothing here is
// long enough to need them, and what a file says must be readable where it stands.
func (c *Config) readFile(name string, data []byte) error {
	if len(data) > MaxFile {
		return fmt.Errorf("%s: %d bytes, a configuration file has at most %d", name, len(data), MaxFile)
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	switch err := d.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil // nothing but comments
	case err != nil:
		return fmt.Errorf("%s: %s", name, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	switch err := d.Decode(&more); {
	case err == nil:
		return at(name, &more, "a second document; a configuration is one")
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("%s: %s", name, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if len(doc.Content) != 1 {
		return fmt.Errorf("%s: want one mapping of keys", name)
	}
	if root := doc.Content[0]; root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return nil
	}
	return c.section(name, "", doc.Content[0])
}

func at(name string, n *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("%s:%d: %s", name, n.Line, fmt.Sprintf(format, args...))
}

// fields walks a mapping in its order.
func fields(name string, n *yaml.Node, each func(key, value *yaml.Node) error) error {
	if n.Kind != yaml.MappingNode || plain(n) != nil {
		return at(name, n, "want keys, each on a line of its own, such as `listen: 127.0.0.1:8080`")
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode || plain(key) != nil {
			return at(name, key, "a key must be a word")
		}
		if line, twice := seen[key.Value]; twice {
			return at(name, key, "%s stands here and on line %d", key.Value, line)
		}
		seen[key.Value] = key.Line
		if err := plain(value); err != nil {
			return at(name, value, "%s: %s", key.Value, err)
		}
		if err := each(key, value); err != nil {
			return err
		}
	}
	return nil
}

var errNotPlain = errors.New("anchors, aliases and tags are not taken; write the value out")

func plain(n *yaml.Node) error {
	if n.Kind == yaml.AliasNode || n.Anchor != "" || n.Style&yaml.TaggedStyle != 0 || n.Tag == "!!merge" {
		return errNotPlain
	}
	return nil
}

func (c *Config) section(name, prefix string, n *yaml.Node) error {
	return fields(name, n, func(key, value *yaml.Node) error {
		full := prefix + key.Value
		if full == "oidc" {
			return c.issuers(name, value)
		}
		if full == "receivers" {
			return c.receivers(name, value)
		}
		if st := lookup(full); st != nil {
			return c.value(name, st, value)
		}
		if isSection(full) {
			if value.Kind == yaml.ScalarNode && value.Tag == "!!null" {
				return nil // a section whose keys are all commented out
			}
			return c.section(name, full+".", value)
		}
		return at(name, key, "no key %s%s; `immutable config show` lists them", full, nearest(full))
	})
}

func isSection(name string) bool {
	for i := range settings {
		if strings.HasPrefix(settings[i].key, name+".") {
			return true
		}
	}
	return false
}

func (c *Config) value(name string, st *setting, n *yaml.Node) error {
	text := n.Value
	switch {
	case n.Kind == yaml.SequenceNode && st.kind == list:
		var parts []string
		for _, e := range n.Content {
			if e.Kind != yaml.ScalarNode || plain(e) != nil || strings.Contains(e.Value, ",") {
				return at(name, e, "%s: want a list of plain values", st.key)
			}
			parts = append(parts, e.Value)
		}
		text = strings.Join(parts, ",")
	case n.Kind != yaml.ScalarNode:
		return at(name, n, "%s: want a single value", st.key)
	case n.Tag == "!!null":
		return at(name, n, "%s has no value; leave the key out for the default", st.key)
	}
	if len(text) > maxValue {
		return at(name, n, "%s: %d bytes, a value has at most %d", st.key, len(text), maxValue)
	}
	if err := st.set(c, text); err != nil {
		return at(name, n, "%s: %s", st.key, err)
	}
	c.from[st.key] = fmt.Sprintf("%s:%d", name, n.Line)
	return nil
}

// issuers is a list of mappings.
func (c *Config) issuers(name string, n *yaml.Node) error {
	if n.Kind != yaml.SequenceNode {
		return at(name, n, "oidc: want a list of issuers, each with url and audience")
	}
	if len(n.Content) > maxList {
		return at(name, n, "oidc: %d issuers, at most %d", len(n.Content), maxList)
	}
	c.OIDC = nil
	for _, e := range n.Content {
		var is Issuer
		err := fields(name, e, func(key, value *yaml.Node) error {
			into := map[string]*string{"url": &is.URL, "audience": &is.Audience, "jwks_file": &is.JWKSFile}[key.Value]
			switch {
			case into == nil:
				return at(name, key, "no key %s; an issuer has url, audience and jwks_file", key.Value)
			case value.Kind != yaml.ScalarNode || value.Value == "" || len(value.Value) > maxValue:
				return at(name, value, "%s: want a single value", key.Value)
			}
			*into = value.Value
			return nil
		})
		switch {
		case err != nil:
			return err
		case is.URL == "" || is.Audience == "":
			return at(name, e, "oidc: an issuer needs url and audience: without its audience a token meant for another service would do")
		}
		if err := checkURL(is.URL); err != nil {
			return at(name, e, "oidc: %s", err)
		}
		c.OIDC = append(c.OIDC, is)
	}
	c.from["oidc"] = fmt.Sprintf("%s:%d", name, n.Line)
	return nil
}

// nearest proposes the key that was meant: one that differs in little.
func nearest(key string) string {
	best, distance := "", 3
	for i := range settings {
		known := settings[i].key
		if d := edits(key, known); d < distance {
			best, distance = known, d
		}
		if _, last, _ := strings.Cut(known, "."); last == key || settings[i].flag == key || strings.ReplaceAll(settings[i].flag, "-", "_") == key {
			return " (did you mean " + known + "?)"
		}
	}
	if best == "" {
		return ""
	}
	return " (did you mean " + best + "?)"
}

// edits is the Levenshtein distance of two short words.
func edits(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
