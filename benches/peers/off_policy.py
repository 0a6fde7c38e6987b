"""What obp (Open Bandit Pipeline, Saito et al., NeurIPS 2021) makes of a CSV of logged actions: one line of JSON.

    python off_policy.py ACTIONS.csv [--clip 10]

Columns: reward, propensity, target. A row's action is one of two, done or something else, so that obp has the distribution that it asks for.
"""

import argparse
import csv
import importlib.util
import json
import os
import sys
import types

import numpy as np

# obp's packages import everything that it has, among it PyTorch and plots. The estimators need none of it: their modules are loaded alone.
tensors = types.ModuleType("torch")
tensors.Tensor = tensors.tensor = type("Tensor", (), {})
sys.modules["torch"] = tensors
root = importlib.util.find_spec("obp").submodule_search_locations[0]
for name, folder in [("obp", root), ("obp.ope", os.path.join(root, "ope"))]:
    package = types.ModuleType(name)
    package.__path__ = [folder]
    sys.modules[name] = package

from obp.ope.estimators import InverseProbabilityWeighting, SelfNormalizedInverseProbabilityWeighting  # noqa: E402


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("actions")
    parser.add_argument("--clip", type=float, default=10.0)
    args = parser.parse_args()
    with open(args.actions, newline="") as file:
        rows = list(csv.DictReader(file))
    reward, propensity, target = (np.array([float(row[name]) for row in rows]) for name in ("reward", "propensity", "target"))
    log = {
        "reward": reward,
        "action": np.zeros(len(rows), dtype=int),
        "pscore": propensity,
        "action_dist": np.stack([target, 1.0 - target], axis=1)[:, :, None],
        "position": np.zeros(len(rows), dtype=int),
    }
    estimate = lambda estimator: estimator.estimate_policy_value(**log)
    print(json.dumps({
        "ips": estimate(InverseProbabilityWeighting()),
        "clipped": estimate(InverseProbabilityWeighting(lambda_=args.clip)),
        "snips": estimate(SelfNormalizedInverseProbabilityWeighting()),
    }))


main()
