// Package hooks reads webhooks: whether a request is what its provider signed, how old it is, which delivery it is, and what it says
// as an event. It is pure: no files, no network, no clock. docs/webhooks.md is its contract.
package hooks

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable"
)

// The kinds of webhooks, as they stand in the address /hooks/{kind}/{tenant}/{log}.
const (
	GitHub   = "github"
	Stripe   = "stripe"
	Linear   = "linear"
	Notion   = "notion"
	Standard = "standard" // Standard Webhooks: https://www.standardwebhooks.com
	HMAC     = "hmac"     // any other HMAC-SHA256, as a Scheme says
)

// Kinds returns all of them.
func Kinds() []string { return []string{GitHub, Stripe, Linear, Notion, Standard, HMAC} }

// Limits of a webhook.
const (
	// MaxBody is the most bytes of a body. GitHub sends up to 25 MB.
	MaxBody = 26 << 20

	maxSignature  = 4096 // bytes of a signature header
	maxSignatures = 16   // in one header: providers sign with each of several secrets
	maxID         = 128  // bytes of a delivery id
	maxHeaderName = 64   // bytes of a configured header's name
	maxPrefix     = 32   // bytes of a configured prefix
	minTolerance  = 10   // seconds
	maxTolerance  = 3600 // seconds
)

const (
	stripeTolerance   = 300 * time.Second
	linearTolerance   = 60 * time.Second
	standardTolerance = 300 * time.Second
	schemeTolerance   = 300 // seconds
)

// Scheme is how a provider of kind HMAC signs.
type Scheme struct {
	Header    string `json:"header"`              // that the signature is in
	Encoding  string `json:"encoding,omitempty"`  // "hex" (also ""), or "base64"
	Prefix    string `json:"prefix,omitempty"`    // before the signature, such as "sha256="
	Timestamp string `json:"timestamp,omitempty"` // header with Unix seconds: then "seconds.body" is what is signed, and must be fresh
	Tolerance int    `json:"tolerance,omitempty"` // seconds that Timestamp may be off, both ways; 0 is 300
	Delivery  string `json:"delivery,omitempty"`  // header with the delivery's id
	Event     string `json:"event,omitempty"`     // header with the event's name
	Level     string `json:"level,omitempty"`     // of the entries; "" is AUDIT
}

// Check says what is wrong with a scheme.
func (s *Scheme) Check() error {
	for _, h := range []struct{ name, value string }{{"header", s.Header}, {"timestamp", s.Timestamp}, {"delivery", s.Delivery}, {"event", s.Event}} {
		if h.value == "" && h.name != "header" {
			continue
		}
		if !headerName(h.value) {
			return fmt.Errorf("scheme.%s: %.80q is no name of a header of 1 to %d letters, digits and -", h.name, h.value, maxHeaderName)
		}
	}
	switch {
	case s.Encoding != "" && s.Encoding != "hex" && s.Encoding != "base64":
		return fmt.Errorf("scheme.encoding: %.80q; hex or base64", s.Encoding)
	case len(s.Prefix) > maxPrefix || strings.ContainsFunc(s.Prefix, unprintable):
		return fmt.Errorf("scheme.prefix: at most %d characters of printable ASCII", maxPrefix)
	case s.Tolerance != 0 && (s.Tolerance < minTolerance || s.Tolerance > maxTolerance):
		return fmt.Errorf("scheme.tolerance: %d; %d to %d seconds", s.Tolerance, minTolerance, maxTolerance)
	case s.Tolerance != 0 && s.Timestamp == "":
		return errors.New("scheme.tolerance: there is no timestamp that it could be about")
	}
	if _, err := s.level(); err != nil {
		return fmt.Errorf("scheme.level: %w", err)
	}
	return nil
}

func (s *Scheme) level() (immutable.Level, error) {
	if s == nil || s.Level == "" {
		return immutable.Audit, nil
	}
	return immutable.ParseLevel(s.Level)
}

