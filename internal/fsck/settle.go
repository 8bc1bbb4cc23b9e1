package fsck

import "context"

func settle(ctx context.Context, o *Options) (*Report, error) {
	return &Report{Verdict: Unknown, Attempts: 1}, ctx.Err()
}
