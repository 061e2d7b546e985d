#!/usr/bin/env bash
# Builds ./caddy: Caddy with this plugin, everything pinned.
#
#   ./xcaddy.sh             build
#   ./xcaddy.sh run [args]  build, then run Caddyfile.example; args go to `caddy run`
#
# VERSION=v0.1.0 builds that published version of the plugin instead of the sources beside this script.
# WITH adds other plugins, a list of what `xcaddy build --with` takes: <module>[@<version>][=<replacement>].
# A path as the replacement begins with /, ./ or ../ and has no spaces; relative ones are relative to where
# this script is called:
#
#   WITH='github.com/pberkel/caddy-storage-redis@v1.8.1 example.com/mine@v0.0.0=../mine' ./xcaddy.sh
#
# OUTPUT is where the binary goes; GOOS and GOARCH are the platform that it is for.
# Needs Go, and access to a Go module proxy until the modules are in Go's cache.
set -euo pipefail

CADDY_VERSION=v2.11.9
XCADDY_VERSION=v0.4.5
MODULE=github.com/caddy-httphelper/caddy-httphelper

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
xcaddy=$root/.tools/xcaddy-$XCADDY_VERSION/xcaddy
output=${OUTPUT:-$root/caddy}
[ "${output#/}" != "$output" ] || output=$PWD/$output

fail() {
	echo "xcaddy.sh: $*" >&2
	exit 2
}

# plugins sets the array with to the options that add this plugin and those in WITH.
plugins() {
	local words word
	# A module path begins with a domain, which has a dot.
	local module='^[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+(/[A-Za-z0-9._~-]+)+(@[A-Za-z0-9._+-]+)?(=.+)?$'
	with=(--with "$MODULE@${VERSION:-v0.0.0=$root}")
	IFS=$' \t\n' read -r -d '' -a words <<<"${WITH:-}" || true
	for word in ${words[@]+"${words[@]}"}; do
		[[ $word =~ $module ]] ||
			fail "WITH: $word is not a module path, such as github.com/pberkel/caddy-storage-redis@v1.8.1"
		with+=(--with "$word")
	done
}

install_xcaddy() {
	[ -x "$xcaddy" ] && return
	# Built for this machine, whatever GOOS the caller builds Caddy for.
	GOOS='' GOARCH='' GOFLAGS='' GOBIN=$(dirname "$xcaddy") go install "github.com/caddyserver/xcaddy/cmd/xcaddy@$XCADDY_VERSION"
}

build() {
	plugins
	install_xcaddy
	# Trimmed paths, no symbols, no build id: the same sources in the same place give the same bytes
	# (the build information names the place), and so does a version in any place. Static, so that it
	# also runs in an image from scratch.
	CGO_ENABLED=${CGO_ENABLED:-0} XCADDY_GO_BUILD_FLAGS='-trimpath -ldflags "-s -w -buildid=" -tags nobadger,nomysql,nopgx' \
		"$xcaddy" build "$CADDY_VERSION" --output "$output" "${with[@]}"
}

command -v go >/dev/null || fail "Go is needed to build Caddy: https://go.dev/doc/install"

case ${1:-build} in
build)
	[ $# -le 1 ] || fail "build takes no arguments"
	build
	;;
run)
	shift
	build
	# The example's admin socket is relative to the working directory.
	cd "$root"
	exec "$output" run --config Caddyfile.example --adapter caddyfile "$@"
	;;
*)
	fail "unknown command: $1 (use: ./xcaddy.sh [run [args]])"
	;;
esac
