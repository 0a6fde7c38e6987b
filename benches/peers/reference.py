"""What Lockstep's worker computes, in plain PyTorch: models, losses and metrics, slow and simple. The oracle of parity.py.

Nothing here is shared with the worker's code; the conventions are those of the docs. A loss is a sum of terms over a sum of
denominators, both over the whole batch. With row weights w, scores s, labels y, gains g = 2^y - 1:

  mse          Σ w (s - y)² / Σ w
  bce          Σ w (softplus(s) - y s) / Σ w, y in [0, 1]
  ranknet      Σ w_i softplus(-sigma (s_i - s_j)) / Σ w_i, over the pairs of a list with y_i > y_j
  lambdarank   the same terms times |ΔNDCG| of swapping the pair in the current ranking, a constant for the gradient; the same
               denominator. With `truncation` k it is NDCG@k's: ranks past k have no discount, the ideal is the ideal top k
  listnet      Σ w_i g_i (-log softmax(s)_i) / Σ g a list, over the number of lists with Σ g > 0
  approx_ndcg  1 - (Σ w_i g_i / log2(1 + π_i)) / ideal a list, over the number of lists with Σ w g > 0;
               π_i = 1 + Σ_{j≠i} logistic((s_j - s_i) / temperature), ideal = Σ_r (w g sorted, descending)_r / log2(1 + r)
"""

import torch
from torch import nn
from torch.nn import functional as F

POINTWISE = {"mse", "bce"}
ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu, "tanh": torch.tanh}
# Elements of a [lists, longest, longest] tensor worked on at once.
PAIRS_AT_ONCE = 1 << 24


class Normalize(nn.Module):
    """x̂ = (t(x) - mean) * scale; `log1p` has t(x) = sign(x) ln(1 + |x|)."""

    def __init__(self, kind, features):
        super().__init__()
        self.kind = kind
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))

    def forward(self, x):
        if self.kind == "none":
            return x
        if self.kind == "log1p":
            x = torch.sign(x) * torch.log1p(torch.abs(x))
        return (x - self.mean) * self.scale


class Cross(nn.Module):
    """DCN-v2: x0 * (W x + b) + x, W whole or `up` `down`."""

    def __init__(self, features, rank):
        super().__init__()
        if rank:
            self.down = nn.Parameter(torch.randn(rank, features) / features**0.5)
            self.up = nn.Parameter(torch.randn(features, rank) / rank**0.5)
        else:
            self.weight = nn.Parameter(torch.randn(features, features) / features**0.5)
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, x0, x):
        through = x @ self.down.T @ self.up.T if hasattr(self, "down") else x @ self.weight.T
        return x0 * (through + self.bias) + x


class Network(nn.Module):
    """The model of a run.toml's [model]; its state dict has a checkpoint's names."""

    def __init__(self, spec, features):
        super().__init__()
        kind = spec.get("kind", "mlp")
        hidden = [] if kind == "linear" else spec.get("hidden", [])
        self.normalize = Normalize(spec.get("normalize", "none"), features)
        self.activation = ACTIVATIONS[spec.get("activation", "relu")]
        widths = [features, *hidden]
        self.layers = nn.ModuleList(nn.Linear(inputs, outputs) for inputs, outputs in zip(widths, widths[1:]))
        self.norms = nn.ModuleList(nn.LayerNorm(units) for units in hidden) if spec.get("layer_norm") else None
        self.tower = len(hidden)
        if kind == "dcn_v2":
            self.cross = nn.ModuleList(Cross(features, spec.get("cross_rank")) for _ in range(spec.get("cross_layers", 2)))
            self.head = nn.Linear(features + (widths[-1] if hidden else 0), 1)
        else:
            self.cross = None
            self.layers.append(nn.Linear(widths[-1], 1))

    def forward(self, x):
        x0 = deep = self.normalize(x)
        for index, layer in enumerate(self.layers[: self.tower]):
            deep = layer(deep)
            if self.norms is not None:
                deep = self.norms[index](deep)
            deep = self.activation(deep)
        if self.cross is None:
            return self.layers[-1](deep).squeeze(1)
        crossed = x0
        for layer in self.cross:
            crossed = layer(x0, crossed)
        return self.head(torch.cat([crossed, deep], 1) if self.tower else crossed).squeeze(1)


def loss(spec, scores, labels, weights, starts):
    """(sum of terms, sum of denominators) of a batch; `starts`: first row of each list, and the number of rows."""
    kind = spec.get("kind", "lambdarank")
    if kind == "mse":
        return (weights * (scores - labels) ** 2).sum(), weights.sum()
    if kind == "bce":
        if not ((labels >= 0) & (labels <= 1)).all():
            raise SystemExit("loss `bce` needs labels between 0 and 1")
        return (weights * F.binary_cross_entropy_with_logits(scores, labels, reduction="none")).sum(), weights.sum()
    terms, denominator = scores.new_zeros(()), scores.new_zeros(())
    for rows, mask in padded(starts):
        lists = [torch.where(mask, values[rows], 0.0) for values in (scores, labels, weights)]
        part, count = LISTS[kind](spec, *lists, mask)
        terms, denominator = terms + part, denominator + count
    return terms, denominator


