//go:build !race

package harness

// raceSuffix names programs that are built with the race detector.
const raceSuffix = ""
