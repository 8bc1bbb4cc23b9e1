package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/vfs"
)

// NewLogWriter starts a Writer that delivers to a log of this process instead of a server's, so that its callers wait for
// memory, or for the spool, and not for the log's disk. It uses the log until it was closed; close it before the log.
func NewLogWriter(l *immutable.Log, cfg WriterConfig) (*Writer, error) {
	c := &Client{fs: vfs.OS(), now: time.Now, pause: pause, local: l}
	c.cfg.Tenant, c.cfg.Log = "local", l.Origin() // what a spool is of
	c.setDefaults()
	return c.NewWriter(cfg)
}

// appendLocal is send for a log of this process.
func (c *Client) appendLocal(ctx context.Context, drafts []draft) ([]immutable.Receipt, error) {
	events := make([]immutable.Event, len(drafts))
	for i := range drafts {
		var l entry.Line
		if err := entry.Decode(drafts[i].line, &l); err != nil {
			return nil, fmt.Errorf("event %d: %w", i, err)
		}
		e, err := l.Event()
		if err != nil {
			return nil, fmt.Errorf("event %d: %w", i, err)
		}
		events[i] = *e
	}
	rs, err := c.local.Append(ctx, events...)
	return rs, localProblem(err)
}

// localProblem puts what a log refuses for good into the words of a server, which the Writer goes by.
func localProblem(err error) error {
	p := &Problem{Status: http.StatusUnprocessableEntity, Title: "the log refuses it", Event: -1}
	if err != nil {
		p.Detail = err.Error()
	}
	if conflict, ok := errors.AsType[*immutable.KeyConflictError](err); ok {
		p.Status, p.Code, p.Event, p.index = http.StatusConflict, "key-conflict", conflict.Event, conflict.Index
		return p
	}
	if errors.Is(err, immutable.ErrTooLarge) {
		p.Code = "too-large"
		return p
	}
	return err
}
