module github.com/tree-of-life-system/immutable/internal/powercut

go 1.26.0

replace github.com/tree-of-life-system/immutable => ../..

require (
	github.com/hanwen/go-fuse/v2 v2.12.1
	github.com/tree-of-life-system/immutable v0.0.0-00010101000000-000000000000
	golang.org/x/sys v0.49.0
)

require (
	filippo.io/mldsa v1.0.0 // indirect
	github.com/digitorus/pkcs7 v0.0.0-20250730155240-ffadbf3f398c // indirect
	github.com/digitorus/timestamp v0.0.0-20250524132541-c45532741eea // indirect
	github.com/klauspost/compress v1.20.3 // indirect
)
