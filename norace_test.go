//go:build !race

package immutable

const thin = 1
