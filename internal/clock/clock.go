package clock

import "time"

// Elapsed is the time since then on the clock that has advanced further: the monotonic one stands
// still while a machine sleeps, the wall clock can be set back.
func Elapsed(then, now time.Time) time.Duration {
	return max(now.Sub(then), time.Duration(now.UnixNano()-then.UnixNano()))
}
