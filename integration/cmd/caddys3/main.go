// Command caddys3 is the sidecar with the storage in S3 that docs/shared-tokens.md describes.
package main

import (
	_ "github.com/techknowlogick/certmagic-s3"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-httphelper/caddy-httphelper"
)

func main() { caddycmd.Main() }
