#!/usr/bin/env bash
# Everything that must hold: formatting, clippy without a warning, all tests. Brings what they need.
# Tests against PyTorch, a broker or S3 are skipped, loudly, where these cannot be brought; on CI (CI=true) that is a failure.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
"$LOCKSTEP_ROOT/scripts/setup.sh"
cd "$LOCKSTEP_ROOT"

if python="$(scripts/peers.sh)"; then
    export LOCKSTEP_PEERS_PYTHON="$python"
else
    [ "${CI:-}" != true ] || fail "the peers' Python could not be made" "see the message above"
    say "*** SKIPPED: tests against PyTorch, for want of its packages (see above)"
fi

if servers="$(scripts/servers.sh)"; then
    export LOCKSTEP_TANSU="$servers/tansu" LOCKSTEP_S3S="$servers/s3s-fs"
else
    [ "${CI:-}" != true ] || fail "the servers could not be built" "see the message above"
    say "*** SKIPPED: tests against a broker and S3, for want of their servers (see above)"
fi

say "formatting"
cargo fmt --all --check
say "building"
cargo build --locked --workspace --all-targets
say "clippy"
cargo clippy --locked --workspace --all-targets -- --deny warnings
if [ -n "${LOCKSTEP_PEERS_PYTHON:-}" ]; then
    say "the PyTorch oracle checks itself"
    "$LOCKSTEP_PEERS_PYTHON" benches/peers/parity.py --self-test
fi
say "tests"
cargo test --locked --workspace
say "all passed"