func headerName(s string) bool {
	return s != "" && len(s) <= maxHeaderName && !strings.ContainsFunc(s, func(c rune) bool {
		return c != '-' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z')
	})
}

func unprintable(c rune) bool { return c < ' ' || c > '~' }

// Refused says why a request is not taken. Its reason is a constant, for counting.
type Refused struct {
	Reason string // one of the Reason constants
	Msg    string
}

func (e *Refused) Error() string { return e.Msg }

// Why a request is refused. All but ReasonMalformed are about its authenticity.
const (
	ReasonSignature = "signature" // none, or one by none of the secrets
	ReasonStale     = "stale"     // signed too long ago
	ReasonFuture    = "future"    // signed too far ahead
	ReasonMalformed = "malformed" // authentic, and cannot be read
)

func refuse(reason, format string, args ...any) error {
	return &Refused{Reason: reason, Msg: fmt.Sprintf(format, args...)}
}

// Verify says whether the body is signed by one of the secrets, and fresh. used is the number of the secret. Nothing in the body is
// interpreted before its signature was found good; signatures are compared as bytes, in constant time. With no secret at all it does
// the same work and refuses. scheme is for HMAC only.
func Verify(kind string, scheme *Scheme, h http.Header, body []byte, secrets [][]byte, now time.Time) (used int, err error) {
	signed, err := claimed(kind, scheme, h)
	if err != nil {
		return 0, err
	}
	used = -1
	for i, secret := range secrets {
		if signed.by(secret, body) && used < 0 {
			used = i
		}
	}
	if len(secrets) == 0 {
		_ = signed.by([]byte("nobody's"), body)
	}
	if used < 0 {
		return 0, refuse(ReasonSignature, "the signature is by none of the source's secrets")
	}
	at, tolerance := signed.at, signed.tolerance
	if kind == Linear {
		if at, err = linearTime(body); err != nil {
			return 0, err
		}
		tolerance = linearTolerance
	}
	if tolerance == 0 {
		return used, nil
	}
	switch age := now.Sub(at); {
	case age > tolerance:
		return 0, refuse(ReasonStale, "it was signed at %s, more than %s ago", at.UTC().Format(time.RFC3339), tolerance)
	case age < -tolerance:
		return 0, refuse(ReasonFuture, "it was signed at %s, more than %s ahead", at.UTC().Format(time.RFC3339), tolerance)
	}
	return used, nil
}

// claim is what a request's headers say was signed, and how.
type claim struct {
	macs      [][]byte
	prefix    string // what is signed before the body
	standard  bool   // the secret is base64 behind "whsec_"
	at        time.Time
	tolerance time.Duration // 0: it has no age
}

// by says whether the secret signs the body as one of the claim's signatures.
func (c *claim) by(secret, body []byte) bool {
	if c.standard {
		key, err := StandardSecret(string(secret))
		if err != nil {
			return false
		}
		secret = key
	}
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(c.prefix))
	mac.Write(body)
	want, good := mac.Sum(nil), false
	for _, got := range c.macs {
		good = hmac.Equal(got, want) || good
	}
	return good
}

// StandardSecret is the key of a secret of Standard Webhooks, "whsec_" and base64.
func StandardSecret(s string) ([]byte, error) {
	key, err := base64.StdEncoding.Strict().DecodeString(strings.TrimPrefix(s, "whsec_"))
	if err != nil || len(key) == 0 {
		return nil, errors.New(`a secret of Standard Webhooks is "whsec_" and base64`)
	}
	return key, nil
}

// claimed reads the headers.
func claimed(kind string, scheme *Scheme, h http.Header) (claim, error) {
	switch kind {
	case GitHub:
		return simple(h, "X-Hub-Signature-256", "sha256=", hex.DecodeString)
	case Notion:
		return simple(h, "X-Notion-Signature", "sha256=", hex.DecodeString)
	case Linear:
		return simple(h, "Linear-Signature", "", hex.DecodeString)
	case Stripe:
		return stripeClaim(h)
	case Standard:
		return standardClaim(h)
	case HMAC:
		if scheme != nil {
			return schemeClaim(scheme, h)
		}
	}
	return claim{}, refuse(ReasonSignature, "there is no webhook of this kind")
}

