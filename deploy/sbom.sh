#!/usr/bin/env bash
# Writes the bill of materials of a binary that xcaddy.sh has built (CycloneDX): every Go module in it with
# its version, and Go's own. The same binary gives the same bytes.
#
#   deploy/sbom.sh <binary> <file.cdx.json>
set -euo pipefail

CYCLONEDX_GOMOD_VERSION=v1.10.0
MODULE=github.com/caddy-httphelper/caddy-httphelper

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cyclonedx=$root/.tools/cyclonedx-gomod-$CYCLONEDX_GOMOD_VERSION/cyclonedx-gomod

[ $# -eq 2 ] || {
	echo "sbom.sh: use: sbom.sh <binary> <file.cdx.json>" >&2
	exit 2
}
[ -x "$cyclonedx" ] ||
	GOOS='' GOARCH='' GOFLAGS='' GOBIN=$(dirname "$cyclonedx") go install -trimpath "github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@$CYCLONEDX_GOMOD_VERSION"
version=$(go version -m "$1" | awk -v module="$MODULE" '$1 == "dep" && $2 == module { print $3 }')
"$cyclonedx" bin -json -std -noserial -notimestamp -version "$version" -output "$2" "$1"
