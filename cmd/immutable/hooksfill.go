package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable/client"
	"github.com/tree-of-life-system/immutable/internal/hooks"
)

// Limits of one run of fill.
const (
	fillPages = 100 // of deliveries that GitHub lists
	fillPer   = 100 // deliveries a page
)

// githubHook is how GitHub's API names a webhook: of a repository, an organization or an app.
var githubHook = regexp.MustCompile(`^(?:repos/[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+/hooks/[0-9]+|orgs/[A-Za-z0-9_.-]+/hooks/[0-9]+|app/hook)$`)

// githubDelivery is one attempt at a delivery, as GitHub lists it; guid is the same for all attempts.
type githubDelivery struct {
	ID          json.Number `json:"id"`
	GUID        string      `json:"guid"`
	DeliveredAt time.Time   `json:"delivered_at"`
	StatusCode  int         `json:"status_code"`
	Event       string      `json:"event"`
	Request     *struct {
		Headers map[string]string `json:"headers"`
		Payload json.RawMessage   `json:"payload"`
	} `json:"request"`
}

// fillResult is what --json prints.
type fillResult struct {
	Listed int      `json:"listed"` // deliveries that GitHub lists within the time
	Missed int      `json:"missed"` // those of which no attempt was taken
	There  int      `json:"there"`  // of these, those that the log has all the same
	Filled []string `json:"filled"` // delivery ids that are in the log now, or that GitHub was asked to send again
	Failed []string `json:"failed"`
}

// fill asks GitHub which deliveries were not taken, and sends them: what the API shows, signed with the hook's secret, under the
// delivery's own id.
func (h *hooksCall) fill(hook string) (err error) {
	if !githubHook.MatchString(hook) {
		return h.usagef("a hook is repos/OWNER/REPO/hooks/ID, orgs/ORG/hooks/ID or app/hook, not %s", quote(hook))
	}
	token, err := h.needEnv("GITHUB_TOKEN", "fill asks GitHub's API, with a token that may read the hook's deliveries")
	if err != nil {
		return err
	}
	secret := ""
	if !h.redeliver {
		if secret, err = h.hookSecret(); err != nil {
			return err
		}
	}
	github := http.Header{"Authorization": {"Bearer " + token}, "Accept": {"application/vnd.github+json"}, "X-Github-Api-Version": {"2022-11-28"}}
	base := strings.TrimSuffix(h.api, "/") + "/" + hook + "/deliveries"
	missed, listed, err := h.missed(base, github)
	if err != nil {
		return err
	}
	result := fillResult{Listed: listed, Missed: len(missed), Filled: []string{}, Failed: []string{}}
	var log *client.Client
	if h.token != "" {
		cfg, err := h.clientConfig(readRetry)
		if err != nil {
			return err
		}
		if log, err = client.New(cfg); err != nil {
			return err
		}
	}
	if log != nil {
		defer closing(log, &err)
	}
	for _, d := range missed {
		there, err := h.fillOne(log, base, github, secret, d)
		switch {
		case err != nil:
			h.remark("%s: %s\n", d.GUID, err)
			result.Failed = append(result.Failed, d.GUID)
		case there:
			result.There++
		default:
			result.Filled = append(result.Filled, d.GUID)
		}
	}
	if h.json {
		err = h.answer(result)
	} else {
		h.out.printf("%d deliveries, %d missed: %d were there, %d filled, %d failed\n", listed, result.Missed, result.There, len(result.Filled), len(result.Failed))
	}
	if err == nil && len(result.Failed) > 0 {
		return exit(exitUnknown)
	}
	return err
}