// one is a header that stands once.
func one(h http.Header, name string) (string, error) {
	values := h.Values(name)
	if len(values) != 1 || values[0] == "" || len(values[0]) > maxSignature {
		return "", refuse(ReasonSignature, "the header %s must stand once, with at most %d bytes", name, maxSignature)
	}
	return values[0], nil
}

func simple(h http.Header, name, prefix string, decode func(string) ([]byte, error)) (claim, error) {
	value, err := one(h, name)
	if err != nil {
		return claim{}, err
	}
	text, ok := strings.CutPrefix(value, prefix)
	mac, err := decode(text)
	if !ok || err != nil || len(mac) != sha256.Size {
		return claim{}, refuse(ReasonSignature, "the header %s is no signature", name)
	}
	return claim{macs: [][]byte{mac}}, nil
}

// stripeClaim reads "t=seconds,v1=hex,…". Stripe signs with each secret that is active; other schemes than v1 count for nothing.
func stripeClaim(h http.Header) (c claim, err error) {
	const name = "Stripe-Signature"
	value, err := one(h, name)
	if err != nil {
		return c, err
	}
	seconds := ""
	for part := range strings.SplitSeq(value, ",") {
		key, text, _ := strings.Cut(part, "=")
		switch key {
		case "t":
			if seconds != "" {
				return c, refuse(ReasonSignature, "the header %s has two times", name)
			}
			seconds = text
		case "v1":
			mac, err := hex.DecodeString(text)
			if err != nil || len(mac) != sha256.Size || len(c.macs) == maxSignatures {
				return c, refuse(ReasonSignature, "the header %s has something else than at most %d signatures", name, maxSignatures)
			}
			c.macs = append(c.macs, mac)
		}
	}
	c.prefix, c.tolerance = seconds+".", stripeTolerance
	c.at, err = unix(seconds)
	if err != nil || len(c.macs) == 0 {
		return c, refuse(ReasonSignature, "the header %s has no time or no v1 signature", name)
	}
	return c, nil
}

// standardClaim reads the three headers of Standard Webhooks. Of the signatures the symmetric ones count, "v1,base64".
func standardClaim(h http.Header) (c claim, err error) {
	id, err := one(h, "Webhook-Id")
	if err != nil {
		return c, err
	}
	seconds, err := one(h, "Webhook-Timestamp")
	if err != nil {
		return c, err
	}
	value, err := one(h, "Webhook-Signature")
	if err != nil {
		return c, err
	}
	for part := range strings.FieldsSeq(value) {
		text, ok := strings.CutPrefix(part, "v1,")
		if !ok {
			continue
		}
		mac, err := base64.StdEncoding.Strict().DecodeString(text)
		if err != nil || len(mac) != sha256.Size || len(c.macs) == maxSignatures {
			return c, refuse(ReasonSignature, "the header Webhook-Signature has something else than at most %d signatures", maxSignatures)
		}
		c.macs = append(c.macs, mac)
	}
	c.prefix, c.tolerance, c.standard = id+"."+seconds+".", standardTolerance, true
	if c.at, err = unix(seconds); err != nil || len(c.macs) == 0 {
		return c, refuse(ReasonSignature, "there is no time, or no v1 signature")
	}
	return c, nil
}

func schemeClaim(s *Scheme, h http.Header) (claim, error) {
	decode := hex.DecodeString
	if s.Encoding == "base64" {
		decode = base64.StdEncoding.Strict().DecodeString
	}
	c, err := simple(h, s.Header, s.Prefix, decode)
	if err != nil || s.Timestamp == "" {
		return c, err
	}
	seconds, err := one(h, s.Timestamp)
	if err != nil {
		return c, err
	}
	if c.at, err = unix(seconds); err != nil {
		return c, refuse(ReasonSignature, "the header %s is no time in Unix seconds", s.Timestamp)
	}
	tolerance := s.Tolerance
	if tolerance == 0 {
		tolerance = schemeTolerance
	}
	c.prefix, c.tolerance = seconds+".", time.Duration(tolerance)*time.Second
	return c, nil
}

