# Sourced by the other scripts: where libtorch and the build live, outside the checkout so that a second clone is quick.
# Set LIBTORCH or CARGO_TARGET_DIR before to use your own.
LOCKSTEP_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
LOCKSTEP_CACHE="${LOCKSTEP_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lockstep}"
export LOCKSTEP_ROOT LOCKSTEP_CACHE
export LIBTORCH="${LIBTORCH:-$LOCKSTEP_CACHE/libtorch-2.11.0}"
export LIBTORCH_CXX11_ABI="${LIBTORCH_CXX11_ABI:-1}"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$LOCKSTEP_CACHE/target}"
export PATH="$CARGO_TARGET_DIR/debug:$PATH"

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
fail() { printf '\033[1;31merror:\033[0m %s\n' "$1" >&2; [ -z "${2:-}" ] || printf 'hint: %s\n' "$2" >&2; exit 2; }
