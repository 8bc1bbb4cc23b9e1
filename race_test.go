//go:build race

package immutable

const thin = 8 // of so many rounds, one
