#!/bin/sh
# Checks for build tools and libraries, and installs Debian packages when some are missing.
# usage: deps.sh "commands" "pkg-config modules" "Debian packages"
set -eu
commands=$1 modules=$2 packages=$3

missing() {
    for c in $commands; do
        command -v "$c" >/dev/null 2>&1 || { echo "$c"; return; }
    done
    for m in $modules; do
        pkg-config --exists "$m" 2>/dev/null || { echo "$m"; return; }
    done
    # Debian's python3 needs packages for these modules.
    case " $packages " in *" python3-jinja2 "*)
        python3 -c 'import jinja2, numpy, venv, ensurepip' 2>/dev/null || echo "python3 modules"
    esac
}

what=$(missing)
[ -z "$what" ] && exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "winnow needs '$what', and this machine has no apt-get. Install the equivalents of: $packages" >&2
    exit 1
fi
if [ "$(id -u)" = 0 ]; then
    sudo=
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    sudo="sudo -n"
elif command -v sudo >/dev/null 2>&1 && [ -t 0 ]; then
    sudo=sudo # asks for the password at the terminal
else
    echo "winnow needs '$what'. Install it with:" >&2
    echo "  sudo apt-get update && sudo apt-get install -y --no-install-recommends $packages" >&2
    exit 1
fi
echo "installing: $packages"
export DEBIAN_FRONTEND=noninteractive
said=$(mktemp)
trap 'rm -f "$said"' EXIT
# Quiet while it works. Where it does not, one sentence and apt's first error, not a line for each package and mirror.
apt() {
    # shellcheck disable=SC2086 # word splitting is the point
    $sudo apt-get -qq -o Acquire::Retries=1 "$@" >>"$said" 2>&1
}
# shellcheck disable=SC2086
apt install -y --no-install-recommends $packages || { apt update && apt install -y --no-install-recommends $packages; } || {
    if line=$(grep -m 1 -E '^[EW]:.*(Could not resolve|[Cc]ould not connect|Unable to connect|Temporary failure|timed out)' "$said"); then
        echo "winnow needs '$what' from Debian's archive, which this machine cannot reach: is there a network, or a proxy to set in http_proxy?" >&2
    else
        echo "winnow needs '$what', and apt-get cannot install it:" >&2
        line=$(grep '^E:' "$said" | tail -n 1)
    fi
    printf '%s\nInstall it by hand: %s\n' "${line:-$(tail -n 1 "$said")}" "$packages" >&2
    exit 1
}
what=$(missing)
case "$what" in
"") ;;
"python3 modules") echo "note: the python3 on PATH lacks jinja2, numpy or venv; tests that need them are skipped" >&2 ;;
*) echo "installed $packages, but '$what' is still missing" >&2; exit 1 ;;
esac
