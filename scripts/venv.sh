#!/usr/bin/env bash
# Makes the Python environment NAME out of scripts/venvs/NAME.txt, its pinned requirements: `scripts/venv.sh spark`.
# Prints the python of $LOCKSTEP_CACHE/venvs/NAME on stdout; quick when all is there, and safe to interrupt or to run twice at once.
# Wheels only, lest a compiler be needed: a requirements file that must have it otherwise says `--no-binary PACKAGE`. Options of pip that such a
# file cannot hold stand in a line `# pip options: …` of it.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"

name="${1:-}"
requirements="$LOCKSTEP_ROOT/scripts/venvs/$name.txt"
[[ "$name" =~ ^[a-z0-9_-]+$ && -f "$requirements" && $# -eq 1 ]] \
    || fail "no environment is called \`$*\`" "scripts/venv.sh NAME, one of: $(cd "$LOCKSTEP_ROOT/scripts/venvs" && ls -- *.txt | sed 's/\.txt$//' | paste -sd ' ')"

venv="$LOCKSTEP_CACHE/venvs/$name"
# Comments may change without a new venv.
wanted="$({ echo "$venv"; python3 --version; grep -v "^#" "$requirements"; } 2>&1 | sha256sum | cut -d " " -f 1)"
ready() { [ "$(cat "$venv/stamp" 2>/dev/null)" = "$wanted" ] && [ -x "$venv/bin/python" ]; }

if ! ready; then
    python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
        || fail "\`$name\` needs Python 3.11 or newer with venv; \`python3\` is $(python3 --version 2>&1)" "install python3-venv, or put a newer python3 on the PATH"
    mkdir -p "$LOCKSTEP_CACHE/venvs"
    exec 9>"$venv.lock"
    flock 9
fi
if ! ready; then
    say "$name: making $venv from PyPI (once; minutes where it is large)"
    # Without its stamp a venv is unfinished, and made anew. pip holds the lock too: what outlives a killed run is waited for.
    rm -rf "$venv"
    python3 -m venv "$venv"
    read -ra options <<<"$(sed -n 's/^# pip options: //p' "$requirements")"
    "$venv/bin/python" -m pip --quiet --disable-pip-version-check install --only-binary=:all: ${options[@]+"${options[@]}"} -r "$requirements" >&2 \
        || fail "the Python packages of \`$name\` could not be installed" "see pip's message above; the requirements are in $requirements"
    echo "$wanted" >"$venv/stamp.new"
    mv "$venv/stamp.new" "$venv/stamp"
    say "$name: ready in $venv"
fi
echo "$venv/bin/python"
