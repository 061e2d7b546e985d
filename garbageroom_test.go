package httphelper

import (
	"math"
	"runtime"
	"runtime/debug"
	"testing"
)

func TestRoomForGarbage(t *testing.T) {
	for _, test := range []struct {
		connections int
		memoryLimit int64
		gogc        string
		want        int64
	}{
		{1, math.MaxInt64, "", 4<<20 + 1<<10},
		{10_000, math.MaxInt64, "", 4<<20 + 10_000<<10},
		{1, 32 << 20, "", 2 << 20},
		{10_000, 512 << 20, "", 4<<20 + 10_000<<10},
		{100_000, 512 << 20, "", 32 << 20},
		{1, math.MaxInt64, "100", 0},
		{1, math.MaxInt64, "off", 0},
	} {
		if got := roomForGarbage(test.connections, test.memoryLimit, test.gogc); got != test.want {
			t.Errorf("%+v: got %d", test, got)
		}
	}
}

// TestMakeGarbageRoom has the heap grow further before it is collected, and adds no more than is missing.
func TestMakeGarbageRoom(t *testing.T) {
	t.Setenv("GOGC", "")
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	defer func(before [][]byte) { ballast = before }(ballast)
	ballast = nil
	next := func() uint64 {
		runtime.GC()
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.NextGC
	}
	before := next()
	makeGarbageRoom(0)
	if grown := int64(next() - before); grown < garbageRoom*3/2 || grown > garbageRoom*5/2 {
		t.Errorf("the next collection moved by %d bytes", grown)
	}
	makeGarbageRoom(0)
	makeGarbageRoom(100)
	makeGarbageRoom(50)
	if len(ballast) != 2 || len(ballast[1]) != 100*garbageRoomEach {
		t.Errorf("%d pieces", len(ballast))
	}
}
