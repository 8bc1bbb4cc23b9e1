package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/internal/witness"
	"github.com/tree-of-life-system/immutable/proof"
)

const witnessUsage = `immutable witness serve | key | check NOTE

serve runs a C2SP tlog-witness: it cosigns the checkpoints of the logs that it is given, and never two that contradict each other.
It makes an Ed25519 and an ML-DSA-44 key on its first start. At <hex SHA-256 of origin>/checkpoint is what it has cosigned, at / a
page for people, and at /misbehaviour/ what proves that a log signed two histories. It sees no entries. It speaks plain HTTP: put it
behind a server with TLS. Run it where the log's administrators have no rights, and never restore its state from a backup: it would
forget what it has cosigned. SIGHUP reads --policy again.
key prints its verifier keys, as lines for a policy. check says whether a checkpoint satisfies a policy: exit code 0 yes, 1 no.

  immutable witness serve --name witness.example.com/1 --listen 10.0.0.5:7381 --log "$(immutable key show | head -1)"
  immutable witness serve --policy logs.policy
  immutable witness key --url https://witness.example.com >> audit.policy
  immutable witness check logs/cosigned --policy audit.policy

  --name NAME            of a witness that is made now: a schema-less URL
  --listen ADDRESS       where serve listens (default localhost:7381)
  --log VKEY             verifier key of a log to watch; may be repeated
  --policy FILE          serve: a policy whose logs are watched; check: the policy
  --url URL              key: where logs reach the witness
  --state-dir DIR        where this host keeps its state; the witness's is DIR/witness (IMMUTABLE_STATE_DIR)` + commonFlags

func setupWitness(c *call) func() error {
	w := &witnessCall{call: c}
	c.set.StringVar(&w.name, "name", "", "")
	c.set.StringVar(&w.listen, "listen", "localhost:7381", "")
	c.set.Var(&w.logs, "log", "")
	c.set.StringVar(&c.policy, "policy", "", "")
	c.set.StringVar(&w.url, "url", "", "")
	c.set.StringVar(&c.stateDir, "state-dir", "", "")
	return func() error {
		if len(c.args) == 0 {
			return c.usagef("want serve, key or check")
		}
		switch c.args[0] {
		case "serve", "key":
			if err := c.arguments(1, 1, "no arguments after "+c.args[0]); err != nil {
				return err
			}
			if c.args[0] == "key" {
				return w.printKeys()
			}
			return w.serve()
		case "check":
			if err := c.arguments(2, 2, "check and one file"); err != nil {
				return err
			}
			return w.check(c.args[1])
		}
		return c.usagef("want serve, key or check, not %s", quote(c.args[0]))
	}
}

type witnessCall struct {
	*call
	name, listen, url string
	logs              list
}

// dir is the witness's directory, apart from those of logs.
func (w *witnessCall) dir() (string, error) {
	base := w.stateDir
	if base == "" {
		var err error
		if base, err = immutable.DefaultStateDir(); err != nil {
			return "", err
		}
	}
	return filepath.Join(base, "witness"), nil
}

// logKeys are the keys of --log and of the logs in --policy.
func (w *witnessCall) logKeys() ([]proof.Key, error) {
	var keys []proof.Key
	for _, v := range w.logs {
		k, err := proof.ParseKey(v)
		if err != nil {
			return nil, fmt.Errorf("--log: %w", err)
		}
		keys = append(keys, k)
	}
	p, err := w.readPolicy()
	if p == nil || err != nil {
		return keys, err
	}
	for _, l := range p.Logs() {
		keys = append(keys, l.Key)
	}
	return keys, nil
}

func (w *witnessCall) open() (*witness.Server, error) {
	dir, err := w.dir()
	if err != nil {
		return nil, err
	}
	keys, err := w.logKeys()
	if err != nil {
		return nil, err
	}
	return witness.New(vfs.OS(), dir, witness.Config{Name: w.name, Logs: keys, Logger: w.logger()})
}

func (w *witnessCall) serve() (err error) {
	hangup := make(chan os.Signal, 1) // before the answer that says that it runs
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	s, err := w.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	var lc net.ListenConfig
	listener, err := lc.Listen(w.ctx, "tcp", w.listen)
	if err != nil {
		return err
	}
	if err := w.announce(s, listener.Addr().String()); err != nil {
		return errors.Join(err, listener.Close())
	}
	srv := witness.HTTPServer(s)
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(listener) }()
	for {
		select {
		case err := <-ended:
			return err
		case <-hangup:
			w.reload(s)
		case <-w.ctx.Done():
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			if err := srv.Shutdown(ctx); err != nil {
				return errors.Join(err, srv.Close())
			}
			if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		}
	}
}

