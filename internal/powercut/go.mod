module github.com/tree-of-life-system/immutable/internal/powercut

go 1.26.0

replace github.com/tree-of-life-system/immutable => ../..

require (
	github.com/hanwen/go-fuse/v2 v2.12.1
	github.com/tree-of-life-system/immutable v0.0.0-00010101000000-000000000000
	golang.org/x/sys v0.49.0
)

require (
	github.com/klauspost/compress v1.20.3 // indirect
	golang.org/x/mod v0.42.0 // indirect
)
