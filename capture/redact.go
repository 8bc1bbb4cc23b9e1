package capture

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/url"
	"strings"
	"sync"
)

// Redacted stands in place of what was left out.
const Redacted = "[redacted]"

// Redaction says which values are left out of events, by the names that they stand under; it is not changed once it is used. The zero
// value is the default: the headers and names below. It cannot know a secret that stands in a message, a path, or under a harmless name.
//
// Names are compared without regard to case, '-', '_', '.', and spaces. A name is a secret's
//
//   - with one of these anywhere in it: password, passwd, passphrase, passcode, secret, credential, apikey, accesskey, privatekey,
//     authorization, cookie, cardnumber, securitycode, signature, bearer
//   - with token at its end (accessToken, csrf_token; not max_tokens)
//   - if it is one of: pwd, pass, pw, pin, otp, totp, cvv, cvc, ssn, auth, jwt, sid, sessionid, session, key, sig, code, assertion, nonce,
//     samlresponse, samlrequest, tokens, xauth
type Redaction struct {
	// Names are further names whose values are left out, compared in the same way, whole.
	Names []string
	// Keep are names that are no secrets, though the rules say so.
	Keep []string
	// Off leaves nothing out.
	Off bool

	mu   sync.RWMutex    // guards what follows
	seen map[string]bool // of a name whether it is a secret's: most come again and again
}

// maxSeen bounds the names that are remembered, as others may choose them.
const maxSeen = 4096

var secretParts = []string{
	"password", "passwd", "passphrase", "passcode", "secret", "credential", "apikey", "accesskey", "privatekey", "authorization",
	"cookie", "cardnumber", "securitycode", "signature", "bearer",
}

var secretNames = map[string]bool{
	"pwd": true, "pass": true, "pw": true, "pin": true, "otp": true, "totp": true, "cvv": true, "cvc": true, "ssn": true, "auth": true,
	"jwt": true, "sid": true, "sessionid": true, "session": true, "key": true, "sig": true, "code": true, "assertion": true, "nonce": true,
	"samlresponse": true, "samlrequest": true, "tokens": true, "xauth": true,
}

// maxName is how much of a name is looked at: no secret has a longer one that its beginning does not give away.
const maxName = 256

