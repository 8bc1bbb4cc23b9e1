package outbound

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// SignWebhook sets the headers of Standard Webhooks (standardwebhooks.com, version 1.0.0): webhook-id, webhook-timestamp and,
// with secrets, webhook-signature, a v1 signature for each of them: HMAC-SHA256 over id, time in Unix seconds and body. A
// secret that is not one signs nothing; see CheckSecret.
func SignWebhook(h http.Header, id string, at time.Time, body []byte, secrets []string) {
	stamp := strconv.FormatInt(at.Unix(), 10)
	h.Set("webhook-id", id)
	h.Set("webhook-timestamp", stamp)
	var signatures []string
	for _, secret := range secrets {
		key, err := webhookKey(secret)
		if err != nil {
			continue
		}
		mac := hmac.New(sha256.New, key)
		_, _ = fmt.Fprintf(mac, "%s.%s.%s", id, stamp, body)
		signatures = append(signatures, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	if len(signatures) > 0 {
		h.Set("webhook-signature", strings.Join(signatures, " "))
	}
}

// CheckSecret says why a webhook's secret is none.
func CheckSecret(secret string) error {
	_, err := webhookKey(secret)
	return err
}

// webhookKey decodes a secret of Standard Webhooks: "whsec_" and base64 of 24 to 64 bytes.
func webhookKey(secret string) ([]byte, error) {
	digits, ok := strings.CutPrefix(secret, "whsec_")
	key, err := base64.StdEncoding.DecodeString(digits)
	if !ok || err != nil || len(key) < 24 || len(key) > 64 {
		return nil, errors.New(`a webhook's secret is "whsec_" and base64 of 24 to 64 random bytes`)
	}
	return key, nil
}
