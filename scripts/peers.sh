#!/usr/bin/env bash
# Brings the Python that benches/peers/ runs in: PyTorch, pyarrow, safetensors and a gRPC client, in a venv under LOCKSTEP_CACHE.
# Prints the venv's python on stdout; quick when all is there, and safe to interrupt or to run twice at once.
# Set LOCKSTEP_PEERS_PYTHON to use a python of yours that has them all.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"

# torch without what pip would bring along: 2 GB of CUDA libraries and triton, which nothing on a CPU calls. Two small ones are
# really used while it loads; benches/peers/cuda_stand_ins.py stands in for the others.
torch="torch==2.11.0"
others="numpy==2.4.*
pyarrow==26.0.*
safetensors==0.8.*
grpcio==1.85.*
grpcio-reflection==1.85.*
protobuf==7.*
filelock fsspec jinja2 networkx>=2.5.1 setuptools<82 sympy>=1.13.3 typing-extensions>=4.10
nvidia-cuda-runtime==13.0.*
nvidia-cuda-cupti==13.0.*"
stand_ins="$LOCKSTEP_ROOT/benches/peers/cuda_stand_ins.py"
imports="import grpc, grpc_reflection.v1alpha, numpy, pyarrow.parquet, safetensors.torch, torch, torch.distributed, tomllib"

if [ -n "${LOCKSTEP_PEERS_PYTHON:-}" ]; then
    "$LOCKSTEP_PEERS_PYTHON" -c "$imports" >&2 || fail "LOCKSTEP_PEERS_PYTHON lacks something of the above" "unset it, and a venv is made"
    echo "$LOCKSTEP_PEERS_PYTHON"
    exit
fi

venv="$LOCKSTEP_CACHE/peers-venv"
wanted="$({ echo "$venv $torch $others"; python3 --version; cat "$stand_ins"; } | sha256sum | cut -d ' ' -f 1)"
ready() { [ "$(cat "$venv/stamp" 2>/dev/null)" = "$wanted" ] && [ -x "$venv/bin/python" ]; }

if ! ready; then
    python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
        || fail "the peers need Python 3.11 or newer with venv; \`python3\` is $(python3 --version 2>&1)" "install python3-venv, or put a newer python3 on the PATH"
    command -v g++ >/dev/null && command -v nm >/dev/null || fail "\`g++\` and binutils are not installed" "install g++, then run this again"
    mkdir -p "$LOCKSTEP_CACHE"
    exec 9>"$LOCKSTEP_CACHE/peers-venv.lock"
    flock 9
fi
if ! ready; then
    say "peers: making $venv from PyPI (600 MB to fetch, 1.6 GB on disk, about a minute, once)"
    # Without its stamp a venv is unfinished, and made anew.
    rm -rf "$venv"
    python3 -m venv "$venv"
    pip() { "$venv/bin/python" -m pip --quiet --disable-pip-version-check "$@" 9>&-; }
    pip install --no-deps --no-compile --only-binary=:all: "$torch" >&2
    # What pip says torch lacks is what is left out on purpose.
    printf '%s\n' "$others" | tr ' ' '\n' >"$venv/requirements.txt"
    pip install --no-compile --only-binary=:all: -r "$venv/requirements.txt" 2>&1 | { grep -v -e '^torch .* not installed' -e 'dependency resolver' -e 'dependency conflicts' || true; } >&2
    "$venv/bin/python" "$stand_ins" >&2
    "$venv/bin/python" -c "$imports" >&2 || fail "the peers' python does not load" "delete $venv and run this again; see the message above"
    "$venv/bin/python" -m compileall -q "$venv/lib" >/dev/null 2>&1 || true
    echo "$wanted" >"$venv/stamp.new"
    mv "$venv/stamp.new" "$venv/stamp"
    say "peers: ready in $venv"
fi
echo "$venv/bin/python"
