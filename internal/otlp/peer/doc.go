// Package peer holds our receiver of OpenTelemetry logs against programs that we did not write: the SDK's own exporters send to it,
// and the collector's decoder says what an export means. A module of its own, tests only.
package peer
