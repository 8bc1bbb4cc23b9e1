//go:build race

package immutable

const thin = 4 // of so many rounds, one
