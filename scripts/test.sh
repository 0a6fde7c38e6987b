#!/usr/bin/env bash
# Everything that must hold: formatting, clippy without a warning, all tests. Brings what they need.
# Tests against PyTorch, a broker, S3, etcd, Spark, Label Studio, MLflow, obp or the tools of evaluation are skipped, loudly, where these cannot be brought; on CI
# (CI=true) that is a failure.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
"$LOCKSTEP_ROOT/scripts/setup.sh"
cd "$LOCKSTEP_ROOT"

# Built beside what is fetched below: one wants processors, the other the network.
folder_of_servers="$(mktemp)"
trap 'rm -f "$folder_of_servers"' EXIT
scripts/servers.sh >"$folder_of_servers" &
building_servers=$!

if python="$(scripts/peers.sh)"; then
    export LOCKSTEP_PEERS_PYTHON="$python"
else
    [ "${CI:-}" != true ] || fail "the peers' Python could not be made" "see the message above"
    say "*** SKIPPED: tests against PyTorch, for want of its packages (see above)"
fi

if ! command -v etcd >/dev/null && [ "${CI:-}" = true ] && [ "$(id -u)" = 0 ]; then
    say "etcd: installing etcd-server for the tests against it"
    apt-get install --yes --quiet --no-install-recommends etcd-server >&2 || { apt-get update --quiet >&2 && apt-get install --yes --quiet --no-install-recommends etcd-server >&2; }
fi
if etcd="$(command -v etcd)"; then
    export LOCKSTEP_ETCD="$etcd"
else
    [ "${CI:-}" != true ] || fail "no etcd for the tests" "install etcd-server, or put \`etcd\` on the PATH"
    say "*** SKIPPED: tests against etcd, for want of it (install etcd-server)"
fi

java_is_new_enough() { [ "$(java -version 2>&1 | sed -n '1s/.*version "\([0-9]*\).*/\1/p')" -ge 17 ] 2>/dev/null; }
if ! java_is_new_enough && [ "${CI:-}" = true ] && [ "$(id -u)" = 0 ]; then
    say "Java: installing openjdk-17-jre-headless for the tests against Spark"
    apt-get install --yes --quiet --no-install-recommends openjdk-17-jre-headless >&2 || { apt-get update --quiet >&2 && apt-get install --yes --quiet --no-install-recommends openjdk-17-jre-headless >&2; }
fi
if java_is_new_enough && python="$(scripts/venv.sh spark)"; then
    export LOCKSTEP_SPARK_PYTHON="$python"
else
    [ "${CI:-}" != true ] || fail "no Spark for the tests: it needs Java 17 or newer, and PyPI's pyspark" "install openjdk-17-jre-headless; see the message above"
    say "*** SKIPPED: tests against Spark, for want of Java 17 or newer or of its packages (see above)"
fi

# The Python of an environment, for the tests against what it holds: `bring label-studio LOCKSTEP_… "Label Studio"`.
bring() {
    local python
    if python="$(scripts/venv.sh "$1")"; then
        export "$2=$python"
    else
        [ "${CI:-}" != true ] || fail "no $3 for the tests" "see the message above"
        say "*** SKIPPED: tests against $3, for want of its packages (see above)"
    fi
}
bring label-studio LOCKSTEP_LABEL_STUDIO_PYTHON "Label Studio"
bring evaluation LOCKSTEP_EVALUATION_PYTHON "trec_eval, LightGBM, XGBoost, scikit-learn and ranx"
bring obp LOCKSTEP_OBP_PYTHON "obp"
bring mlflow LOCKSTEP_MLFLOW_PYTHON "MLflow"

if wait "$building_servers"; then
    servers="$(cat "$folder_of_servers")"
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
