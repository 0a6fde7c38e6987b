#!/usr/bin/env bash
# The main job in a few minutes: a dataset whose true ranking is known, a linear baseline and a neural ranker on two workers.
# Usage: scripts/demo.sh [FOLDER]   (default: out/demo in the checkout; made anew)
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
"$LOCKSTEP_ROOT/scripts/setup.sh"

say "building lockstep and lockstep-worker (the first build takes some minutes)"
(cd "$LOCKSTEP_ROOT" && cargo build --quiet --locked -p cli -p worker --bins)

demo="${1:-$LOCKSTEP_ROOT/out/demo}"
if [ -e "$demo" ] && [ ! -e "$demo/.lockstep-demo" ]; then
    fail "\`$demo\` is there, and this script did not make it" "name another folder"
fi
rm -rf "$demo"
mkdir -p "$demo"
touch "$demo/.lockstep-demo"
cd "$demo"

step() { printf '\n\033[1m$ %s\033[0m\n' "$*"; "$@"; }

step lockstep generate --queries 6000 --seed 7 --weights --out all
step lockstep split all --parts train=0.8,validation=0.2 --out data
step lockstep inspect data/train

cat >run.toml <<'TOML'
name = "neural"
seed = 17

[data]
train = "data/train"
validation = "data/validation"

[model]
kind = "mlp"
hidden = [64, 32]
normalize = "standard"

[loss]
kind = "lambdarank"

[training]
epochs = 12
batch = 128                       # searches, of both workers together
early_stopping = { metric = "ndcg@10", patience = 3 }

[optimizer]
kind = "adamw"
learning_rate = 3e-3

[schedule]
kind = "cosine"

[cluster]
workers = 2
TOML
printf '\n\033[1m$ cat run.toml\033[0m\n'
cat run.toml

step lockstep check run.toml
# The same run with a linear model is the baseline.
sed -e 's/"neural"/"linear"/; s/"mlp"/"linear"/; /^hidden/d' run.toml >linear.toml
step lockstep train linear.toml
step lockstep train run.toml

python3 - <<'PY'
import json

def metrics(name):
    manifest = json.load(open(f"checkpoints/{name}/best/manifest.json"))
    return {metric["name"]: metric["value"] for metric in manifest["metrics"]}

linear, neural = metrics("linear"), metrics("neural")
print(f"\nheld-out queries           {'  '.join(f'{name:>8}' for name in linear)}")
for name, values in (("linear baseline", linear), ("neural, two workers", neural)):
    print(f"{name:<25}  {'  '.join(f'{value:8.4f}' for value in values.values())}")
gain = neural["ndcg@10"] - linear["ndcg@10"]
print(f"\nOn queries it never saw in training the neural ranker's ndcg@10 is {gain:+.4f} against the linear baseline.")
raise SystemExit(0 if gain > 0.02 else "the neural ranker is not clearly better: something is broken")
PY
