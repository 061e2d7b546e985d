//go:build race

package harness

// raceSuffix names programs that are built with the race detector.
const raceSuffix = "-race"

// Race says whether the tests have the race detector, with which everything takes several times as long.
const Race = true
