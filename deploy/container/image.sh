#!/usr/bin/env bash
# Makes the container image from scratch, with no container engine: the binary, the public
# certificate authorities and a place for the admin socket, nothing else.
#
#   deploy/container/image.sh rootfs <directory>   the image's root file system
#   deploy/container/image.sh oci <file.tar>       the image as an OCI archive, for example for
#                                                  skopeo copy oci-archive:<file.tar> docker://…
#
# The binary is ./caddy as ./xcaddy.sh builds it, or CADDY; the authorities are those of this
# machine, or CA_CERTIFICATES. The same inputs give the same bytes. Needs GNU tar.
set -euo pipefail
umask 022

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
caddy=${CADDY:-$root/caddy}
authorities=${CA_CERTIFICATES:-/etc/ssl/certs/ca-certificates.crt}

fail() {
	echo "image.sh: $*" >&2
	exit 2
}

rootfs() {
	[ -x "$caddy" ] || fail "there is no $caddy: run ./xcaddy.sh first"
	[ -s "$authorities" ] || fail "there is no $authorities: install ca-certificates"
	install -D -m 0755 "$caddy" "$1/caddy"
	install -D -m 0644 "$authorities" "$1/etc/ssl/certs/ca-certificates.crt"
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

oci() {
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	layout=$work/layout
	mkdir -p "$layout/blobs/sha256"
	rootfs "$work/rootfs"
	pack "$work/rootfs" >"$work/layer"
	local diff_id layer config manifest architecture
	diff_id=$(digest "$work/layer")
	gzip -n <"$work/layer" >"$work/layer.gz"
	layer=$(blob "$work/layer.gz")
	architecture=$(GOOS='' go env GOARCH)
	cat >"$work/config" <<-EOF
		{"architecture":"$architecture","os":"linux","config":{"User":"65532:65532","Env":["GOGC=200","HOME=/","XDG_CONFIG_HOME=/run/http_helper","XDG_DATA_HOME=/run/http_helper"],"Entrypoint":["/caddy"],"Cmd":["run","--config","/etc/http_helper/Caddyfile","--adapter","caddyfile"],"WorkingDir":"/"},"rootfs":{"type":"layers","diff_ids":["sha256:$diff_id"]}}
	EOF
	config=$(blob "$work/config")
	cat >"$work/manifest" <<-EOF
		{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json",$config},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip",$layer}]}
	EOF
	manifest=$(blob "$work/manifest")
	printf '{"imageLayoutVersion":"1.0.0"}\n' >"$layout/oci-layout"
	cat >"$layout/index.json" <<-EOF
		{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json",$manifest,"annotations":{"org.opencontainers.image.ref.name":"http-helper"}}]}
	EOF
	pack "$layout" >"$1"
}

# pack writes a directory as a tar archive in which nothing tells of this machine or of the time.
pack() { tar --create --directory "$1" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --format=gnu .; }

[ $# -eq 2 ] || fail "use: image.sh rootfs <directory> | oci <file.tar>"
case $1 in
rootfs | oci) "$1" "$2" ;;
*) fail "unknown command: $1 (use: rootfs, oci)" ;;
esac
