package httphelper

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// unmapCode has Linux take the program's code out of the memory of this process. Most of a Caddy's is
// needed only to start it, and would be a third of what is resident in an idle sidecar. It stays in the
// page cache, from where what is needed again comes back in less than a millisecond all in all. Where it
// lies there in huge folios, new Linuxes map these in whole, and little is gained.
func unmapCode() {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	for line := range bytes.Lines(maps) {
		if from, to, ok := codeOf(program, string(line)); ok {
			// Nobody writes to code, so that nothing is lost. Whether it works matters to nobody either.
			_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, from, to-from, syscall.MADV_DONTNEED)
		}
	}
}

// codeOf reads a line of /proc/self/maps (proc_pid_maps(5)), and tells whether it is about the code of a
// program.
func codeOf(program, line string) (from, to uintptr, ok bool) {
	fields := strings.Fields(line) // address, permissions, offset, device, inode, path
	if len(fields) < 6 || fields[1] != "r-xp" || strings.Join(fields[5:], " ") != program {
		return 0, 0, false
	}
	first, last, _ := strings.Cut(fields[0], "-")
	start, startErr := strconv.ParseUint(first, 16, strconv.IntSize)
	end, endErr := strconv.ParseUint(last, 16, strconv.IntSize)
	return uintptr(start), uintptr(end), startErr == nil && endErr == nil && start < end
}
