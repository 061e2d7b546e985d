// Command caddy is what xcaddy.sh builds, for builds with the race detector, and with a storage for shared
// tokens.
package main

import (
	_ "github.com/pberkel/caddy-storage-redis"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-httphelper/caddy-httphelper"
)

func main() { caddycmd.Main() }
