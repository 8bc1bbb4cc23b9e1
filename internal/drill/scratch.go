package drill

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/digitorus/timestamp"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/internal/witness"
	"github.com/tree-of-life-system/immutable/proof"
)

const (
	scratchOrigin = "drill.example/scratch"
	perEpoch      = 400 // entries that each of the three epochs gets at least
	rotateSize    = 64 << 10
)

// A scratch is the log that is attacked: made for the drill, with keys, witnesses and a time authority of its own. What a
// careful operator keeps elsewhere of it is kept here.
type scratch struct {
	root      string // directory of everything
	events    []immutable.Event
	witnesses []*watcher
	authority *authority
	policy    *proof.Policy
	cfg       immutable.Config

	now    *image   // the log as the attacker finds it, cleanly closed
	before *image   // the same in epoch 1: a backup or snapshot
	thefts []*image // the state in each epoch, while its keys were there
	other  *image   // another log with keys of its own, and the same events

	keys     []string            // epoch 0's, as published on the first day
	early    []byte              // a checkpoint of epoch 1, kept elsewhere
	receipts []immutable.Receipt // of the last appends
	seen     [][]byte            // what the witnesses say they saw last
	proof    []byte              // of an entry
	producer string              // key file of a source
	bundle   []byte
	tiles    map[string][]byte // an export for clients of transparency logs
	forged   []byte            // a bundle of the other log
}

// watcher is a witness that answers on this host only.
type watcher struct {
	name   string
	server *witness.Server
	http   *http.Server
	url    string
	ended  chan struct{}
}

func newWatcher(root, name string, log proof.Key) (*watcher, error) {
	s, err := witness.New(vfs.OS(), filepath.Join(root, "witness-"+name), witness.Config{Name: name + ".drill.example", Logs: []proof.Key{log}})
	if err != nil {
		return nil, err
	}
	w := &watcher{name: name, server: s, http: witness.HTTPServer(s), ended: make(chan struct{})}
	if w.url, err = serve(w.http, w.ended); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return w, nil
}

// serve answers on a free port of the loopback interface until the server is closed.
func serve(s *http.Server, ended chan<- struct{}) (url string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("listen on the loopback interface: %w", err)
	}
	go func() {
		defer close(ended)
		_ = s.Serve(l) // ends when the server is closed
	}()
	return "http://" + l.Addr().String(), nil
}

func (w *watcher) close() error {
	err := w.http.Close()
	<-w.ended
	return errors.Join(err, w.server.Close())
}

// authority is a time-stamping authority (RFC 3161) that answers on this host only.
type authority struct {
	root, signer *x509.Certificate
	key          *ecdsa.PrivateKey
	http         *http.Server
	url          string
	ended        chan struct{}
}

func newAuthority(name string) (*authority, error) {
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	a := &authority{ended: make(chan struct{})}
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	from := time.Now().Add(-time.Hour)
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name + " root"}, NotBefore: from, NotAfter: from.Add(48 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	if a.root, err = issue(root, root, rootKey.Public(), rootKey); err != nil {
		return nil, err
	}
	// RFC 3161, section 2.3: the one extended usage is timeStamping, and it is critical.
	usage, err := asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}})
	if err != nil {
		return nil, err
	}
	a.signer, err = issue(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: from.Add(48 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true, Value: usage}},
	}, a.root, a.key.Public(), rootKey)
	if err != nil {
		return nil, err
	}
	a.http = &http.Server{Handler: a, ReadHeaderTimeout: 10 * time.Second}
	a.url, err = serve(a.http, a.ended)
	return a, err
}

func issue(c, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, c, parent, public, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func (a *authority) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.root)
	return pool
}

// stamp is a granted answer over a SHA-256 digest.
func (a *authority) stamp(digest []byte, at time.Time, nonce *big.Int) ([]byte, error) {
	t := timestamp.Timestamp{
		HashAlgorithm: crypto.SHA256, HashedMessage: digest, Time: at.UTC().Truncate(time.Second), Accuracy: time.Second, Nonce: nonce,
		Policy: asn1.ObjectIdentifier{1, 2, 3, 4}, AddTSACertificate: true, Certificates: []*x509.Certificate{a.root},
	}
	return t.CreateResponseWithOpts(a.signer, a.key, crypto.SHA256)
}

