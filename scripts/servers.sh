#!/usr/bin/env bash
# Brings the real servers that tests talk to, built from crates.io under LOCKSTEP_CACHE: tansu (a broker that speaks Kafka's protocol) and
# s3s-fs (S3 over a folder). Prints the folder of their binaries on stdout; quick when all is there, and safe to interrupt or to run
# twice at once. Set LOCKSTEP_SERVERS to a folder of yours that holds `tansu` and `s3s-fs`.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"

if [ -n "${LOCKSTEP_SERVERS:-}" ]; then
    for server in tansu s3s-fs; do
        [ -x "$LOCKSTEP_SERVERS/$server" ] || fail "LOCKSTEP_SERVERS holds no \`$server\`" "unset it, and the servers are built"
    done
    echo "$LOCKSTEP_SERVERS"
    exit
fi

root="$LOCKSTEP_CACHE/servers"
tansu="tansu@0.6.0"
s3s="s3s-fs@0.14.1"
ready() { [ "$(cat "$root/$1.stamp" 2>/dev/null)" = "$2" ] && [ -x "$root/bin/$1" ]; }

# Builds a server unless this very version is there; its target folder goes away with the build.
bring() {
    local name="$1" crate="$2" stamp
    shift 2
    stamp="$crate $*"
    ready "$name" "$stamp" && return
    mkdir -p "$root"
    exec 9>"$root/$name.lock"
    flock 9
    ready "$name" "$stamp" && return
    command -v cargo >/dev/null || fail "\`cargo\` is not installed" "install Rust (rustup.rs), then run this again"
    say "servers: building $crate into $root (some minutes, once)"
    rm -rf "$root/target-$name"
    # Their own optimisation is enough for a test; what they take to build is not to be longer than what they test. Away from the
    # checkout, whose cargo configuration is for the house.
    (cd "$root" && CARGO_TARGET_DIR="$root/target-$name" CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off \
        CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_DEBUG=0 \
        cargo install --quiet --force --root "$root" "$crate" "$@" 9>&- >&2) \
        || fail "\`$crate\` could not be built" "see the messages above; without the network, set LOCKSTEP_SERVERS"
    rm -rf "$root/target-$name"
    echo "$stamp" >"$root/$name.stamp.new"
    mv "$root/$name.stamp.new" "$root/$name.stamp"
}

bring s3s-fs "$s3s" --features binary --locked
bring tansu "$tansu" --features dynostore
echo "$root/bin"
