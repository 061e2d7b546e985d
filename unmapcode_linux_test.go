package httphelper

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestCodeOf(t *testing.T) {
	for line, want := range map[string]string{
		"00401000-01a8d000 r-xp 00001000 fe:00 1234                       /usr/bin/caddy\n":             "401000-1a8d000",
		"7f5c0a400000-7f5c0a401000 r-xp 00001000 fe:00 1234                       /usr/bin/caddy\n":     "7f5c0a400000-7f5c0a401000",
		"01a8d000-03716000 r--p 0168d000 fe:00 1234                       /usr/bin/caddy\n":             "", // may have been written to
		"03716000-038da000 rw-p 03316000 fe:00 1234                       /usr/bin/caddy\n":             "",
		"00401000-01a8d000 rwxp 00001000 fe:00 1234                       /usr/bin/caddy\n":             "",
		"7f5c0a400000-7f5c0a401000 r-xp 00001000 fe:00 99                         /usr/lib/libc.so.6\n": "",
		"00401000-01a8d000 r-xp 00001000 fe:00 1234                       /usr/bin/caddy (deleted)\n":   "",
		"7ffc1b5f4000-7ffc1b5f6000 r-xp 00000000 00:00 0                          [vdso]\n":             "",
		"x-y r-xp 00001000 fe:00 1234                       /usr/bin/caddy\n":                           "",
		"01a8d000-00401000 r-xp 00001000 fe:00 1234                       /usr/bin/caddy\n":             "",
		"00401000 r-xp 00001000 fe:00 1234                       /usr/bin/caddy\n":                      "",
		"\n": "",
	} {
		got := ""
		if from, to, ok := codeOf("/usr/bin/caddy", line); ok {
			got = fmt.Sprintf("%x-%x", from, to)
		}
		if got != want {
			t.Errorf("got %q from %q, want %q", got, line, want)
		}
	}
	if _, _, ok := codeOf("/a b/caddy (deleted)", "00401000-01a8d000 r-xp 00001000 fe:00 1234      /a b/caddy (deleted)\n"); !ok {
		t.Error("a replaced program with a space in its path is not found")
	}
}

// TestUnmapCode leaves what runs now of this program's code, and takes the rest out of its memory.
func TestUnmapCode(t *testing.T) {
	before := residentCode(t)
	unmapCode()
	if after := residentCode(t); after == 0 || after > before*3/4 {
		t.Errorf("%d KiB of code were resident, and %d are", before, after)
	}
}

// residentCode is how much of the program's code is in the memory of this process, in KiB.
func residentCode(t *testing.T) int {
	t.Helper()
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	inside, total := false, 0
	for line := range strings.Lines(string(smaps)) {
		if strings.Contains(line, "-") {
			_, _, inside = codeOf(program, line)
		}
		var kib int
		if _, err := fmt.Sscanf(line, "Rss: %d kB", &kib); err == nil && inside {
			total += kib
		}
	}
	return total
}
