package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestAlertIsSignedByEachSecret verifies the signatures as a receiver does. Tries of one alert have one id.
func TestAlertIsSignedByEachSecret(t *testing.T) {
	env := logEnv(t)
	mustRun(t, env, []byte(`{"message":"a","metadata":{"n":1}}`), "append")
	if err := rewrite(env["IMMUTABLE_LOG_DIR"], segmentName, replaceIn(`"n":1`, `"n":2`)); err != nil {
		t.Fatal(err)
	}
	type request struct {
		header http.Header
		body   []byte
	}
	var got []request
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got = append(got, request{r.Header, body})
		if len(got) == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	secrets := []string{"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}
	env["IMMUTABLE_ALERT_SECRET"] = strings.Join(secrets, " ")
	if r := run(t, env, nil, "verify", "--alert", server.URL); r.code != exitNo {
		t.Fatalf("exit code %d: %s", r.code, r.errOut)
	}
	if len(got) != 2 || got[0].header.Get("webhook-id") != got[1].header.Get("webhook-id") || got[0].header.Get("webhook-id") == "" {
		t.Fatalf("%d requests: %v", len(got), got)
	}
	for _, g := range got {
		signatures := strings.Fields(g.header.Get("webhook-signature"))
		if len(signatures) != len(secrets) {
			t.Fatalf("%d signatures", len(signatures))
		}
		for i, secret := range secrets {
			key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
			if err != nil {
				t.Fatal(err)
			}
			mac := hmac.New(sha256.New, key)
			_, _ = fmt.Fprintf(mac, "%s.%s.%s", g.header.Get("webhook-id"), g.header.Get("webhook-timestamp"), g.body)
			if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); signatures[i] != want {
				t.Errorf("signature %d is %s, want %s", i, signatures[i], want)
			}
		}
	}
}

// TestMalformedAlertSecretIsSaidBeforeTheVerification rather than on the day when an alert is due.
func TestMalformedAlertSecretIsSaidBeforeTheVerification(t *testing.T) {
	env := logEnv(t)
	mustRun(t, env, []byte(`{"message":"a"}`), "append")
	for _, secret := range []string{"plain", "whsec_AAAA", strings.Repeat("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw ", 4)} {
		env["IMMUTABLE_ALERT_SECRET"] = secret
		r := run(t, env, nil, "verify", "--alert", "http://127.0.0.1:1/")
		if r.code != exitUnknown || !bytes.Contains(r.errOut, []byte("IMMUTABLE_ALERT_SECRET")) {
			t.Errorf("%.20q: exit code %d: %s", secret, r.code, r.errOut)
		}
		if bytes.Contains(r.errOut, []byte("MfKQ9r8GK")) {
			t.Errorf("the secret is printed: %s", r.errOut)
		}
		if r := run(t, env, nil, "verify"); r.code != exitOK {
			t.Errorf("without --alert the secret matters: %s", r.errOut)
		}
	}
}