// reload reads the policy again. What was watched before stays watched where that fails.
func (w *witnessCall) reload(s *witness.Server) {
	keys, err := w.logKeys()
	if err == nil {
		err = s.SetLogs(keys)
	}
	if err != nil {
		w.errs.printf("the list of logs was not replaced: %s\n", err)
		_ = w.errs.flush() // nowhere is left to say it
		return
	}
	w.remark("watching %s\n", plural(len(keys), "log key"))
}

func (w *witnessCall) announce(s *witness.Server, address string) error {
	keys := []string{}
	for _, k := range s.Keys() {
		keys = append(keys, k.String())
	}
	if w.json {
		if err := w.answer(struct {
			Name   string   `json:"name"`
			Listen string   `json:"listen"`
			Keys   []string `json:"keys"`
		}{s.Name(), address, keys}); err != nil {
			return err
		}
	} else {
		w.out.printf("witness %s on http://%s/\n", s.Name(), address)
		for _, k := range keys {
			w.out.printf("%s\n", k)
		}
	}
	return w.out.flush()
}

// printKeys opens the state beside a witness that may run: it reads the keys only.
func (w *witnessCall) printKeys() error {
	dir, err := w.dir()
	if err != nil {
		return err
	}
	keys, err := witness.ReadKeys(vfs.OS(), dir)
	if err != nil {
		return err
	}
	if w.json {
		vkeys := []string{}
		for _, k := range keys {
			vkeys = append(vkeys, k.String())
		}
		return w.answer(struct {
			Name string   `json:"name"`
			Keys []string `json:"keys"`
		}{keys[0].Name(), vkeys})
	}
	for i, k := range keys {
		name := keys[0].Name() + []string{"", "-ml-dsa"}[i]
		if w.url == "" {
			w.out.printf("%s\n", k)
			continue
		}
		if err := witness.CheckURL(w.url); err != nil {
			return w.usagef("--url: %s", err)
		}
		w.out.printf("witness %s %s %s\n", name, k, w.url)
	}
	return nil
}

// check says whether a note satisfies the policy.
func (w *witnessCall) check(name string) error {
	p, err := w.readPolicy()
	if err != nil {
		return err
	}
	if p == nil {
		return w.usagef("check needs --policy")
	}
	note, err := readFile(name)
	if err != nil {
		return err
	}
	r := p.Check(note)
	if r.Err != nil {
		return &noError{r.Err}
	}
	if w.json {
		err = w.answer(checkJSON(&r))
	} else {
		w.printCheck(&r)
	}
	if err == nil && !r.Satisfied {
		return exit(exitNo)
	}
	return err
}

type cosignatureJSON struct {
	Name string     `json:"name"`
	Time *time.Time `json:"time"`
}

func checkJSON(r *proof.PolicyResult) any {
	states := []cosignatureJSON{}
	for _, s := range r.Witnesses {
		state := cosignatureJSON{Name: s.Name}
		if s.Signed {
			at := s.Time.UTC()
			state.Time = &at
		}
		states = append(states, state)
	}
	return struct {
		Satisfied bool              `json:"satisfied"`
		Origin    string            `json:"origin"`
		Size      uint64            `json:"size"`
		Quorum    string            `json:"quorum"`
		Witnesses []cosignatureJSON `json:"witnesses"`
	}{r.Satisfied, r.Checkpoint.Origin, r.Checkpoint.Size, r.Quorum, states}
}

func (w *witnessCall) printCheck(r *proof.PolicyResult) {
	verdict := styled{code: green, text: "satisfied"}
	if !r.Satisfied {
		verdict = styled{code: red, text: "NOT satisfied"}
	}
	w.out.printf("%s: %s, %d entries\n  %s\n", verdict, r.Checkpoint.Origin, r.Checkpoint.Size, r.Quorum)
	for _, s := range r.Witnesses {
		if s.Signed {
			w.out.printf("  %s at %s\n", s.Name, s.Time.UTC().Format(time.RFC3339))
		}
	}
	if len(r.Logs) == 0 {
		w.remark("the policy names no log: the log's own signature was not checked\n")
	}
}
