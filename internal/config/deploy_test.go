package config

import (
	"bufio"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// TestDeployedSettingsExist loads what the files under deploy/ set in the environment, each by itself and one after the other.
func TestDeployedSettingsExist(t *testing.T) {
	known := map[string]bool{"IMMUTABLE_BOOTSTRAP_TOKEN": true, "IMMUTABLE_CONFIG": true}
	for _, old := range sketchNames {
		known[old.name] = true
	}
	for i := range settings {
		known[settings[i].env()] = true
	}
	root := filepath.Join("..", "..")
	for name, env := range map[string]map[string]string{
		"ConfigMap":    configMap(t, filepath.Join(root, "deploy", "kubernetes", "configmap.yaml")),
		"systemd unit": environmentLines(t, filepath.Join(root, "deploy", "systemd", "immutable.service"), `^Environment=([A-Z_]+)=(.*)$`),
		"Dockerfile":   environmentLines(t, filepath.Join(root, "Dockerfile"), `([A-Z_]{5,})=(\S+)`),
	} {
		if len(env) < 2 {
			t.Errorf("%s: only %v", name, env)
		}
		for key := range env {
			if !known[key] {
				t.Errorf("%s sets %s, which nothing reads", name, key)
			}
		}
		if c := mustLoad(t, "", env, nil); c.DataDir == New().DataDir {
			t.Errorf("%s: the data directory is %s", name, c.DataDir)
		}
	}
}

func configMap(t *testing.T, name string) map[string]string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var m struct{ Data map[string]string }
	if err := yaml.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	return m.Data
}

func environmentLines(t *testing.T, name, pattern string) map[string]string {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	env, re := map[string]string{}, regexp.MustCompile(pattern)
	for s := bufio.NewScanner(f); s.Scan(); {
		if strings.HasPrefix(s.Text(), "#") {
			continue
		}
		for _, found := range re.FindAllStringSubmatch(s.Text(), -1) {
			env[found[1]] = found[2]
		}
	}
	return env
}
