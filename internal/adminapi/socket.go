package adminapi

import (
	"net"
	"os"
	"path/filepath"
	"slices"
)

// RuntimeDirs returns the directories in which `caddy http-helper run` may put the socket of its admin
// endpoint, the best one first.
func RuntimeDirs() []string {
	var dirs []string
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		dirs = append(dirs, filepath.Join(dir, "http_helper"))
	}
	if dir, err := os.UserCacheDir(); err == nil {
		dirs = append(dirs, filepath.Join(dir, "http_helper"))
	}
	return dirs
}

// Running returns the addresses of the user's sidecars that accept connections.
func Running() []string {
	var running []string
	for _, socket := range Sockets() {
		if Accepts("unix", socket) {
			running = append(running, "unix/"+socket)
		}
	}
	return running
}

// Sockets returns the paths of the sockets in the runtime directories. Some may be left over.
func Sockets() []string {
	var found []string
	for _, dir := range RuntimeDirs() {
		inside, _ := filepath.Glob(filepath.Join(dir, "run-*.sock"))
		found = append(found, inside...)
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// Accepts reports whether something accepts connections at an address.
func Accepts(network, address string) bool {
	conn, err := net.DialTimeout(network, address, dialTimeout)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}
