#!/usr/bin/env bash
# Brings what a build needs and cargo does not: libtorch 2.11 for CPU, out of PyPI's torch wheel. Quick when all is there.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"

for tool in cargo g++ make python3; do
    command -v "$tool" >/dev/null || fail "\`$tool\` is not installed" "install Rust (rustup.rs), g++, make and Python 3, then run this again"
done

if [ -f "$LIBTORCH/lib/libtorch_cpu.so" ] && [ -d "$LIBTORCH/include" ]; then
    say "libtorch: $LIBTORCH (already there)"
elif [ -e "$LIBTORCH" ]; then
    fail "\`$LIBTORCH\` holds no libtorch (lib/libtorch_cpu.so and include/)" "set LIBTORCH to a libtorch 2.11.0, or unset it, or remove that folder"
else
    case "$(uname -s)-$(uname -m)" in
        Linux-x86_64 | Linux-aarch64) ;;
        *) fail "no libtorch wheel is known for $(uname -s) $(uname -m)" "install libtorch 2.11.0 yourself and set LIBTORCH to its folder" ;;
    esac
    say "libtorch: fetching torch 2.11.0 from PyPI (530 MB, once) into $LIBTORCH"
    mkdir -p "$LOCKSTEP_CACHE"
    staging="$(mktemp -d "$LOCKSTEP_CACHE/libtorch.XXXXXX")"
    trap 'rm -rf "$staging"' EXIT
    python3 -m pip --version >/dev/null 2>&1 || { python3 -m venv "$staging/venv" && PATH="$staging/venv/bin:$PATH"; } \
        || fail "Python 3 has neither pip nor venv" "install python3-pip or python3-venv"
    # The wheel of any one Python version holds the same libraries; 3.11's is taken whatever runs this script.
    python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.11 --dest "$staging/wheels" \
        torch==2.11.0 "nvidia-cuda-runtime==13.0.*" "nvidia-cuda-cupti==13.0.*"
    python3 - "$staging" <<'PY'
import pathlib, re, sys, zipfile

staging = pathlib.Path(sys.argv[1])
wanted = re.compile(
    r"torch/(include/.*|lib/(libc10|libtorch_cpu|libtorch)\.so|lib/libgomp\.so\.1)$"
    r"|nvidia/.*/lib/(libcudart|libcupti)\.so\.13$"
)
for wheel in (staging / "wheels").glob("*.whl"):
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith("/") or not wanted.match(name):
                continue
            inside = name.removeprefix("torch/") if name.startswith("torch/") else "lib/" + name.rsplit("/", 1)[1]
            target = staging / "libtorch" / inside
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(name))
PY
    [ -f "$staging/libtorch/lib/libtorch_cpu.so" ] || fail "the torch wheel did not hold libtorch_cpu.so" "set LIBTORCH to a libtorch 2.11.0 of yours"
    mkdir -p "$(dirname "$LIBTORCH")"
    mv -T "$staging/libtorch" "$LIBTORCH" 2>/dev/null || [ -f "$LIBTORCH/lib/libtorch_cpu.so" ]
    say "libtorch: ready in $LIBTORCH"
fi

# A plain `cargo build` in this checkout uses the same libtorch and the same target folder as the scripts.
mkdir -p "$LOCKSTEP_ROOT/.cargo"
config="[env]
LIBTORCH = \"$LIBTORCH\"
LIBTORCH_CXX11_ABI = \"$LIBTORCH_CXX11_ABI\"

[build]
target-dir = \"$CARGO_TARGET_DIR\""
if [ "$(cat "$LOCKSTEP_ROOT/.cargo/config.toml" 2>/dev/null)" != "$config" ]; then
    printf '%s\n' "$config" >"$LOCKSTEP_ROOT/.cargo/config.toml"
fi