def padded(starts):
    """Lists of similar length together: ([lists, longest] row numbers, mask of those that are meant)."""
    starts = torch.as_tensor(starts, dtype=torch.int64)
    sizes = starts[1:] - starts[:-1]
    order = torch.argsort(sizes, stable=True)
    while len(order):
        longest = int(sizes[order[-1]])
        take = max(1, PAIRS_AT_ONCE // longest**2)
        some, order = order[-take:], order[:-take]
        places = torch.arange(longest)
        mask = places < sizes[some][:, None]
        yield torch.where(mask, starts[some][:, None] + places, 0), mask


def gains(labels):
    return torch.exp2(labels) - 1


def discounts(count, like):
    """1 / log2(1 + rank) of the ranks 1, 2, …"""
    return 1 / torch.log2(torch.arange(count, dtype=like.dtype) + 2)


def ranks(scores, mask):
    """From 0, by descending score, equal scores in row order, padding last."""
    order = torch.argsort(torch.where(mask, scores, -torch.inf), dim=1, descending=True, stable=True)
    return torch.argsort(order, dim=1)


def pairs(spec, scores, labels, weights, mask, factor=1.0):
    sigma = spec.get("sigma", 1.0)
    preferred = (labels[:, :, None] > labels[:, None, :]) & mask[:, :, None] & mask[:, None, :]
    terms = factor * F.softplus(-sigma * (scores[:, :, None] - scores[:, None, :]))
    weight = weights[:, :, None] * preferred
    return (weight * terms).sum(), weight.sum()


def lambdarank(spec, scores, labels, weights, mask):
    with torch.no_grad():
        length = scores.shape[1]
        depth = min(spec.get("truncation") or length, length)
        gain = torch.where(mask, gains(labels), 0.0)
        by_rank = discounts(length, scores)
        by_rank[depth:] = 0.0
        discount = by_rank[ranks(scores, mask)]
        # Of the documents a list has: padding gains 0, and so lies last only where no gain is negative.
        ideal = (torch.sort(torch.where(mask, gain, -torch.inf), dim=1, descending=True).values.nan_to_num(neginf=0.0) * by_rank).sum(1)
        delta = (gain[:, :, None] - gain[:, None, :]).abs() * (discount[:, :, None] - discount[:, None, :]).abs()
        delta = torch.where(ideal[:, None, None] > 0, delta / ideal[:, None, None], 0.0)
    return pairs(spec, scores, labels, weights, mask, delta)


def listnet(spec, scores, labels, weights, mask):
    gain = torch.where(mask, gains(labels), 0.0)
    total = gain.sum(1)
    targeted = total > 0
    log_softmax = torch.where(mask, F.log_softmax(torch.where(mask, scores, -torch.inf), dim=1), 0.0)
    terms = -(weights * gain * log_softmax).sum(1) / torch.where(targeted, total, 1.0)
    return terms[targeted].sum(), targeted.sum()


def approx_ndcg(spec, scores, labels, weights, mask):
    temperature = spec.get("temperature", 0.1)
    length = scores.shape[1]
    gain = torch.where(mask, weights * gains(labels), 0.0)
    others = mask[:, None, :] & ~torch.eye(length, dtype=torch.bool)
    ahead = torch.sigmoid((scores[:, None, :] - scores[:, :, None]) / temperature)
    smooth_rank = 1 + torch.where(others, ahead, 0.0).sum(2)
    ideal = (torch.sort(gain, dim=1, descending=True).values * discounts(length, scores)).sum(1)
    targeted = ideal > 0
    terms = 1 - (gain / torch.log2(1 + smooth_rank)).sum(1) / torch.where(targeted, ideal, 1.0)
    return terms[targeted].sum(), targeted.sum()


LISTS = {"ranknet": pairs, "lambdarank": lambdarank, "listnet": listnet, "approx_ndcg": approx_ndcg}


def metrics(scores, labels, starts, cutoffs=(1, 5, 10)):
    """Means over lists of ndcg@k, map and mrr, in float64: gain 2^label - 1, discount 1 / log2(1 + rank), ties in row order, relevant
    means label >= 1, map divides by all relevant, a list without relevant documents counts 0."""
    scores, labels = scores.detach(), labels.double()
    starts = [int(start) for start in starts]
    sums = {f"ndcg@{k}": 0.0 for k in cutoffs} | {"map": 0.0, "mrr": 0.0}
    for start, end in zip(starts, starts[1:]):
        ranked = labels[start:end][torch.argsort(scores[start:end], descending=True, stable=True)]
        best = torch.sort(ranked, descending=True).values
        discount = discounts(end - start, labels)
        for k in cutoffs:
            ideal = (gains(best) * discount)[:k].sum().item()
            sums[f"ndcg@{k}"] += (gains(ranked) * discount)[:k].sum().item() / ideal if ideal > 0 else 0.0
        places = torch.nonzero(ranked >= 1).flatten() + 1
        if len(places):
            found = torch.arange(1, len(places) + 1)
            sums["map"] += (found / places.double()).mean().item()
            sums["mrr"] += 1 / places[0].item()
    return {name: total / (len(starts) - 1) for name, total in sums.items()}
