#!/usr/bin/env bash
# The test command. It needs Go, Node with npm, curl, and a C compiler for the race detector. The other
# tools are installed into .tools (ignored by git) by exact version.
#
#   ./integration/run.sh                  everything
#   ./integration/run.sh lint unit …      only these steps: install format vet lint spelling vuln unit fuzz
#                                         integration reverse_proxy instructions
#   GO_TEST_FLAGS='-run Foo -v' ./integration/run.sh integration
#
# FUZZTIME (default 10s) is the time for each fuzz target, SOAK (default 20s) the time for the soak test.
set -euo pipefail

GOLANGCI_LINT_VERSION=v2.15.0
GOFUMPT_VERSION=v0.12.0
GOVULNCHECK_VERSION=v1.9.0

cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
modules=(. integration integration/gooauth2 integration/hydra)
gofumpt=$root/.tools/gofumpt-$GOFUMPT_VERSION/gofumpt
golangci_lint=$root/.tools/golangci-lint-$GOLANGCI_LINT_VERSION/golangci-lint
govulncheck=$root/.tools/govulncheck-$GOVULNCHECK_VERSION/govulncheck

say() { printf '\n\033[1m== %s\033[0m (%ss)\n' "$*" "$SECONDS"; }

# tool <path> <package@version> installs a Go program unless that version is there.
tool() {
	[ -x "$1" ] || GOBIN=$(dirname "$1") go install "$2"
}

install_gofumpt() {
	tool "$gofumpt" "mvdan.cc/gofumpt@$GOFUMPT_VERSION"
}

install_golangci_lint() {
	tool "$golangci_lint" "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$GOLANGCI_LINT_VERSION"
}

install_step() {
	install_gofumpt
	install_golangci_lint
	local directory
	for directory in integration/oidc-provider integration/axe integration/spelling; do
		install_npm "$directory"
	done
	install_debian redis-server redis-server
	install_debian chromium chromium
}

# install_npm <directory> installs what its package-lock.json lists, unless that is there.
install_npm() {
	[ "$1/node_modules/.package-lock.json" -nt "$1/package-lock.json" ] || (cd "$1" && npm ci --no-fund --no-audit)
}