// unix reads Unix seconds, in the one spelling of each.
func unix(text string) (time.Time, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > 253402300799 || strconv.FormatInt(n, 10) != text {
		return time.Time{}, errors.New("no Unix seconds")
	}
	return time.Unix(n, 0), nil
}

// linearTime is when Linear signed this: without it a captured request would be good for ever.
func linearTime(body []byte) (time.Time, error) {
	var b struct {
		At *int64 `json:"webhookTimestamp"`
	}
	if err := json.Unmarshal(body, &b); err != nil {
		return time.Time{}, refuse(ReasonMalformed, "the body is not the JSON that Linear sends")
	}
	if b.At == nil || *b.At < 0 || *b.At > 253402300799_999 {
		return time.Time{}, refuse(ReasonStale, "the body has no webhookTimestamp in milliseconds, so that its age is not known")
	}
	return time.UnixMilli(*b.At), nil
}

// Sign is what a provider puts into a request's headers for this body: the other side of Verify, for tests and samples.
func Sign(kind string, scheme *Scheme, secret, body []byte, id string, now time.Time) (http.Header, error) {
	h := http.Header{}
	seconds := strconv.FormatInt(now.Unix(), 10)
	sum := func(key []byte, prefix string) []byte {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(prefix))
		mac.Write(body)
		return mac.Sum(nil)
	}
	switch kind {
	case GitHub:
		h.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(sum(secret, "")))
		h.Set("X-GitHub-Delivery", id)
	case Notion:
		h.Set("X-Notion-Signature", "sha256="+hex.EncodeToString(sum(secret, "")))
	case Linear:
		h.Set("Linear-Signature", hex.EncodeToString(sum(secret, "")))
		h.Set("Linear-Delivery", id)
	case Stripe:
		h.Set("Stripe-Signature", "t="+seconds+",v1="+hex.EncodeToString(sum(secret, seconds+".")))
	case Standard:
		key, err := StandardSecret(string(secret))
		if err != nil {
			return nil, err
		}
		h.Set("Webhook-Id", id)
		h.Set("Webhook-Timestamp", seconds)
		h.Set("Webhook-Signature", "v1,"+base64.StdEncoding.EncodeToString(sum(key, id+"."+seconds+".")))
	case HMAC:
		if scheme == nil {
			return nil, errors.New("a webhook of kind hmac needs a scheme")
		}
		signScheme(h, scheme, func(prefix string) []byte { return sum(secret, prefix) }, id, seconds)
	default:
		return nil, fmt.Errorf("no webhook of kind %q; there are %s", kind, strings.Join(Kinds(), ", "))
	}
	return h, nil
}

func signScheme(h http.Header, s *Scheme, sum func(prefix string) []byte, id, seconds string) {
	prefix := ""
	if s.Timestamp != "" {
		h.Set(s.Timestamp, seconds)
		prefix = seconds + "."
	}
	text := hex.EncodeToString(sum(prefix))
	if s.Encoding == "base64" {
		text = base64.StdEncoding.EncodeToString(sum(prefix))
	}
	h.Set(s.Header, s.Prefix+text)
	if s.Delivery != "" {
		h.Set(s.Delivery, id)
	}
}

// NotionToken is the verification token of Notion's first, unsigned request; "" where the body is none.
func NotionToken(h http.Header, body []byte) string {
	const maxHandshake, maxToken = 1024, 200
	if len(body) > maxHandshake || len(h.Values("X-Notion-Signature")) > 0 {
		return ""
	}
	var b map[string]json.RawMessage
	if json.Unmarshal(body, &b) != nil || len(b) != 1 {
		return ""
	}
	var token string
	if json.Unmarshal(b["verification_token"], &token) != nil || len(token) < 16 || len(token) > maxToken || strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return ""
	}
	return token
}
