package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/outbound"
)

const (
	alertTries   = 3
	alertTimeout = 10 * time.Second
	alertBackoff = time.Second // doubled after each try
)

// sendAlert posts the report. Without one, because verification could not run, it posts why.
func sendAlert(c *call, url string, secrets []string, name string, report any, failed error) {
	var body []byte
	var err error
	if report == nil {
		body, err = marshal(map[string]string{"verdict": string(immutable.Unknown), "dir": name, "error": redact(failed.Error())})
	} else {
		body, err = marshal(report)
	}
	wait, id := alertBackoff, "msg_"+rand.Text() // one message, however often it is tried
	for try := 1; err == nil; try++ {
		var final bool
		if final, err = postAlert(c.ctx, url, id, secrets, body); err == nil {
			return
		}
		if final || try == alertTries {
			break
		}
		select {
		case <-time.After(wait):
			wait, err = 2*wait, nil
		case <-c.ctx.Done():
		}
	}
	c.errs.printf("alert not delivered: %s\n", err)
}

// postAlert says with final that another try is of no use.
func postAlert(ctx context.Context, url, id string, secrets []string, body []byte) (final bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, alertTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return true, err
	}
	req.Header.Set("Content-Type", "application/json")
	outbound.SignWebhook(req.Header, id, time.Now(), body, secrets)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, err
	}
	defer res.Body.Close()
	_, _ = io.CopyN(io.Discard, res.Body, 64<<10) // so that the connection ends in order
	if res.StatusCode/100 == 2 {
		return false, nil
	}
	return res.StatusCode/100 == 4 && res.StatusCode != http.StatusTooManyRequests, fmt.Errorf("%s answered %s", url, res.Status)
}

// maxAlertSecrets is how many secrets sign side by side, while one is being replaced.
const maxAlertSecrets = 3

// alertSecrets are what alerts are signed with. A secret that cannot sign is refused when it is set, not when an alert is due.
func alertSecrets(c *call) ([]string, error) {
	secrets := strings.Fields(c.getenv("IMMUTABLE_ALERT_SECRET"))
	if len(secrets) > maxAlertSecrets {
		return nil, fmt.Errorf("IMMUTABLE_ALERT_SECRET has %d secrets; at most %d", len(secrets), maxAlertSecrets)
	}
	for i, s := range secrets {
		if err := outbound.CheckSecret(s); err != nil {
			return nil, fmt.Errorf("IMMUTABLE_ALERT_SECRET, secret %d: %w (make one: echo whsec_$(head -c 32 /dev/urandom | base64))", i+1, err)
		}
	}
	return secrets, nil
}
