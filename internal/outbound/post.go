package outbound

import (
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

// maxAfter is how much of what Retry-After asks for is believed.
const maxAfter = 6 * time.Hour

// StatusError is an answer that is no success.
type StatusError struct {
	Code   int
	Status string
	After  time.Duration // what Retry-After asks for
}

func (e *StatusError) Error() string { return "it answered " + e.Status }

// Temporary says whether the same request may be taken later: 408, 425, 429 and 5xx.
func (e *StatusError) Temporary() bool {
	switch e.Code {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	}
	return e.Code/100 == 5
}

// Send sends a request and takes any 2xx for success; the answer's body is its first MaxAnswer bytes. Otherwise the error is a
// *StatusError, or tells nothing of the network (see Explain).
func Send(c *http.Client, req *http.Request) ([]byte, error) {
	req.Header.Set("User-Agent", "immutable")
	res, err := c.Do(req)
	if err != nil {
		return nil, Explain(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, MaxAnswer)) // also so that the connection can be used again
	if res.StatusCode/100 == 2 {
		return body, nil // it took the request: what it says beside that may be cut
	}
	failed := &StatusError{Code: res.StatusCode, Status: res.Status}
	if n, aerr := strconv.Atoi(res.Header.Get("Retry-After")); aerr == nil && n > 0 && n <= int(maxAfter/time.Second) {
		failed.After = time.Duration(n) * time.Second
	}
	return body, errors.Join(failed, err)
}

// BackOff doubles from a second up to most, and differs by up to a half, so that many do not come back at once.
func BackOff(tries int, most time.Duration) time.Duration {
	d := min(time.Second<<min(max(tries, 0), 20), most)
	return d/2 + rand.N(d/2+1) //nolint:gosec // G404: when something is tried again is no secret
}
