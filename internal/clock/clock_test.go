package clock

import (
	"testing"
	"time"
)

// TestElapsed compares times with a monotonic reading, as time.Now returns them, and without one.
func TestElapsed(t *testing.T) {
	start := time.Now()
	for name, test := range map[string]struct {
		then, now time.Time
		want      time.Duration
	}{
		"both clocks":          {start, start.Add(time.Minute), time.Minute},
		"wall clock only":      {start.Round(0), start.Round(0).Add(time.Minute), time.Minute},
		"no time":              {start, start, 0},
		"wall clock set back":  {start.Round(0), start.Round(0).Add(-time.Minute), -time.Minute},
		"one reading is mixed": {start.Round(0), start.Add(time.Hour), time.Hour},
	} {
		if got := Elapsed(test.then, test.now); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}
