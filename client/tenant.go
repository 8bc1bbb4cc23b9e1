package client

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
)

// Tenant asks for something of the tenant that there is no method for, such as its sinks. path is what follows the tenant's
// address, for example "sinks/siem/pause"; body is sent as JSON, unless it is nil; the answer is decoded into answer, unless that is
// nil. A change whose answer was lost is not repeated: the error then wraps immutable.ErrUncertain.
func (c *Client) Tenant(ctx context.Context, method, path string, body, answer any) error {
	for _, r := range path {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._/", r) {
			return fmt.Errorf("the path %q: a name has letters, digits, - . _ only", path)
		}
	}
	reads := method == "GET"
	a := &call{method: method, url: c.root + "/api/v1/tenants/" + c.cfg.Tenant + "/" + path, limit: maxAnswer, writes: !reads, repeatable: reads}
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return err
		}
		a.body, a.kind = data, "application/json"
	}
	data, err := c.do(ctx, a)
	if err != nil || answer == nil {
		return err
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return fmt.Errorf("the server's answer cannot be read: %w", err)
	}
	return nil
}