// Secret says whether a value of this name, a header's too, is left out.
func (r *Redaction) Secret(name string) bool {
	if r.Off {
		return false
	}
	r.mu.RLock()
	is, found := r.seen[name]
	r.mu.RUnlock()
	if found {
		return is
	}
	is = r.secret(name)
	if len(name) > maxName {
		return is
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen == nil {
		r.seen = map[string]bool{}
	}
	if len(r.seen) < maxSeen {
		r.seen[strings.Clone(name)] = is
	}
	return is
}

func (r *Redaction) secret(name string) bool {
	plain := plainName(name)
	for _, k := range r.Keep {
		if plainName(k) == plain {
			return false
		}
	}
	if secretNames[plain] || strings.HasSuffix(plain, "token") {
		return true
	}
	for _, p := range secretParts {
		if strings.Contains(plain, p) {
			return true
		}
	}
	for _, n := range r.Names {
		if plainName(n) == plain {
			return true
		}
	}
	return false
}

// plainName is a name in lower case without separators.
func plainName(name string) string {
	name = name[:min(len(name), maxName)]
	if strings.IndexFunc(name, func(c rune) bool { return c < 'a' || c > 'z' }) < 0 {
		return name
	}
	return strings.Map(func(c rune) rune {
		switch {
		case c == '-' || c == '_' || c == '.' || c == ' ' || c == '[' || c == ']':
			return -1
		case 'A' <= c && c <= 'Z':
			return c - 'A' + 'a'
		}
		return c
	}, name)
}

// Query is a query string, or a form's body, with the values of secrets left out. Order and spelling of the rest stay.
func (r *Redaction) Query(raw string) string {
	if r.Off || raw == "" {
		return raw
	}
	var out strings.Builder
	out.Grow(len(raw) + 2*len(Redacted))
	for i := 0; raw != ""; i++ {
		at := strings.IndexAny(raw, "&;")
		pair, sep := raw, ""
		if at >= 0 {
			pair, sep, raw = raw[:at], raw[at:at+1], raw[at+1:]
		} else {
			raw = ""
		}
		name, _, found := strings.Cut(pair, "=")
		decoded, err := url.QueryUnescape(name)
		switch {
		case err != nil: // nobody knows what it stands for
			out.WriteString(Redacted)
		case r.Secret(decoded):
			out.WriteString(name)
			if found {
				out.WriteString("=" + Redacted)
			}
		default:
			out.WriteString(pair)
		}
		out.WriteString(sep)
	}
	return out.String()
}

// URL is an address without user, password, fragment and the values of secrets in its query.
func (r *Redaction) URL(u *url.URL) string {
	own := *u
	if !r.Off {
		own.User, own.Fragment, own.RawFragment = nil, "", ""
	}
	own.RawQuery = ""
	own.ForceQuery = false
	s := own.String()
	if q := r.Query(u.RawQuery); q != "" {
		s += "?" + q
	}
	return s
}

// maxJSONDepth bounds the nesting of a document that is read to be redacted.
const maxJSONDepth = 100

var errJSON = errors.New("no JSON document that can be redacted")

// JSON is a JSON document with the values of secrets left out, at any depth; other values stay. A document that is
// no JSON, or is not whole, is an error: nobody knows what stands where.
func (r *Redaction) JSON(data []byte) ([]byte, error) {
	if !json.Valid(data) {
		return nil, errJSON
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	out, err := r.appendJSON(nil, d, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errJSON
	}
	return out, nil
}

func (r *Redaction) appendJSON(dst []byte, d *json.Decoder, depth int) ([]byte, error) {
	t, err := d.Token()
	if err != nil || depth > maxJSONDepth {
		return nil, errJSON
	}
	delim, nested := t.(json.Delim)
	if !nested {
		return appendScalar(dst, t)
	}
	dst = append(dst, byte(delim))
	for i := 0; d.More(); i++ {
		if i > 0 {
			dst = append(dst, ',')
		}
		if delim == '{' {
			name, err := d.Token()
			if err != nil {
				return nil, errJSON
			}
			text, _ := name.(string)
			if dst, err = appendScalar(dst, text); err != nil {
				return nil, err
			}
			dst = append(dst, ':')
			if r.Secret(text) {
				var skipped json.RawMessage
				if err := d.Decode(&skipped); err != nil {
					return nil, errJSON
				}
				dst = append(dst, `"`+Redacted+`"`...)
				continue
			}
		}
		if dst, err = r.appendJSON(dst, d, depth+1); err != nil {
			return nil, err
		}
	}
	if _, err := d.Token(); err != nil {
		return nil, errJSON
	}
	return append(dst, byte(delim)+2), nil // ']' and '}' stand two after '[' and '{'
}

func appendScalar(dst []byte, v any) ([]byte, error) {
	b, err := json.Marshal(v)
	return append(dst, b...), err
}

// Location is text that may be an address, as in the headers Location and Referer: user, password and the values of secrets in its query
// are left out.
func (r *Redaction) Location(s string) string {
	if r.Off {
		return s
	}
	if head, query, found := strings.Cut(s, "?"); found {
		query, _, _ = strings.Cut(query, "#")
		s = head + "?" + r.Query(query)
	}
	begin := strings.Index(s, "://")
	if begin < 0 {
		return s
	}
	rest := s[begin+3:]
	host := rest
	if end := strings.IndexAny(rest, "/?"); end >= 0 {
		host = rest[:end]
	}
	return s[:begin+3] + rest[strings.LastIndexByte(host, '@')+1:]
}
