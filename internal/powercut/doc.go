// Package powercut cuts the power of a disk that a log lies on: a real ext4, whose every block write and flush is recorded on
// the way to the medium, so that the disk can be made as it was at any moment. It is a module of its own, with tests only,
// so that what they need stays out of ours.
package powercut
