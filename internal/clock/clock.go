// Package clock measures time across suspensions of the machine and changes of its clock. It knows
// nothing of what the time is measured for.
package clock

import "time"

// Elapsed returns the time from then to now on the clock that has advanced further: the monotonic
// clock stops while a machine sleeps, the wall clock may be set back.
func Elapsed(then, now time.Time) time.Duration {
	return max(now.Sub(then), time.Duration(now.UnixNano()-then.UnixNano()))
}
