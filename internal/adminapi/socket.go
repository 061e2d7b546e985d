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

// Sockets finds the sockets in the runtime directories: the addresses of those on which a sidecar accepts
// connections, and the paths of those that are left over.
func Sockets() (running, left []string) {
	var found []string
	for _, dir := range RuntimeDirs() {
		inside, _ := filepath.Glob(filepath.Join(dir, "run-*.sock"))
		found = append(found, inside...)
	}
	slices.Sort(found)
	for _, socket := range slices.Compact(found) {
		if Accepts("unix", socket) {
			running = append(running, "unix/"+socket)
		} else {
			left = append(left, socket)
		}
	}
	return running, left
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
