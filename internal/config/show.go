package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Shown is one setting as it stands, for people and for --json.
type Shown struct {
	Key         string `json:"key"`
	Value       string `json:"value"`
	From        string `json:"from"` // "default", or where it was set
	Flag        string `json:"flag"`
	Environment string `json:"environment"`
	Help        string `json:"help"`
}

// Show lists every setting, in the order of the documentation. It holds no secret: the bootstrap token is not a setting, and
// passwords are named by their files.
func (c *Config) Show() []Shown {
	var all []Shown
	for i := range settings {
		st := &settings[i]
		all = append(all, Shown{Key: st.key, Value: st.get(c), From: c.origin(st.key), Flag: "--" + st.flag, Environment: st.env(), Help: st.help})
	}
	return all
}

// Values is the configuration as one JSON object, for the record of what it was: the keys of the file, and no secrets.
func (c *Config) Values() ([]byte, error) {
	values := map[string]any{"oidc": append([]Issuer{}, c.OIDC...), "receivers": append([]Receiver{}, c.Receivers...)}
	for i := range settings {
		values[settings[i].key] = settings[i].get(c)
	}
	return json.Marshal(values)
}

func (c *Config) origin(key string) string {
	if from := c.from[key]; from != "" {
		return from
	}
	return "default"
}

// YAML writes the configuration as a file that Load reads as the same configuration, each value with its meaning and where
// it came from.
func (c *Config) YAML() (string, error) {
	var b strings.Builder
	open := []string{}
	for i := range settings {
		st := &settings[i]
		parts := strings.Split(st.key, ".")
		sections, name := parts[:len(parts)-1], parts[len(parts)-1]
		same := 0
		for same < len(open) && same < len(sections) && open[same] == sections[same] {
			same++
		}
		for ; same < len(sections); same++ {
			fmt.Fprintf(&b, "%s%s:\n", strings.Repeat("  ", same), sections[same])
		}
		open = sections
		indent := strings.Repeat("  ", len(sections))
		value, err := yamlValue(st, st.get(c))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "%s# %s. --%s, %s\n", indent, st.help, st.flag, st.env())
		line := fmt.Sprintf("%s%s: %s", indent, name, value)
		if from := c.origin(st.key); from != "default" {
			line += "  # " + strings.Map(printable, from)
		}
		b.WriteString(line + "\n")
	}
	issuers := make([][][2]string, 0, len(c.OIDC))
	for _, is := range c.OIDC {
		issuers = append(issuers, [][2]string{{"url", is.URL}, {"audience", is.Audience}, {"jwks_file", is.JWKSFile}})
	}
	receivers := make([][][2]string, 0, len(c.Receivers))
	for _, r := range c.Receivers {
		receivers = append(receivers, [][2]string{{"protocol", r.Protocol}, {"address", r.Address}, {"log", r.Log}})
	}
	err := errors.Join(
		writeList(&b, "oidc", "OpenID Connect issuers, each with url, audience and, for keys from a file, jwks_file", issuers),
		writeList(&b, "receivers", "Further receivers, each with protocol (syslog-udp, syslog-tcp, syslog-tls, jsonl-tcp, jsonl-unix, otlp-grpc), address and log", receivers),
	)
	return b.String(), err
}

// writeList writes a list of mappings; members without a value are left out.
func writeList(b *strings.Builder, key, help string, list [][][2]string) error {
	fmt.Fprintf(b, "# %s\n", help)
	if len(list) == 0 {
		fmt.Fprintf(b, "%s: []\n", key)
		return nil
	}
	fmt.Fprintf(b, "%s:\n", key)
	for _, members := range list {
		for i, f := range members {
			if f[1] == "" {
				continue
			}
			value, err := yamlScalar(f[1])
			if err != nil {
				return err
			}
			fmt.Fprintf(b, "%s%s: %s\n", []string{"  - ", "    ", "    "}[i], f[0], value)
		}
	}
	return nil
}

func printable(r rune) rune {
	if r < ' ' || r == 0x7f {
		return '?'
	}
	return r
}

func yamlValue(st *setting, text string) (string, error) {
	if st.kind != list {
		return yamlScalar(text)
	}
	var parts []string
	for p := range strings.SplitSeq(text, ",") {
		if p == "" {
			continue
		}
		q, err := yamlScalar(p)
		if err != nil {
			return "", err
		}
		parts = append(parts, q)
	}
	return "[" + strings.Join(parts, ", ") + "]", nil
}

// plainText is what needs no quotes, wherever it stands in a file.
var plainText = regexp.MustCompile(`^[A-Za-z0-9./_][A-Za-z0-9./_:-]*[A-Za-z0-9./_]$|^[A-Za-z0-9]$`)

// yamlScalar quotes what a plain value would not be read as.
func yamlScalar(text string) (string, error) {
	n := yaml.Node{Kind: yaml.ScalarNode, Value: text}
	if !plainText.MatchString(text) || strings.EqualFold(text, "null") {
		n.Style = yaml.DoubleQuotedStyle
	}
	out, err := yaml.Marshal(&n)
	if err != nil {
		return "", fmt.Errorf("write %q as YAML: %w", text, err)
	}
	return strings.TrimSuffix(string(out), "\n"), nil
}
