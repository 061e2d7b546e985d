#!/usr/bin/env bash
# Makes the files of a release from a tag: for each platform a static binary and its bill of materials
# (CycloneDX), and the checksums of all.
#
#   deploy/release.sh <version> <new directory>     for example: deploy/release.sh v0.1.0 dist
#
# The tag need not be published yet: Go takes the module out of this clone, as a module proxy takes it
# out of the published repository. So once it is published `VERSION=<version> ./xcaddy.sh` gives the
# same bytes to everybody who has the same version of Go.
#
# PLATFORMS chooses others than those below. Needs Go, git and sha256sum.
set -euo pipefail

PLATFORMS=${PLATFORMS:-linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64}
# These would change the binaries without a trace that a user of xcaddy.sh can follow.
unset WITH CGO_ENABLED GOFLAGS GOOS GOARCH GOAMD64 GOARM64 GOEXPERIMENT

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() {
	echo "release.sh: $*" >&2
	exit 2
}

check() {
	[[ $version =~ ^v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$ ]] || fail "$version is no version (use: v1.2.3)"
	commit=$(git rev-parse --verify --quiet "refs/tags/$version^{commit}") || fail "there is no tag $version"
	[ "$commit" = "$(git rev-parse HEAD)" ] || fail "the tag $version is not what is checked out"
	[ -z "$(git status --porcelain)" ] || fail "there are changes that are not committed"
	grep -qF "## [${version#v}]" CHANGELOG.md || fail "CHANGELOG.md has no section for ${version#v}"
	[ ! -e "$out" ] || fail "there is already a $out"
}

# publish_here lets Go find the module's versions in this clone.
publish_here() {
	export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0="url.file://$root.insteadOf" GIT_CONFIG_VALUE_0="https://$module"
	GONOPROXY=$module,$(go env GONOPROXY) GONOSUMDB=$module,$(go env GONOSUMDB)
	export GONOPROXY GONOSUMDB
	local found
	found=$(cd / && go mod download -json "$module@$version") || fail "Go cannot get $version: $found"
	# When a tag has moved since it was built from, Go's cache has the old one.
	grep -q "\"Hash\": \"$commit\"" <<<"$found" ||
		fail "Go's module cache has another $version: set GOMODCACHE to a new directory, or run go clean -modcache"
}

# build <os> <architecture> makes one platform's files.
build() {
	local file=$out/caddy-http-helper_${version#v}_$1_$2
	[ "$1" != windows ] || file=$file.exe
	GOOS=$1 GOARCH=$2 VERSION=$version OUTPUT=$file ./xcaddy.sh
	go version -m "$file" | grep "$module[[:space:]]$version[[:space:]]h1:" >/dev/null || fail "$file was not built from $version"
	deploy/sbom.sh "$file" "$file.cdx.json"
}

[ $# -eq 2 ] || fail "use: release.sh <version> <new directory>"
version=$1 out=$(realpath -m "$2")
cd "$root"
module=$(go list -m)
check
publish_here
mkdir -p "$out"
for platform in $PLATFORMS; do
	build "${platform%/*}" "${platform#*/}"
done
(cd "$out" && sha256sum -- * >SHA256SUMS)
cat "$out/SHA256SUMS"
