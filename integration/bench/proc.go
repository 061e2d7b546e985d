package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// proc is a running server: a process, and those that it has started.
type proc struct {
	cmd *exec.Cmd
	log bytes.Buffer
}

// startProc starts a server that lives no longer than this command.
func startProc(dir string, env []string, name string, args ...string) (*proc, error) {
	p := &proc{cmd: exec.Command(name, args...)}
	p.cmd.Dir = dir
	p.cmd.Env = append([]string{"HOME=" + dir, "PATH=" + os.Getenv("PATH")}, env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *proc) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(5*time.Second, func() { _ = p.cmd.Process.Kill() })
	_ = p.cmd.Wait()
	kill.Stop()
}

// pids are the process and its children.
func (p *proc) pids() []string {
	pid := strconv.Itoa(p.cmd.Process.Pid)
	children, _ := os.ReadFile(filepath.Join("/proc", pid, "task", pid, "children"))
	return append([]string{pid}, strings.Fields(string(children))...)
}

// cpuTime is the CPU time that the server has used so far.
func (p *proc) cpuTime() time.Duration {
	const tick = time.Second / 100 // USER_HZ, the same on all of Linux
	var total time.Duration
	for _, pid := range p.pids() {
		stat, _ := os.ReadFile(filepath.Join("/proc", pid, "stat"))
		// The name of the program, which may have spaces in it, is in parentheses.
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) < 13 {
			continue
		}
		for _, ticks := range fields[11:13] { // utime, stime
			n, _ := strconv.ParseInt(ticks, 10, 64)
			total += time.Duration(n) * tick
		}
	}
	return total
}

// memory is the server's memory in MiB: what is resident, where what its processes share counts once, and what
// of that is anonymous, which is not read from a file.
func (p *proc) memory() (resident, anonymous float64) {
	counted := []string{"Rss"}
	for _, pid := range p.pids() {
		rollup, _ := os.ReadFile(filepath.Join("/proc", pid, "smaps_rollup"))
		for _, field := range counted {
			resident += kibIn(rollup, field) / 1024
		}
		anonymous += kibIn(rollup, "Anonymous") / 1024
		counted = []string{"Private_Clean", "Private_Dirty"} // of its children
	}
	return resident, anonymous
}

// kibIn returns the value of a field of smaps_rollup.
func kibIn(rollup []byte, field string) float64 {
	var kib float64
	for line := range strings.Lines(string(rollup)) {
		if _, err := fmt.Sscanf(line, field+": %f kB", &kib); err == nil {
			break
		}
	}
	return kib
}

func lastLine(text []byte) []byte {
	text = bytes.TrimSpace(text)
	return text[bytes.LastIndexByte(text, '\n')+1:]
}
