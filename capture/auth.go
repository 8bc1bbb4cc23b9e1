package capture

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/capture/internal/meta"
	"github.com/tree-of-life-system/immutable/event"
)

// AuthAction is what happened to a login, a factor, a privilege or a token: one of the constants, and nothing else.
type AuthAction string

// The vocabulary. A login that failed is its own word, since it is what one looks for.
const (
	AuthLogin           AuthAction = "login"
	AuthFailure         AuthAction = "failure" // of a login
	AuthLogout          AuthAction = "logout"
	AuthLockout         AuthAction = "lockout"
	AuthUnlock          AuthAction = "unlock"
	AuthMFAEnroll       AuthAction = "mfa-enroll"
	AuthMFARemove       AuthAction = "mfa-remove"
	AuthMFAChallenge    AuthAction = "mfa-challenge" // answered; Failed says wrongly
	AuthPasswordChange  AuthAction = "password-change"
	AuthPrivilegeChange AuthAction = "privilege-change"
	AuthTokenIssue      AuthAction = "token-issue"
	AuthTokenRefresh    AuthAction = "token-refresh"
	AuthTokenRevoke     AuthAction = "token-revoke"
)

// AuthActions returns the vocabulary, in the order of the constants.
func AuthActions() []AuthAction {
	out := make([]AuthAction, len(authWords))
	for i, w := range authWords {
		out[i] = w.action
	}
	return out
}

var authWords = []struct {
	action  AuthAction
	event   string
	level   immutable.Level
	message string
}{
	{AuthLogin, event.ActionLogin, immutable.Audit, "logged in"},
	{AuthFailure, event.ActionLogin, immutable.Security, "login failed"},
	{AuthLogout, event.ActionLogout, immutable.Audit, "logged out"},
	{AuthLockout, event.ActionLockout, immutable.Security, "account locked"},
	{AuthUnlock, event.ActionUnlock, immutable.Security, "account unlocked"},
	{AuthMFAEnroll, event.ActionMFAEnroll, immutable.Security, "second factor enrolled"},
	{AuthMFARemove, event.ActionMFARemove, immutable.Security, "second factor removed"},
	{AuthMFAChallenge, event.ActionMFA, immutable.Audit, "second factor"},
	{AuthPasswordChange, event.ActionPasswordSet, immutable.Security, "password changed"},
	{AuthPrivilegeChange, event.ActionPrivilegeSet, immutable.Security, "privileges changed"},
	{AuthTokenIssue, event.ActionTokenIssue, immutable.Audit, "token issued"},
	{AuthTokenRefresh, event.ActionTokenRefresh, immutable.Audit, "token refreshed"},
	{AuthTokenRevoke, event.ActionTokenRevoke, immutable.Audit, "token revoked"},
}

// Authentication is what is known of it. Every member is optional.
type Authentication struct {
	Actor   event.Actor   // who did it, or tried to
	Account *event.Target // whose account it is about, where that is not the actor's
	Failed  bool          // it was tried and did not succeed; AuthFailure and nothing else needs no Failed
	Reason  string        // why it failed, or was done
	Method  string        // "password", "passkey", "oidc", "certificate" …
	Factor  string        // of a second one: "totp", "webauthn", "sms" …

	Source  *event.Source
	Request *event.Request

	// Token is the secret itself, and is not recorded: its SHA-256 is, under token.sha256, by which its later use can be found. It
	// must not be a password: what can be guessed can be found by its hash.
	Token        string
	TokenID      string
	TokenScopes  []string
	TokenExpires time.Time

	Before, After []string // roles or privileges, of a change

	Extra immutable.Fields
}

// maxList bounds roles and scopes.
const maxList = 100

// Auth records an event of the vocabulary: at AUDIT what went as it should, at SECURITY what failed, and what changes who may get in.
func (r *Recorder) Auth(ctx context.Context, action AuthAction, a Authentication) error {
	for _, w := range authWords {
		if w.action != action {
			continue
		}
		s := event.Shape{
			Kind: event.KindAuthentication, Action: w.event, Outcome: event.OutcomeSuccess, Reason: Text(a.Reason, maxValue),
			Actor: &a.Actor, Target: a.Account, Source: a.Source, Request: a.Request,
		}
		if action == AuthPrivilegeChange {
			s.Kind = event.KindAuthorization
		}
		level := w.level
		if a.Failed || action == AuthFailure {
			s.Outcome, level = event.OutcomeFailure, immutable.Security
		}
		message := w.message
		if who := first(a.Actor.Name, a.Actor.Email, a.Actor.ID); who != "" {
			message += ": " + Text(who, 256)
		}
		return r.record(ctx, level, message, &s, a.Extra, a.write)
	}
	return fmt.Errorf("record %q: it is no authentication event; the constants that begin with Auth are", Text(string(action), 80))
}

// write writes what is not of the common shape.
func (a *Authentication) write(o *meta.Object) {
	if a.Method != "" || a.Factor != "" || a.Before != nil || a.After != nil {
		o.Open("auth")
		o.Text("method", Text(a.Method, 256))
		o.Text("factor", Text(a.Factor, 256))
		if a.Before != nil || a.After != nil {
			o.Texts("before", list(a.Before))
			o.Texts("after", list(a.After))
		}
		o.Close()
	}
	expires := eventTime(a.TokenExpires)
	if a.Token == "" && a.TokenID == "" && a.TokenScopes == nil && expires.IsZero() {
		return
	}
	o.Open("token")
	if a.Token != "" {
		digest := sha256.Sum256([]byte(a.Token))
		o.Text("sha256", hex.EncodeToString(digest[:]))
	}
	o.Text("id", Text(a.TokenID, 256))
	if a.TokenScopes != nil {
		o.Texts("scopes", list(a.TokenScopes))
	}
	if !expires.IsZero() {
		o.Text("expires", expires.UTC().Format(time.RFC3339Nano))
	}
	o.Close()
}

func list(all []string) []string {
	out := make([]string, 0, min(len(all), maxList))
	for _, s := range all[:min(len(all), maxList)] {
		out = append(out, Text(s, 256))
	}
	return out
}

func first(all ...string) string {
	for _, s := range all {
		if s != "" {
			return s
		}
	}
	return ""
}
