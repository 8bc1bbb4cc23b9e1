package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// TestWhatALogSaysOfItselfIsHeldToThePinnedKeys changes one answer at a time.
func TestWhatALogSaysOfItselfIsHeldToThePinnedKeys(t *testing.T) {
	s := serve(t)
	s.fill(600)
	f := s.front()
	ctx := t.Context()
	first := s.log().VerifierKeys()
	for _, test := range []struct {
		name, path string
		change     func(body []byte) []byte
		ask        func(c *Client) error
	}{
		{"another first key", "/keys", func(b []byte) []byte { return bytes.ReplaceAll(b, []byte(first[0]), []byte(first[1])) }, keysOf},
		{"a current key that is not of the epoch", "/keys", func(b []byte) []byte {
			return regexp.MustCompile(`"current":\[[^\]]*\]`).ReplaceAll(b, []byte(`"current":["x"]`))
		}, keysOf},
		{"an epoch that nothing leads to", "/keys", func(b []byte) []byte { return bytes.Replace(b, []byte(`"epoch":0`), []byte(`"epoch":1`), 1) }, keysOf},
		{"a history with another root", "/checkpoints", func(b []byte) []byte {
			return regexp.MustCompile(`"note":"([^\\]+\\n\d+\\n)....`).ReplaceAll(b, []byte(`"note":"${1}AAAA`))
		}, func(c *Client) error { _, err := c.CheckpointHistory(ctx); return err }},
		{"a history that goes in circles", "/checkpoints", func(b []byte) []byte {
			return regexp.MustCompile(`"next":(null|\d+)`).ReplaceAll(b, []byte(`"next":0`))
		}, func(c *Client) error { _, err := c.CheckpointHistory(ctx); return err }},
		{"another root of before", "/consistency", func(b []byte) []byte {
			return regexp.MustCompile(`"rootFrom":"....`).ReplaceAll(b, []byte(`"rootFrom":"AAAA`))
		}, func(c *Client) error { _, err := c.RootAt(ctx, 300); return err }},
		{"a bundle with another message", "/bundle", func(b []byte) []byte { return bytes.Replace(b, []byte(`event`), []byte(`forged`), 1) }, func(c *Client) error {
			_, err := c.Bundle(ctx, immutable.BundleOptions{From: 3, To: 9})
			return err
		}},
	} {
		c := s.client(func(cfg *Config) { cfg.URL = f.url })
		f.changes(honest)
		if err := test.ask(c); err != nil {
			t.Errorf("%s: the honest answer: %v", test.name, err)
		}
		changed := false
		f.changes(func(_, path string, body io.ReadCloser) (io.ReadCloser, error) {
			data, err := io.ReadAll(body)
			if strings.HasSuffix(path, test.path) {
				other := test.change(data)
				changed = changed || !bytes.Equal(other, data)
				data = other
			}
			return io.NopCloser(bytes.NewReader(data)), err
		})
		if err := test.ask(c); !changed || !errors.As(err, new(*VerificationError)) {
			t.Errorf("%s: changed %v, got %v", test.name, changed, err)
		}
	}
}

func keysOf(c *Client) error { _, err := c.Keys(context.Background()); return err }

func TestExportOfTilesIsThatOfTheLog(t *testing.T) {
	s := serve(t)
	s.fill(700)
	dir := t.TempDir()
	got, err := s.client(nil).ExportTiles(t.Context(), filepath.Join(dir, "a"), nil)
	if err != nil {
		t.Fatal(err)
	}
	want, err := s.log().ExportTiles(t.Context(), filepath.Join(dir, "b"), nil)
	if err != nil || got.Size != want.Size || got.Written != want.Written {
		t.Errorf("got %+v, want %+v %v", got, want, err)
	}
	rep, err := immutable.VerifyTiles(t.Context(), filepath.Join(dir, "a"), s.log().OpenCheckpoint, nil, nil)
	if err != nil || len(rep.Findings) > 0 || rep.Checkpoint.Size != want.Size {
		t.Errorf("verify: %+v %v", rep, err)
	}
	if _, err := s.client(func(cfg *Config) { cfg.Keys = nil }).ExportTiles(t.Context(), filepath.Join(dir, "c"), nil); err == nil {
		t.Error("tiles without keys to prove them by")
	}
}

func TestIdentityHasTheLevelsOfTheToken(t *testing.T) {
	s := serve(t)
	plain := s.token(tenant.TokenSpec{Role: tenant.Reader, Levels: []immutable.Level{immutable.Security}})
	who, err := s.client(func(cfg *Config) { cfg.Token = plain }).WhoAmI(t.Context())
	if err != nil || who.Role != "reader" || who.Tenant != "default" || len(who.Levels) != 1 || who.Levels[0] != immutable.Security {
		t.Errorf("got %+v %v", who, err)
	}
}