# install_debian <program> <package> installs a program that tests run, as root on Debian, without starting a server.
# Elsewhere it says what is missing: the tests that need it fail.
install_debian() {
	command -v "$1" >/dev/null && return
	RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$2" >/dev/null || echo "missing: $1, which some tests need (Debian's package $2)"
}

format_step() {
	install_gofumpt
	local unformatted
	unformatted=$("$gofumpt" -l .)
	[ -z "$unformatted" ] || {
		printf 'not formatted by gofumpt:\n%s\n' "$unformatted"
		return 1
	}
	for module in "${modules[@]}"; do
		(cd "$module" && go mod tidy -diff)
	done
}

vet_step() {
	go vet ./...
	(cd integration && go vet ./...)
	(cd integration/gooauth2 && go vet ./...)
	(cd integration/hydra && go vet -tags sqlite,sqlite_omit_load_extension ./...)
}

lint_step() {
	install_golangci_lint
	"$golangci_lint" run ./...
	(cd integration && "$golangci_lint" run ./...)
	(cd integration/gooauth2 && "$golangci_lint" run ./...)
}

# Words that no dictionary has are listed in cspell.json.
spelling_step() {
	install_npm integration/spelling
	(cd integration/spelling && npx --no-install cspell lint --no-progress --config cspell.json)
}

vuln_step() {
	if ! curl -fsS --max-time 10 -o /dev/null https://vuln.go.dev/index/db.json 2>/dev/null; then
		echo 'skipped: the vulnerability database cannot be reached'
		return
	fi
	tool "$govulncheck" "golang.org/x/vuln/cmd/govulncheck@$GOVULNCHECK_VERSION"
	"$govulncheck" ./...
}

# tests <flags…> runs the tests of a module. They depend on real clocks, sockets and processes, so up to
# three that fail while others run are tried once more, alone; the output says so. A data race or a panic
# fails the step at once.
tests() {
	local log failed
	log=$(mktemp)
	if go test -race "$@" ./... 2>&1 | tee "$log"; then
		rm -f "$log"
		return
	fi
	failed=$(sed -n 's/^--- FAIL: \([A-Za-z0-9_]*\) .*/\1/p' "$log" | sort -u)
	if [ -z "$failed" ] || [ "$(wc -l <<<"$failed")" -gt 3 ] || crashed "$log"; then
		rm -f "$log"
		return 1
	fi
	rm -f "$log"
	say "again, alone: ${failed//$'\n'/, }"
	go test -race -count=1 -parallel 1 -timeout 10m -run "^(${failed//$'\n'/|})\$" ./...
}

# crashed <log> tells whether there was a data race or a panic. One test has a storage that panics.
crashed() {
	grep -E 'DATA RACE|data race|^panic:|panicked' "$1" | grep -qv 'the storage panicked'
}

unit_step() {
	# shellcheck disable=SC2086 # several flags in one variable
	tests -timeout 10m ${GO_TEST_FLAGS-}
}

fuzz_step() {
	local list target targets package name
	list=$(go test -list '^Fuzz' ./...)
	# The names of a package's targets come first, then the line `ok <package> <time>`.
	mapfile -t targets < <(awk '/^Fuzz/ { names[++n] = $1 } /^ok/ { for (i = 1; i <= n; i++) print $2, names[i]; n = 0 }' <<<"$list")
	[ ${#targets[@]} -gt 0 ] || {
		echo 'no fuzz target found'
		return 1
	}
	for target in "${targets[@]}"; do
		read -r package name <<<"$target"
		fuzz "$package" "$name"
	done
}

# fuzz <package> <target> fuzzes once. Go takes it for a failure if a worker on a busy machine stops too
# late after the fuzz time; then there is no failing input, and the target is fuzzed once more.
fuzz() {
	local log command=(go test -run '^$' -fuzz "^$2\$" -fuzztime "${FUZZTIME:-10s}" "$1")
	log=$(mktemp)
	if "${command[@]}" 2>&1 | tee "$log"; then
		rm -f "$log"
		return
	fi
	if ! grep -q 'context deadline exceeded' "$log" || grep -q 'Failing input' "$log"; then
		rm -f "$log"
		return 1
	fi
	rm -f "$log"
	say "once more: $2"
	"${command[@]}"
}

# Go does not know that these tests depend on the sidecar, so it must not keep their results.
integration_step() {
	# shellcheck disable=SC2086 # several flags in one variable
	(cd integration && tests -count=1 -timeout 25m -parallel 4 ${GO_TEST_FLAGS-})
}

# What both ways of forwarding must do alike. The whole suite has the handler forward; these tests run once
# more through reverse_proxy.
both_ways='Websockets|ServerSentEvents|Expect|EarlyHints|Cancelled|LargeBod|GRPC|Trailers|Paths|Header|Proxy|Redirects|Compressed|HandleErrors|Unreachable|Early401|Base|Cleartext|Hostile|RequestLines|Replay|InFlight|Nginx|Termination|Grace|Rejected|401'

reverse_proxy_step() {
	# shellcheck disable=SC2086 # several flags in one variable
	(cd integration && FORWARD_BY=reverse_proxy tests -count=1 -timeout 20m -parallel 4 -run "$both_ways" ${GO_TEST_FLAGS-})
}

# What a request costs, of a stock Caddy's instructions: 0.67 when this was written, 0.97 through reverse_proxy.
# With few requests it depends on how often garbage is collected.
instructions_step() {
	integration/bench/run.sh -instructions -rounds 4 -limit 0.73 -proxies "^(sidecar|caddy)\$"
}

all=(install format vet lint spelling vuln unit fuzz integration reverse_proxy instructions)
steps=("$@")
[ ${#steps[@]} -gt 0 ] || steps=("${all[@]}")
for step in "${steps[@]}"; do
	declare -F "${step}_step" >/dev/null || {
		echo "run.sh: unknown step: $step (there are: ${all[*]})" >&2
		exit 2
	}
done
for step in "${steps[@]}"; do
	say "$step"
	# Not in a condition: bash ignores failures inside a function that a condition calls.
	"${step}_step"
done
say 'all passed'
