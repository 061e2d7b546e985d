#!/usr/bin/env bash
# Makes the container image from scratch, with no container engine: the binary, the public
# certificate authorities and a place for the admin socket, nothing else.
#
#   deploy/container/image.sh rootfs <directory>             the image's root file system
#   deploy/container/image.sh oci <name.tar> [<binary>…]     an OCI archive with an image for the platform of each
#                                                            binary, and beside it their bills of materials,
#                                                            name.<architecture>.cdx.json
#
# Without binaries it is ./caddy as ./xcaddy.sh builds it, or CADDY. The authorities are those of the package
# ca-certificates as Debian ships it, without those that this machine trusts besides; CA_CERTIFICATES names another
# bundle. The same inputs give the same bytes. Needs Go and GNU tar.
set -euo pipefail
shopt -s inherit_errexit
umask 022

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
caddy=${CADDY:-$root/caddy}
packaged=/usr/share/ca-certificates/mozilla

fail() {
	echo "image.sh: $*" >&2
	exit 2
}

# exists <binary>
exists() { [ -x "$1" ] || fail "there is no $1: run ./xcaddy.sh first"; }

# authorities prints the bundle.
authorities() {
	if [ -n "${CA_CERTIFICATES:-}" ]; then
		cat "$CA_CERTIFICATES"
		return
	fi
	[ -d "$packaged" ] || fail "there is no $packaged: install Debian's ca-certificates, or name a bundle, CA_CERTIFICATES"
	local file
	for file in "$packaged"/*.crt; do
		cat "$file"
		echo
	done
}

# rootfs <directory> [<binary>]
rootfs() {
	local binary=${2:-$caddy}
	exists "$binary"
	install -D -m 0755 "$binary" "$1/caddy"
	install -d -m 0755 "$1/etc/ssl/certs"
	authorities >"$1/etc/ssl/certs/ca-certificates.crt"
	# Where the configuration and the secrets are mounted, and a directory like /tmp for the admin
	# socket: with a read-only root file system something writable is mounted there too.
	install -d -m 0755 "$1/etc/http_helper" "$1/run/secrets"
	install -d -m 1777 "$1/run/http_helper"
}

digest() { sha256sum <"$1" | cut -d ' ' -f 1; }

# blob <file> moves a file to where its digest says and prints descriptor fields.
blob() {
	local sum size
	sum=$(digest "$1") size=$(stat -c %s "$1")
	mv "$1" "$layout/blobs/sha256/$sum"
	printf '"digest":"sha256:%s","size":%d' "$sum" "$size"
}

# image <binary> adds an image to the layout, and prints its descriptor.
image() {
	local architecture diff_id layer config manifest
	exists "$1"
	go version -m "$1" | grep '[[:space:]]GOOS=linux$' >/dev/null || fail "$1 is no Go program for Linux"
	architecture=$(go version -m "$1" | sed -n 's/.*[[:space:]]GOARCH=//p')
	[ ! -e "$work/$architecture" ] || fail "there are two binaries for $architecture"
	rootfs "$work/$architecture" "$1"
	pack "$work/$architecture" >"$work/layer"
	diff_id=$(digest "$work/layer")
	gzip -n <"$work/layer" >"$work/layer.gz"
	layer=$(blob "$work/layer.gz")
	cat >"$work/config" <<-EOF
		{"architecture":"$architecture","os":"linux","config":{"User":"65532:65532","Env":["GOGC=200","HOME=/","XDG_CONFIG_HOME=/run/http_helper","XDG_DATA_HOME=/run/http_helper"],"Entrypoint":["/caddy"],"Cmd":["run","--config","/etc/http_helper/Caddyfile","--adapter","caddyfile"],"WorkingDir":"/"},"rootfs":{"type":"layers","diff_ids":["sha256:$diff_id"]}}
	EOF
	config=$(blob "$work/config")
	cat >"$work/manifest" <<-EOF
		{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json",$config},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip",$layer}]}
	EOF
	manifest=$(blob "$work/manifest")
	"$root/deploy/sbom.sh" "$1" "${archive%.tar}.$architecture.cdx.json"
	printf '{"mediaType":"application/vnd.oci.image.manifest.v1+json",%s,"platform":{"architecture":"%s","os":"linux"}}' "$manifest" "$architecture"
}

# oci <name.tar> [<binary>…]
oci() {
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	layout=$work/layout archive=$1
	mkdir -p "$layout/blobs/sha256"
	shift
	[ $# -gt 0 ] || set -- "$caddy"
	local binary images='' descriptor index
	for binary; do
		descriptor=$(image "$binary")
		images=${images:+$images,}$descriptor
	done
	printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[%s]}\n' "$images" >"$work/index"
	index=$(blob "$work/index")
	printf '{"imageLayoutVersion":"1.0.0"}\n' >"$layout/oci-layout"
	cat >"$layout/index.json" <<-EOF
		{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.index.v1+json",$index,"annotations":{"org.opencontainers.image.ref.name":"http-helper"}}]}
	EOF
	pack "$layout" >"$archive"
}

# pack writes a directory as a tar archive in which nothing tells of this machine or of the time.
pack() { tar --create --directory "$1" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --format=gnu .; }

case "${1:-} $#" in
'rootfs 2') rootfs "$2" ;;
'oci '[!01]*) "$@" ;;
*) fail "use: image.sh rootfs <directory> | oci <name.tar> [<binary>…]" ;;
esac
