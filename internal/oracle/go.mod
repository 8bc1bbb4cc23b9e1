module github.com/tree-of-life-system/immutable/internal/oracle

go 1.26.0

replace github.com/tree-of-life-system/immutable => ../..

require (
	filippo.io/torchwood v0.9.0
	github.com/cloudflare/circl v1.6.5
	github.com/transparency-dev/merkle v0.0.2
	github.com/tree-of-life-system/immutable v0.0.0-00010101000000-000000000000
	golang.org/x/crypto v0.54.0
	golang.org/x/mod v0.42.0
)

require (
	filippo.io/mldsa v1.0.0 // indirect
	github.com/digitorus/pkcs7 v0.0.0-20250730155240-ffadbf3f398c // indirect
	github.com/digitorus/timestamp v0.0.0-20250524132541-c45532741eea // indirect
	github.com/klauspost/compress v1.20.3 // indirect
	golang.org/x/sync v0.19.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
)
