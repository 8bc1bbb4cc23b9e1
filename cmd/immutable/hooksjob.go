package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/intake"
)

const jobEnvironment = "the job needs `permissions: id-token: write` (docs/github-actions.md)"

// oidcToken asks GitHub for a token of the job, for the audience. Each call gets a new one.
func (h *hooksCall) oidcToken(ctx context.Context) (string, error) {
	address, err := h.needEnv("ACTIONS_ID_TOKEN_REQUEST_URL", jobEnvironment)
	if err != nil {
		return "", err
	}
	secret, err := h.needEnv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", jobEnvironment)
	if err != nil {
		return "", err
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Hostname())) {
		return "", errors.New("ACTIONS_ID_TOKEN_REQUEST_URL is no https address")
	}
	q := u.Query()
	q.Set("audience", h.audience)
	u.RawQuery = q.Encode()
	var answer struct{ Value string }
	if _, err := h.exchange(ctx, http.MethodGet, u.String(), http.Header{"Authorization": {"Bearer " + secret}}, nil, &answer); err != nil {
		return "", fmt.Errorf("ask GitHub for the job's token: %w", err)
	}
	if answer.Value == "" {
		return "", errors.New("GitHub gave no token for the job")
	}
	return answer.Value, nil
}

// jobToken prints a token of the job, to be put into IMMUTABLE_TOKEN of commands that read.
func (h *hooksCall) jobToken() error {
	if err := h.connect(); err != nil {
		return err
	}
	token, err := h.oidcToken(h.ctx)
	if err != nil {
		return err
	}
	if h.json {
		return h.answer(map[string]string{"token": token})
	}
	h.out.printf("%s\n", token)
	return nil
}

// job appends one event in the name of a GitHub Actions job.
func (h *hooksCall) job(args []string) error {
	level, err := immutable.ParseLevel(args[0])
	if err != nil {
		return h.usagef("%s", err)
	}
	metadata, err := intake.Pairs(args[2:])
	if err != nil {
		return h.usagef("%s", err)
	}
	event := map[string]any{"level": level.String(), "message": args[1]}
	if len(metadata) > 0 {
		event["metadata"] = json.RawMessage(metadata)
	}
	body, err := marshal(event)
	if err != nil {
		return err
	}
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	address := strings.TrimSuffix(h.server.url, "/") + "/hooks/github-actions/" + h.server.tenant + "/" + h.server.log
	header := http.Header{"Content-Type": {"application/json"}, "Idempotency-Key": {"job/" + hex.EncodeToString(b[:])}}
	until := time.Now().Add(writeRetry)
	if h.server.retry != 0 {
		until = time.Now().Add(h.server.retry)
	}
	for wait := time.Second; ; wait = min(2*wait, 5*time.Second) {
		var r receipt
		err := h.tryJob(address, header, body, &r)
		if err == nil {
			if h.json {
				return h.answer(r)
			}
			h.out.printf("entry %d  %s  %s  block %s\n", r.Index, r.Timestamp, level, r.Hash)
			return nil
		}
		if !passing(err) || time.Now().Add(wait).After(until) {
			return h.hookError(err)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-h.ctx.Done():
			timer.Stop()
			return h.ctx.Err()
		}
	}
}

// tryJob sends the event once, with a token of its own: the server takes each once.
func (h *hooksCall) tryJob(address string, header http.Header, body []byte, r *receipt) error {
	token, err := h.oidcToken(h.ctx)
	if err != nil {
		return err
	}
	header = header.Clone()
	header.Set("Authorization", "Bearer "+token)
	_, err = h.exchange(h.ctx, http.MethodPost, address, header, body, r)
	return err
}

// passing says whether the same may succeed a little later.
func passing(err error) bool {
	if p, ok := errors.AsType[*hookProblem](err); ok {
		return p.status >= 500 || p.status == http.StatusTooManyRequests || p.status == http.StatusRequestTimeout
	}
	_, away := errors.AsType[*url.Error](err)
	return away
}
