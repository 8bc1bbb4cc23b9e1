package witness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable/proof"
)

const (
	// sizeType is the content type of a 409 answer that says which size the witness has (C2SP tlog-witness).
	sizeType = "text/x.tlog.size"
	// maxAnswer bounds what is read of an answer. Sixteen ML-DSA-44 lines take 53 KiB.
	maxAnswer = proof.MaxNote
	// maxReason is how much of a witness's own words an error repeats.
	maxReason = 200
)

// ErrAnswer is in the chain of errors about an answer that is none: of another form, too long, or without signatures of
// the witness's keys.
var ErrAnswer = errors.New("unusable answer")

// A SizeError says that the witness has another size than the old size that it was asked with.
type SizeError struct{ Size uint64 }

func (e *SizeError) Error() string { return fmt.Sprintf("the witness has size %d", e.Size) }

// A StatusError is an answer other than 200, or 409 with a size.
type StatusError struct {
	Status int
	Reason string // the witness's words, cut short; text from a stranger
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("the witness answered %d %s: %q", e.Status, http.StatusText(e.Status), e.Reason)
}

// Client asks witnesses. It follows no redirects, because a cosignature is asked of a named witness, reads no more than it
// must of an answer, and believes nothing that is not signed.
type Client struct{ http *http.Client }

// NewClient returns a client. Its requests end with their contexts at the latest.
func NewClient() *Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DisableCompression = true // nothing to inflate
	t.MaxResponseHeaderBytes = 16 << 10
	t.MaxIdleConnsPerHost, t.IdleConnTimeout = 1, 90*time.Second
	return &Client{&http.Client{
		Transport:     t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// CheckURL returns nil if a witness can be asked at the URL.
func CheckURL(prefix string) error {
	u, err := url.Parse(prefix)
	if err != nil {
		return err
	}
	if u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return fmt.Errorf("%q: want http:// or https://, a host, and nothing after the path", prefix)
	}
	return nil
}

// AddCheckpoint asks the witness at the URL to cosign the checkpoint in req.Note and returns its signature lines, each verified
// with one of keys; lines by other keys are left out. Errors are, or wrap, *[SizeError], *[StatusError], [ErrAnswer],
// *[proof.SignatureError] and what the network gives.
func (c *Client) AddCheckpoint(ctx context.Context, prefix string, keys []proof.Key, req *Request) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(prefix, "/")+"/add-checkpoint", strings.NewReader(string(req.Append(nil))))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "text/plain; charset=utf-8")
	status, contentType, body, err := c.do(r)
	if err != nil {
		return nil, err
	}
	switch {
	case status == http.StatusOK:
		return parseAnswer(req.Note, body, keys)
	case status == http.StatusConflict && mediaType(contentType) == sizeType:
		size, err := parseSize(strings.TrimSuffix(string(body), "\n"))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrAnswer, err)
		}
		return nil, &SizeError{size}
	}
	return nil, statusError(status, body)
}

// Checkpoint fetches what the witness has cosigned last for an origin. The note is not verified: the log's keys and the
// witness's are the caller's.
func (c *Client) Checkpoint(ctx context.Context, prefix, origin string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(prefix, "/")+"/"+originHash(origin)+"/checkpoint", nil)
	if err != nil {
		return nil, err
	}
	status, _, body, err := c.do(r)
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, statusError(status, body)
	}
	return body, nil
}

func (c *Client) do(r *http.Request) (status int, contentType string, body []byte, err error) {
	r.Header.Set("User-Agent", "immutable")
	resp, err := c.http.Do(r)
	if err != nil {
		return 0, "", nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return 0, "", nil, fmt.Errorf("read the answer: %w", err)
	}
	if len(body) > maxAnswer {
		return 0, "", nil, fmt.Errorf("%w: more than %d bytes", ErrAnswer, maxAnswer)
	}
	return resp.StatusCode, resp.Header.Get("Content-Type"), body, nil
}

func mediaType(contentType string) string {
	t, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return ""
	}
	return t
}

func statusError(status int, body []byte) error {
	reason := strings.TrimSpace(string(body[:min(len(body), maxReason)]))
	return &StatusError{status, strings.ToValidUTF8(reason, "\uFFFD")}
}

// parseAnswer takes the signature lines by keys out of an answer. There must be one, none of them bad.
func parseAnswer(note, answer []byte, keys []proof.Key) ([]byte, error) {
	asked, err := proof.ParseNote(note)
	if err != nil {
		return nil, err
	}
	// What an answer adds must not change the text: it is read as the signatures of this very text, and must have no more.
	n, err := proof.ParseNote(append([]byte(asked.Text+"\n"), answer...))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	if n.Text != asked.Text {
		return nil, fmt.Errorf("%w: an empty line among the signatures", ErrAnswer)
	}
	if _, err := n.Verify(keys); err != nil {
		return nil, err
	}
	var lines []byte
	var got []proof.Signature
	for _, s := range n.Signatures {
		same := func(o proof.Signature) bool { return o.Name == s.Name && o.ID == s.ID }
		if signedBy(s, keys) && !slices.ContainsFunc(got, same) {
			got = append(got, s)
			lines = appendSignature(lines, s)
		}
	}
	if len(got) == 0 {
		return nil, fmt.Errorf("%w: %d signatures, none by the keys that the policy has for this witness", ErrAnswer, len(n.Signatures))
	}
	return lines, nil
}
