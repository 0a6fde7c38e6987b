#!/usr/bin/env bash
# The main job in a few minutes: click logs of a world whose truth is known, training data from them, a ranker trained on naive clicks and
# one on debiased ones, each with two workers, and both against the truth.
# Usage: scripts/demo.sh [FOLDER]   (default: out/demo in the checkout; made anew)
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
"$LOCKSTEP_ROOT/scripts/setup.sh"

say "building lockstep and lockstep-worker (the first build takes some minutes)"
(cd "$LOCKSTEP_ROOT" && cargo build --quiet --locked --workspace --bins)

demo="${1:-$LOCKSTEP_ROOT/out/demo}"
if [ -e "$demo" ] && [ ! -e "$demo/.lockstep-demo" ]; then
    fail "\`$demo\` is there, and this script did not make it" "name another folder"
fi
rm -rf "$demo"
mkdir -p "$demo"
touch "$demo/.lockstep-demo"
cd "$demo"

step() { printf '\n\033[1m$ %s\033[0m\n' "$*"; "$@"; }

days="--from 2026-01-01 --to 2026-01-07"
tables="--query-features world/query_features --document-features world/document_features
        --pair-features world/pair_features --user-features world/user_features"

# A week of searches: users look at upper results more often than at lower ones, and click what they like of what they look at.
step lockstep logs simulate --out-lake lake --features world --events 40000 --queries 2000 --documents 20000 --users 4000 --days 7 --seed 7
# How much more often? A tenth of the lists was shuffled, which tells.
step lockstep propensity estimate --logs lake $days --method randomized --out propensities.json
# Clicks as they are, and clicks that count for those who would have clicked had they looked.
step lockstep prepare --logs lake $days $tables --labels binary --weights none --out data/naive
step lockstep prepare --logs lake $days $tables --labels binary --weights ipw-clicks --propensities propensities.json --out data/debiased
step lockstep inspect data/debiased

cat >naive.toml <<'TOML'
name = "naive"
seed = 17

[data]
train = "data/naive"
validation = "world/truth"        # every candidate of every query, with its true grade

[model]
kind = "mlp"
hidden = [64, 32]
normalize = "standard"

[loss]
kind = "listnet"

[training]
epochs = 8
batch = 256                       # searches, of both workers together

[optimizer]
kind = "adamw"
learning_rate = 3e-3

[schedule]
kind = "cosine"

[cluster]
workers = 2
TOML
printf '\n\033[1m$ cat naive.toml\033[0m\n'
cat naive.toml

step lockstep check naive.toml
step lockstep train naive.toml
# The same run on the other data.
step lockstep train naive.toml --set name=debiased --set data.train=data/debiased

# Both on the whole truth: is the difference more than chance, and where is it largest?
step lockstep score --model checkpoints/naive --data world/truth --out naive.parquet
step lockstep score --model checkpoints/debiased --data world/truth --out debiased.parquet
step lockstep compare naive.parquet debiased.parquet --top 3
# The better one leaves as a module that PyTorch opens: raw features in, scores out.
step lockstep runs best --metric ndcg@10 --state checkpoints/.state
step lockstep export --model checkpoints/debiased --format torchscript --out ranker.pt

lockstep compare naive.parquet debiased.parquet --metrics ndcg@10 --json | python3 -c '
import json, sys

difference = json.load(sys.stdin)["metrics"][0]["difference"]
print(f"\nThe same clicks, weighed by how often their positions were looked at: {difference:+.4f} of true ndcg@10.")
raise SystemExit(0 if difference > 0.005 else "debiasing did not help: something is broken")
'