// ServeHTTP answers a query as RFC 3161, section 3.4, says.
func (a *authority) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64<<10))
	if err != nil {
		http.Error(w, "want a query", http.StatusBadRequest)
		return
	}
	q, err := timestamp.ParseRequest(body)
	if err != nil {
		http.Error(w, "want a query", http.StatusBadRequest)
		return
	}
	der, err := a.stamp(q.HashedMessage, time.Now(), q.Nonce)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/timestamp-reply")
	_, _ = w.Write(der) // the client may be gone
}

func (a *authority) close() error {
	err := a.http.Close()
	<-a.ended
	return err
}

func (s *scratch) dir() string   { return filepath.Join(s.root, "log") }
func (s *scratch) state() string { return filepath.Join(s.root, "state") }

// newScratch makes the log. Its history: epoch 0, whose end a time authority has stamped; epoch 1, with the backup in its
// middle; epoch 2, which goes on until now. Witnesses have seen all of it.
func newScratch(ctx context.Context, root string, events []immutable.Event) (s *scratch, err error) {
	s = &scratch{root: root, events: realistic(events, 3*perEpoch)}
	if err := mkdirs(root, map[string]bool{}); err != nil {
		return nil, err
	}
	s.cfg = immutable.Config{Origin: scratchOrigin, StateDir: s.state(), RotateSize: rotateSize, EpochDuration: -1, CheckpointInterval: time.Hour}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
			s = nil
		}
	}()
	for _, stage := range []func(context.Context) error{s.outsiders, s.epoch0, s.epoch1, s.epoch2, s.keep, s.makeOther} {
		if err := stage(ctx); err != nil {
			return nil, fmt.Errorf("make the scratch log: %w", err)
		}
	}
	return s, nil
}

func (s *scratch) close() error {
	var errs []error
	for _, w := range s.witnesses {
		errs = append(errs, w.close())
	}
	if s.authority != nil {
		errs = append(errs, s.authority.close())
	}
	return errors.Join(errs...)
}

// outsiders makes the log, and tells three witnesses of its key.
func (s *scratch) outsiders(context.Context) error {
	l, err := immutable.Open(s.dir(), &s.cfg)
	if err != nil {
		return err
	}
	keys := l.VerifierKeys()
	if err := l.Close(); err != nil {
		return err
	}
	logKey, err := proof.ParseKey(keys[0])
	if err != nil {
		return err
	}
	s.keys = keys[1:]
	var text, names strings.Builder
	for _, name := range []string{"one", "two", "three"} {
		w, err := newWatcher(s.root, name, logKey)
		if err != nil {
			return err
		}
		s.witnesses = append(s.witnesses, w)
		fmt.Fprintf(&text, "witness %s %s %s\n", name, w.server.Keys()[0], w.url)
		names.WriteString(" " + name)
	}
	if s.policy, err = proof.ParsePolicy(fmt.Appendf(nil, "%sgroup most 2%s\nquorum most\n", text.String(), names.String())); err != nil {
		return err
	}
	s.cfg.Policy = s.policy
	s.authority, err = newAuthority("drill authority")
	return err
}

// session opens the log, does something, closes it, and returns what is then there.
func (s *scratch) session(work func(l *immutable.Log) error) (*image, error) {
	l, err := immutable.Open(s.dir(), &s.cfg)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(work(l), l.Close()); err != nil {
		return nil, err
	}
	return readImage(s.dir(), s.state(), scratchOrigin)
}

func (s *scratch) epoch0(ctx context.Context) error {
	s.producer = filepath.Join(s.root, "source.key")
	m, err := s.session(func(l *immutable.Log) error {
		p, err := immutable.NewProducer(s.producer, "billing", immutable.ProducerEd25519)
		if err != nil {
			return err
		}
		if _, err := l.RegisterProducer(ctx, p.Key()); err != nil {
			return errors.Join(err, p.Close())
		}
		_, err = l.AppendSigned(ctx, p, signedEvents(0)...)
		return errors.Join(err, s.append(ctx, l, 0, perEpoch), p.Close())
	})
	s.thefts = append(s.thefts, m)
	return err
}

