package tenant

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
)

// ByClaims gives the principal that the tenant's first rule for these claims makes, and the rule; nil where none fits. The
// caller has verified the token, and sets ID and Expires. Rules of the installation's own tenant are for the whole
// installation.
func (t *Tenant) ByClaims(issuer string, claims map[string]any) (*Principal, *ClaimRule) {
	generation := t.rules.Load() // before the rules: a change in between makes the principal invalid, not for ever valid
	s := t.settings.Load()
	for i := range s.Claims {
		r := &s.Claims[i]
		if r.Issuer != issuer || !r.fits(claims) {
			continue
		}
		name := r.Name
		if name == "" {
			name = "sub"
		}
		p := t.principal(r.Role, r.Logs, r.Levels, generation)
		p.Name = strings.Join(texts(claims[name]), " ")
		return p, r
	}
	return nil, nil
}

// ByCertificate gives the principal that the tenant's first rule for a certificate makes; nil where none fits. The caller has
// verified the certificate, and that its holder has the key.
func (t *Tenant) ByCertificate(cert *x509.Certificate) *Principal {
	generation := t.rules.Load()
	s := t.settings.Load()
	sum := sha256.Sum256(cert.Raw)
	fingerprint := hex.EncodeToString(sum[:])
	for i := range s.Certificates {
		if r := &s.Certificates[i]; r.fits(cert, fingerprint) {
			p := t.principal(r.Role, r.Logs, r.Levels, generation)
			p.ID, p.Name, p.Expires = "mtls:"+fingerprint, cert.Subject.CommonName, cert.NotAfter.UTC()
			return p
		}
	}
	return nil
}

func (t *Tenant) principal(role Role, logs []string, levels Levels, generation uint64) *Principal {
	p := &Principal{Tenant: t.name, Role: role, Logs: slices.Clone(logs), Levels: slices.Clone(levels), rules: generation}
	if t.name == SystemName {
		p.Tenant = ""
	}
	return p
}

func (r *ClaimRule) fits(claims map[string]any) bool {
	for claim, pattern := range r.Match {
		if !slices.ContainsFunc(texts(claims[claim]), func(s string) bool { return glob(pattern, s) }) {
			return false
		}
	}
	return len(r.Match) > 0
}

func (r *CertRule) fits(cert *x509.Certificate, fingerprint string) bool {
	switch {
	case r.Fingerprint != "":
		return r.Fingerprint == fingerprint
	case r.URI != "":
		for _, u := range cert.URIs {
			if u.String() == r.URI {
				return true
			}
		}
		return false
	case r.DNS != "":
		return slices.Contains(cert.DNSNames, r.DNS)
	case r.Email != "":
		return slices.Contains(cert.EmailAddresses, r.Email)
	}
	return r.CommonName != "" && r.CommonName == cert.Subject.CommonName
}

// texts are the values of a claim as a rule compares them: a string, a number in its own spelling, true or false, and each of
// these in an array. Anything else is no value.
func texts(claim any) []string {
	switch v := claim.(type) {
	case string:
		return []string{v}
	case json.Number:
		return []string{v.String()}
	case bool:
		return []string{strconv.FormatBool(v)}
	case []any:
		var out []string
		for _, e := range v {
			if _, nested := e.([]any); !nested {
				out = append(out, texts(e)...)
			}
		}
		return out
	}
	return nil
}

// glob says whether s is as the pattern says, in which "*" stands for any characters, also none. Its time is linear in s for
// each star.
func glob(pattern, s string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == s
	}
	first, last := parts[0], parts[len(parts)-1]
	if len(s) < len(first)+len(last) || !strings.HasPrefix(s, first) || !strings.HasSuffix(s, last) {
		return false
	}
	s = s[len(first) : len(s)-len(last)]
	for _, part := range parts[1 : len(parts)-1] {
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s = s[i+len(part):]
	}
	return true
}
