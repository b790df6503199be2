#!/bin/sh
# `make install` and `make uninstall` run this; both use the same list of files. Completions and the manual page's flags
# come from the built program. Environment: BUILD, PREFIX, DESTDIR. usage: install.sh install|uninstall
set -eu
cd "$(dirname "$0")/../.."
winnow=${BUILD:-build}/winnow
prefix=${PREFIX:-/usr/local}
root=${DESTDIR:-}$prefix
work=
# Where systemd looks: for a PREFIX in a home among the user's services, else among the system's.
case "$prefix" in
*/.local | "${HOME:-/root}"/*) unit=winnow-user.service unit_folder=share/systemd/user ;;
*) unit=winnow.service unit_folder=lib/systemd/system ;;
esac
# The folders that installing made, so that uninstalling leaves those that were there, empty or not.
folders=share/winnow/folders

generate() {
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    for shell in bash zsh fish man; do
        "$winnow" completions "$shell" >"$work/$shell"
    done
    version=$("$winnow" --version | cut -d ' ' -f 2)
    sed -e "s|@VERSION@|$version|; s|@PREFIX@|$prefix|g" -e "/^@FLAGS@\$/{" -e "r $work/man" -e "d" -e "}" \
        config/install/winnow.1.in >"$work/winnow.1"
    sed "s|@PREFIX@|$prefix|g" "config/install/$unit.in" >"$work/winnow.service"
    sed "s|@PREFIX@|$prefix|g" config/install/winnow.json.in >"$work/winnow.json"
}

# Notes the folders of $1, below the prefix, that do not exist.
note_folders() {
    folder=$(dirname "$1")
    while [ ! -d "$root/$folder" ]; do
        echo "$folder" >>"$work/folders"
        [ "$folder" != . ] || return 0
        folder=$(dirname "$folder")
    done
}

# $1 mode, $2 source, $3 destination below the prefix
place() {
    if [ "$action" = install ]; then
        note_folders "$3"
        install -D -m "$1" "$2" "$root/$3"
    else
        rm -f "$root/$3"
    fi
}

action=${1:-}
case "$action" in
install) generate ;;
uninstall) ;;
*)
    echo "usage: install.sh install|uninstall" >&2
    exit 2
    ;;
esac
place 755 "$winnow" bin/winnow
place 644 "$work/winnow.1" share/man/man1/winnow.1
place 644 "$work/bash" share/bash-completion/completions/winnow
place 644 "$work/zsh" share/zsh/site-functions/_winnow
place 644 "$work/fish" share/fish/vendor_completions.d/winnow.fish
place 644 "$work/winnow.service" "$unit_folder/winnow.service"
place 644 "$work/winnow.json" share/winnow/winnow.json
place 644 LICENSE share/doc/winnow/LICENSE
place 644 README.md share/doc/winnow/README.md
for file in models/*.gguf models/*.heads.json; do
    [ -f "$file" ] && place 644 "$file" "share/winnow/${file#models/}"
done
if [ "$action" = install ]; then
    # Installed again: what the first time made counts.
    { cat "$root/$folders" "$work/folders" 2>/dev/null || true; } | sort -u >"$work/all"
    install -m 644 "$work/all" "$root/$folders"
else
    made=$(sort -r "$root/$folders" 2>/dev/null) || made=
    rm -f "$root/$folders"
    for folder in share/winnow share/doc/winnow; do
        rmdir "$root/$folder" 2>/dev/null || [ ! -d "$root/$folder" ] || echo "kept $root/$folder: it has files that winnow did not install"
    done
    # Innermost first: in reverse order a folder comes after what is in it, and "." last.
    for folder in $made; do
        [ "$folder" = . ] && continue
        rmdir "$root/$folder" 2>/dev/null || true
    done
    case "$made" in *.) rmdir "$root" 2>/dev/null || true ;; esac
fi
