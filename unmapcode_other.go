//go:build !linux

package httphelper

// unmapCode is for Linux, which maps far more of a program than it executes.
func unmapCode() {}