func (s *scratch) epoch1(ctx context.Context) error {
	m, err := s.session(func(l *immutable.Log) error {
		if _, err := l.StampTime(ctx, s.authority.url); err != nil {
			return err
		}
		if err := errors.Join(l.RotateKeys(ctx), s.append(ctx, l, perEpoch, perEpoch/2)); err != nil {
			return err
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.before, s.early, s.thefts = m, m.log[latestName], append(s.thefts, m)
	_, err = s.session(func(l *immutable.Log) error { return s.append(ctx, l, perEpoch+perEpoch/2, perEpoch/2) })
	return err
}

func (s *scratch) epoch2(ctx context.Context) error {
	m, err := s.session(func(l *immutable.Log) error {
		if err := errors.Join(l.RotateKeys(ctx), s.append(ctx, l, 2*perEpoch, len(s.events)-2*perEpoch)); err != nil {
			return err
		}
		if _, err := l.StampTime(ctx, s.authority.url); err != nil {
			return err
		}
		rs, err := l.Append(ctx, lastEvents()...)
		s.receipts = rs
		return err
	})
	if err != nil {
		return err
	}
	s.now, s.thefts = m, append(s.thefts, m)
	return nil
}

// append appends n of the events from a number on, in batches of several sizes.
func (s *scratch) append(ctx context.Context, l *immutable.Log, from, n int) error {
	for step := 1; n > 0; step = step%61 + 7 {
		k := min(n, step)
		if _, err := l.Append(ctx, s.events[from:from+k]...); err != nil {
			return err
		}
		from, n = from+k, n-k
	}
	return nil
}

// keep fetches what is known elsewhere: the witnesses' word, a proof of an entry, a bundle of evidence.
func (s *scratch) keep(ctx context.Context) error {
	cfg := s.cfg
	cfg.ReadOnly = true
	l, err := immutable.Open(s.dir(), &cfg)
	if err != nil {
		return err
	}
	return errors.Join(s.keepFrom(ctx, l), l.Close())
}

func (s *scratch) keepFrom(ctx context.Context, l *immutable.Log) (err error) {
	if err := s.ask(ctx, l); err != nil {
		return err
	}
	if s.proof, err = l.Proof(ctx, l.Size()-2); err != nil {
		return err
	}
	text, err := s.policy.MarshalText()
	if err != nil {
		return err
	}
	if s.bundle, err = l.Bundle(ctx, immutable.BundleOptions{From: l.Size() - 12, Policy: text, Program: "immutable drill"}); err != nil {
		return err
	}
	out := filepath.Join(s.root, "tiles")
	if _, err := l.ExportTiles(ctx, out, nil); err != nil {
		return err
	}
	s.tiles = map[string][]byte{}
	return readTree(s.tiles, out)
}

// ask fetches what each witness has seen last. One that was too slow for the log sees its newest checkpoint now.
func (s *scratch) ask(ctx context.Context, l *immutable.Log) error {
	c := witness.NewClient()
	defer c.Close()
	newest := s.now.log[latestName]
	for _, w := range s.witnesses {
		note, err := c.Checkpoint(ctx, w.url, scratchOrigin)
		if err != nil {
			return fmt.Errorf("witness %s: %w", w.name, err)
		}
		if old := noteSize(note); old < noteSize(newest) {
			p, err := l.ConsistencyProof(ctx, old, noteSize(newest))
			if err != nil {
				return err
			}
			if _, err := c.AddCheckpoint(ctx, w.url, w.server.Keys(), &witness.Request{Old: old, Proof: p, Note: newest}); err != nil {
				return fmt.Errorf("witness %s: %w", w.name, err)
			}
			if note, err = c.Checkpoint(ctx, w.url, scratchOrigin); err != nil {
				return fmt.Errorf("witness %s: %w", w.name, err)
			}
		}
		s.seen = append(s.seen, note)
	}
	return nil
}

// makeOther makes a log of the same name and events with other keys, and a bundle of it.
func (s *scratch) makeOther(ctx context.Context) error {
	cfg := s.cfg
	cfg.StateDir, cfg.Policy = filepath.Join(s.root, "other-state"), nil
	dir := filepath.Join(s.root, "other")
	l, err := immutable.Open(dir, &cfg)
	if err != nil {
		return err
	}
	if err := s.append(ctx, l, 0, len(s.events)); err != nil {
		return errors.Join(err, l.Close())
	}
	_, err = l.Append(ctx, append(lastEvents(), realistic(nil, 40)...)...)
	if err == nil {
		s.forged, err = l.Bundle(ctx, immutable.BundleOptions{From: l.Size() - 12, Program: "immutable drill"})
	}
	if err := errors.Join(err, l.Close()); err != nil {
		return err
	}
	s.other, err = readImage(dir, cfg.StateDir, scratchOrigin)
	return err
}
