package httphelper

import (
	"os"
	"runtime/debug"
)

const (
	// By how much more the heap may grow before garbage is collected, and as much for each connection.
	garbageRoom     = 4 << 20
	garbageRoomEach = 1 << 10

	// The part of the memory limit that this may be at most.
	garbageRoomPart = 16
)

// ballast is memory that is never used, and so takes no room in the machine's, unless Go has used it for
// something else before. Only one config starts at a time.
var ballast [][]byte

// makeGarbageRoom has Go collect garbage less often: usually it does as soon as the heap has doubled, which
// a small Caddy's has after some hundred requests, at the price of a tenth of their time. Go takes the ballast
// for part of the heap, and lets as much more garbage gather.
func makeGarbageRoom(connections int) {
	missing := roomForGarbage(connections, debug.SetMemoryLimit(-1), os.Getenv("GOGC"))
	for _, piece := range ballast {
		missing -= int64(len(piece))
	}
	if missing > 0 {
		ballast = append(ballast, make([]byte, missing))
	}
}

// roomForGarbage is the size of the ballast. Where memory is short there is less of it, and none where
// somebody has said with GOGC when to collect.
func roomForGarbage(connections int, memoryLimit int64, gogc string) int64 {
	if gogc != "" {
		return 0
	}
	return min(garbageRoom+int64(connections)*garbageRoomEach, memoryLimit/garbageRoomPart)
}
