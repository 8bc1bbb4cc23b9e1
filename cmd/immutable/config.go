package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable/internal/config"
	"github.com/tree-of-life-system/immutable/internal/server"
)

const configUsage = `immutable config show | check [FILE]

show prints every setting of the service as a configuration file: its value, what it means, and where it comes from (a flag, the
environment, a line of --config, else the default). It is a good first file. check says whether a file can be used, and reads what
it names: certificates, keys, policies. A mistake is an error with its line: exit code 2.

  immutable config show > immutable.yaml
  immutable config show --config immutable.yaml --listen 0.0.0.0:8443
  immutable config check immutable.yaml

Secrets are never printed.

` + settingsUsage + commonFlags

func setupConfig(c *call) func() error {
	g := c.settings()
	return func() error {
		if len(c.args) == 0 {
			return c.usagef("want show or check")
		}
		switch c.args[0] {
		case "show":
			if err := c.arguments(1, 1, "no arguments after show"); err != nil {
				return err
			}
			return g.show()
		case "check":
			if err := c.arguments(1, 2, "check and at most one file"); err != nil {
				return err
			}
			if len(c.args) == 2 {
				if g.file != "" && g.file != c.getenv(envName("config")) {
					return c.usagef("give the file once: %s or --config %s", quote(c.args[1]), quote(g.file))
				}
				g.file = c.args[1]
			}
			return g.check()
		}
		return c.usagef("want show or check, not %s", quote(c.args[0]))
	}
}

func (g *given) show() error {
	cfg, err := g.load()
	if err != nil {
		return err
	}
	if g.json {
		return g.answer(struct {
			Settings []config.Shown  `json:"settings"`
			OIDC     []config.Issuer `json:"oidc"`
		}{cfg.Show(), append([]config.Issuer{}, cfg.OIDC...)})
	}
	text, err := cfg.YAML()
	if err != nil {
		return err
	}
	g.out.bytes([]byte(text)) // it is quoted: a file that others read
	return nil
}

// check goes as far as it can without making or binding anything.
func (g *given) check() error {
	cfg, err := g.load()
	if err != nil {
		return err
	}
	var errs []error
	if cfg.TLS.Cert != "" {
		errs = append(errs, server.CheckTLS(cfg.TLS, time.Now()))
	}
	_, err = server.LogConfig(&cfg)
	errs = append(errs, err)
	_, err = server.Mail(&cfg)
	errs = append(errs, err)
	for _, is := range cfg.OIDC {
		if is.JWKSFile != "" {
			if _, err := readFile(is.JWKSFile); err != nil {
				errs = append(errs, fmt.Errorf("oidc: %w", err))
			}
		}
	}
	var wrong []string
	for _, err := range errs {
		if err != nil {
			wrong = append(wrong, err.Error())
		}
	}
	if len(wrong) > 0 {
		return errors.New(strings.Join(wrong, "; "))
	}
	what := g.file
	if what == "" {
		what = "the configuration"
	}
	if g.json {
		return g.answer(map[string]any{"ok": true, "file": g.file})
	}
	g.out.printf("%s can be used\n", what)
	return nil
}
