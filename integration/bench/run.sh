#!/usr/bin/env bash
# Compares the sidecar with other proxies. Takes a few minutes; see docs/performance.md.
#
#   integration/bench/run.sh                      everything, three rounds of 3 s
#   integration/bench/run.sh -rounds 10 -json results.json -svg results.svg
#   integration/bench/run.sh -starts 4            all proxies started four times, which gives the ±
#   integration/bench/run.sh -only '^1k$' -proxies 'sidecar|caddy'  (short single rounds only show that it works)
#   integration/bench/run.sh -scale 10000 -starts 6  many connections compared with one
#   integration/bench/run.sh -instructions -rounds 10  instructions per request, which do not depend on other load
#   integration/bench/run.sh -instructions -rounds 4 -limit 0.73  fails when they are more than that, of stock Caddy's
#
# Paths are relative to the repository. On Debian, root gets wrk, nginx and HAProxy (for -instructions
# also valgrind) installed when they are absent. HAProxy is left out when it cannot be installed.
set -euo pipefail

CADDY_VERSION=v2.11.9
XCADDY=.tools/xcaddy-v0.4.5/xcaddy
FLAGS='-trimpath -ldflags "-s -w -buildid=" -tags nobadger,nomysql,nopgx'

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
out=.tools/bench
mkdir -p "$out"

install_package() { # <program> <package>
	command -v "$1" >/dev/null && return
	apt-get install --yes --no-install-recommends "$2" >/dev/null
}
# Before anything is built, which takes minutes the first time.
need() { # <program> <package>
	install_package "$1" "$2" && return
	echo "run.sh: $1 is needed, and could not be installed: install it, or run this as root on Debian (package $2)" >&2
	exit 1
}
export PATH=$PATH:/usr/sbin
need wrk wrk
need nginx nginx-light
if [[ " $* " == *\ -instructions\ * ]]; then
	need valgrind valgrind
else
	install_package haproxy haproxy || echo "run.sh: haproxy could not be installed, and is left out" >&2
fi

# The sidecar as it is shipped, Caddy as it is released.
OUTPUT=$out/sidecar ./xcaddy.sh
CGO_ENABLED=0 XCADDY_GO_BUILD_FLAGS=$FLAGS "$XCADDY" build "$CADDY_VERSION" --output "$out/caddy" >/dev/null

(cd integration && go build -o "../$out/bench" ./bench)
exec "$out/bench" -sidecar "$out/sidecar" -caddy "$out/caddy" "$@"