// missed lists the deliveries of which no attempt was answered with success, the oldest first.
func (h *hooksCall) missed(base string, header http.Header) (missed []githubDelivery, listed int, err error) {
	oldest := time.Now().Add(-h.since)
	seen, taken := map[string]githubDelivery{}, map[string]bool{}
	var order []string
	next := fmt.Sprintf("%s?per_page=%d", base, fillPer)
	for page := 0; next != ""; page++ {
		if page == fillPages {
			return nil, 0, fmt.Errorf("GitHub lists more than %d deliveries; give a shorter --since", fillPages*fillPer)
		}
		var list []githubDelivery
		answer, err := h.exchange(h.ctx, http.MethodGet, next, header, nil, &list)
		if err != nil {
			return nil, 0, h.githubError(err, answer)
		}
		next = nextPage(answer.Get("Link"), base)
		for _, d := range list {
			if d.DeliveredAt.Before(oldest) {
				next = ""
				continue
			}
			if _, known := seen[d.GUID]; !known {
				order = append(order, d.GUID)
			}
			seen[d.GUID] = d
			taken[d.GUID] = taken[d.GUID] || d.StatusCode/100 == 2
		}
	}
	for i := len(order) - 1; i >= 0; i-- {
		if !taken[order[i]] {
			missed = append(missed, seen[order[i]])
		}
	}
	return missed, len(order), nil
}

// nextPage reads the address of the next page, which must be of the same list: a token goes with the request.
func nextPage(link, base string) string {
	for part := range strings.SplitSeq(link, ",") {
		address, rel, _ := strings.Cut(strings.TrimSpace(part), ">;")
		if address, ok := strings.CutPrefix(address, "<"); ok && strings.Contains(rel, `rel="next"`) && strings.HasPrefix(address, base+"?") {
			return address
		}
	}
	return ""
}

func (h *hooksCall) githubError(err error, answer http.Header) error {
	if p, ok := errors.AsType[*hookProblem](err); ok {
		wait := ""
		if after := answer.Get("Retry-After"); after != "" {
			wait = "; it says to wait " + after + " seconds"
		}
		return fmt.Errorf("GitHub says %d %s%s", p.status, p.detail, wait)
	}
	if _, ok := errors.AsType[*url.Error](err); ok {
		return fmt.Errorf("GitHub's API does not answer: %w", err)
	}
	return err
}

// fillOne fills one delivery, unless the log has it.
func (h *hooksCall) fillOne(log *client.Client, base string, header http.Header, secret string, d githubDelivery) (there bool, err error) {
	if log != nil {
		if there, err = h.known(log, d.GUID); err != nil || there {
			return there, err
		}
	}
	if h.redeliver {
		answer, err := h.exchange(h.ctx, http.MethodPost, base+"/"+url.PathEscape(d.ID.String())+"/attempts", header, nil, nil)
		return false, h.githubError(err, answer)
	}
	var whole githubDelivery
	if answer, err := h.exchange(h.ctx, http.MethodGet, base+"/"+url.PathEscape(d.ID.String()), header, nil, &whole); err != nil {
		return false, h.githubError(err, answer)
	}
	if whole.Request == nil || whole.GUID != d.GUID || len(bytes.TrimSpace(whole.Request.Payload)) == 0 || bytes.TrimSpace(whole.Request.Payload)[0] != '{' {
		return false, errors.New("GitHub's API does not show its payload")
	}
	var body bytes.Buffer
	if err := json.Compact(&body, whole.Request.Payload); err != nil { // as GitHub sends it
		return false, err
	}
	signed, err := hooks.Sign(hooks.GitHub, nil, []byte(secret), body.Bytes(), d.GUID, time.Now())
	if err != nil {
		return false, err
	}
	signed.Set("Content-Type", "application/json")
	signed.Set("X-Github-Event", d.Event)
	signed.Set("User-Agent", "immutable-hooks-fill")
	var r receipt
	address := strings.TrimSuffix(h.server.url, "/") + "/hooks/" + hooks.GitHub + "/" + h.server.tenant + "/" + h.server.log
	if _, err := h.exchange(h.ctx, http.MethodPost, address, signed, body.Bytes(), &r); err != nil {
		if p, ok := errors.AsType[*hookProblem](err); ok && p.status == http.StatusUnauthorized {
			return false, errors.New("the server does not know the secret: no source of kind github that sends to this log has it")
		}
		return false, h.hookError(err)
	}
	return r.Repeated, nil
}
