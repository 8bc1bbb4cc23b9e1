package tenant

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
)

func benchInstallation(b *testing.B) *Installation {
	in, err := Open(context.Background(), Options{Dir: b.TempDir(), OriginPrefix: "example.com/bench"})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := in.Close(context.Background()); err != nil {
			b.Error(err)
		}
	})
	return in
}

// BenchmarkReads is what the record of a read costs it: one kind is counted, kinds of their own are each recorded durably.
func BenchmarkReads(b *testing.B) {
	for _, kinds := range []string{"one", "many"} {
		b.Run(kinds, func(b *testing.B) {
			x, err := benchInstallation(b).Tenant(DefaultName)
			if err != nil {
				b.Fatal(err)
			}
			var n atomic.Uint64
			b.SetParallelism(32)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					r := Read{Log: MainName, Action: "read"}
					if kinds == "many" {
						r.Filter = fmt.Sprint(n.Add(1))
					}
					end, err := x.BeginRead(context.Background(), reader, r)
					if err != nil {
						b.Error(err)
						return
					}
					end(100, nil)
				}
			})
			b.StopTimer()
		})
	}
}

func BenchmarkAuthenticate(b *testing.B) {
	in := benchInstallation(b)
	plain, _, err := in.Bootstrap(context.Background(), "")
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := in.Authenticate(context.Background(), plain); err != nil {
			b.Fatal(err)
		}
	}
}
