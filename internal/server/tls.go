package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tree-of-life-system/immutable/internal/config"
)

const (
	maxPEM         = 1 << 20         // bytes of a file of certificates or a key
	tlsLookEvery   = 2 * time.Second // how often the files are looked at
	expiryWarnedAt = 14 * 24 * time.Hour
)

// certificates is the listener's TLS configuration, read again when its files change. Connections keep the one that they began
// with. What cannot be used is said once and changes nothing: the configuration in use stays until a good one is there.
type certificates struct {
	files  config.TLS
	logger *slog.Logger
	now    func() time.Time

	current atomic.Pointer[tls.Config]

	mu    sync.Mutex // one look at the files at a time; guards what follows
	used  [sha256.Size]byte
	odd   [sha256.Size]byte // content that was seen and is not in use
	noted bool              // odd was said to be bad
}

// loadCertificates reads the files; what is wrong with them is an error, so that a service does not start without them.
func loadCertificates(files config.TLS, logger *slog.Logger, now func() time.Time) (*certificates, error) {
	c := &certificates{files: files, logger: logger, now: now}
	raw, err := readPEMs(files)
	if err != nil {
		return nil, err
	}
	conf, err := raw.config()
	if err != nil {
		return nil, err
	}
	c.current.Store(conf)
	c.used = raw.sum()
	c.warn(conf)
	return c, nil
}

// config is what the listener is given. The function in it is asked at each handshake.
func (c *certificates) config() *tls.Config {
	conf := c.current.Load().Clone()
	conf.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.current.Load(), nil }
	return conf
}

// expires is when the certificate in use ends.
func (c *certificates) expires() time.Time { return c.current.Load().Certificates[0].Leaf.NotAfter }

// watch looks at the files until ctx ends.
func (c *certificates) watch(ctx context.Context) {
	t := time.NewTicker(tlsLookEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			c.look()
		case <-ctx.Done():
			return
		}
	}
}

// look takes changed files into use. Files that do not fit together may be half of a change, so they are said to be bad only
// when they are still the same at the next look.
func (c *certificates) look() {
	c.mu.Lock()
	defer c.mu.Unlock()
	raw, err := readPEMs(c.files)
	sum := raw.sum()
	if err == nil && sum == c.used {
		if c.noted {
			c.logger.Info("the TLS files are again those in use")
		}
		c.odd, c.noted = [sha256.Size]byte{}, false
		return
	}
	var conf *tls.Config
	if err == nil {
		conf, err = raw.config()
	}
	if err == nil && !c.now().Before(conf.Certificates[0].Leaf.NotAfter) {
		err = fmt.Errorf("%s: the certificate ended at %s", c.files.Cert, conf.Certificates[0].Leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	if err == nil {
		c.current.Store(conf)
		c.used, c.odd, c.noted = sum, [sha256.Size]byte{}, false
		leaf := conf.Certificates[0].Leaf
		c.logger.Info("took a new certificate into use", "subject", leaf.Subject.String(), "serial", leaf.SerialNumber.String(), "expires", leaf.NotAfter.UTC())
		c.warn(conf)
		return
	}
	if sum == c.odd && !c.noted {
		c.noted = true
		c.logger.Error("new TLS files cannot be used, the ones before stay in use; mend the files", "error", err, "expires", c.expires().UTC())
	} else if sum != c.odd {
		c.odd, c.noted = sum, false
	}
}

func (c *certificates) warn(conf *tls.Config) {
	if left := conf.Certificates[0].Leaf.NotAfter.Sub(c.now()); left < expiryWarnedAt {
		c.logger.Warn("the TLS certificate ends soon, or has ended; put a new one in its place, it is taken into use at once",
			"file", c.files.Cert, "expires", conf.Certificates[0].Leaf.NotAfter.UTC())
	}
}

// pems is the content of the files, as it was at one moment each.
type pems struct {
	files                 config.TLS
	cert, key, clientCA   []byte
	unread                string // why not all of it is there
	certRead, hasClientCA bool
}

func readPEMs(files config.TLS) (p pems, err error) {
	p.files = files
	if p.cert, err = readPEM("tls.cert", files.Cert); err == nil {
		p.certRead = true
		p.key, err = readPEM("tls.key", files.Key)
	}
	if err == nil && files.ClientCA != "" {
		p.hasClientCA = true
		p.clientCA, err = readPEM("tls.client_ca", files.ClientCA)
	}
	if err != nil {
		p.unread = err.Error()
	}
	return p, err
}

func readPEM(what, name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxPEM {
		return nil, fmt.Errorf("%s: %s is no file of at most %d bytes", what, name, maxPEM)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return data, nil
}

// sum tells two contents apart.
func (p *pems) sum() [sha256.Size]byte {
	h := sha256.New()
	for _, part := range [][]byte{p.cert, p.key, p.clientCA, []byte(p.unread)} {
		one := sha256.Sum256(part)
		h.Write(one[:])
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// config makes the configuration of connections. Key exchange is left to crypto/tls, whose first choice is X25519MLKEM768.
func (p *pems) config() (*tls.Config, error) {
	pair, err := tls.X509KeyPair(p.cert, p.key)
	if err != nil {
		return nil, fmt.Errorf("%s and %s are no certificate and key in PEM that belong together: %w", p.files.Cert, p.files.Key, err)
	}
	conf := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	if !p.hasClientCA {
		return conf, nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(p.clientCA) {
		return nil, fmt.Errorf("%s holds no certificate in PEM", p.files.ClientCA)
	}
	if bytes.Contains(p.clientCA, []byte("PRIVATE KEY")) {
		return nil, fmt.Errorf("%s holds a private key: give certificates only", p.files.ClientCA)
	}
	// Tokens stay possible: a client without a certificate is told who it must be by the route it asks for.
	conf.ClientCAs, conf.ClientAuth = pool, tls.VerifyClientCertIfGiven
	return conf, nil
}

// CheckTLS reads the files as the service would, for `immutable config check`.
func CheckTLS(files config.TLS, now time.Time) error {
	raw, err := readPEMs(files)
	if err != nil {
		return err
	}
	conf, err := raw.config()
	if err != nil {
		return err
	}
	leaf := conf.Certificates[0].Leaf
	if now.After(leaf.NotAfter) {
		return fmt.Errorf("%s: the certificate ended at %s; put a new one in its place", files.Cert, leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	if now.Before(leaf.NotBefore) {
		return errors.New(files.Cert + ": the certificate begins at " + leaf.NotBefore.UTC().Format(time.RFC3339) + "; is the clock right?")
	}
	return nil
}
