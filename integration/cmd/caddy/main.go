// Command caddy is what xcaddy.sh builds, for builds with the race detector.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-httphelper/caddy-httphelper"

	_ "github.com/pberkel/caddy-storage-redis" // a storage for shared tokens
)

func main() { caddycmd.Main() }
