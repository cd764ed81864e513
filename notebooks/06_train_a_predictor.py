# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3

# %% [markdown]
# # Train a predictor
#
# A prefetcher predicts which experts later layers will demand. The gate lookahead asks the next layer's router too early, on
# this layer's input; what is it blind to? Here a linear model learns to do better from one recording, in a second, and is
# then used as a prefetcher. Training on the model's own hidden states is the second half.

# %%
from dataclasses import dataclass

import numpy as np

from moex.prefetch.base import Prefetcher
from moex.types import Expert, Prediction


@dataclass
class Linear(Prefetcher):
    """Rank the next layer's experts by a linear model of what is known when this layer has routed."""

    weights: np.ndarray  # layers - 1, features, experts

    def reset(self, geometry, seed):
        self.last, self.named = np.zeros((geometry.layers, geometry.experts)), geometry.top_k

    def observe(self, observation):
        access = observation.access
        self.last[access.layer] = np.isin(np.arange(self.last.shape[1]), access.experts)

    def predict(self, observation):
        layer = observation.access.layer + 1
        if layer == len(self.last):
            return []
        scores = features(observation, self.last[layer]) @ self.weights[layer - 1]
        best = np.argsort(-scores, kind="stable")[: self.named]
        return [Prediction(Expert(layer, int(e)), float(scores[e])) for e in best]


def features(observation, last):
    """This layer's router, the next one's lookahead scores, what the next layer used a token ago, and 1."""
    ahead = observation.lookahead[0] if observation.lookahead else np.ones(len(last))
    scores = observation.access.scores or np.ones(len(last))
    return np.concatenate([np.log(np.maximum([scores, ahead], 1e-6)).ravel(), last, [1.0]])


# %% [markdown]
# The first half of the bundled trace is learnt from, the second half is for judging. One least-squares fit a layer: features of
# the visit, targets what the next layer then used.

# %%
import moex
from moex.prefetch.base import Observation

trace = moex.read_trace("tiny")
half = len(trace) // 2
first, second = trace.select(slice(0, half)), trace.select(slice(half, None))
layers, experts = trace.geometry.layers, trace.geometry.experts

before, used, lines = None, np.zeros((layers, experts)), [([], []) for _ in range(layers - 1)]
for access in first.accesses():
    now = np.isin(np.arange(experts), access.experts)
    if access.layer > 0:  # the visit before was this token's layer below
        lines[access.layer - 1][0].append(features(before, used[access.layer]))
        lines[access.layer - 1][1].append(now)
    used[access.layer] = now
    before = Observation(access, first.lookahead_rows(access.clock))
weights = np.stack(
    [np.linalg.lstsq(np.array(x), np.array(y, float), rcond=None)[0] for x, y in lines]
)
weights.shape

# %% [markdown]
# Does it keep the contract? And how does it do on the half that it has not seen, against the gate and against counting which experts
# follow which? All on the toy machine, whose loads take as long as a layer.

# %%
from pathlib import Path

import pandas as pd
import yaml

from moex.cache.lru import LRU
from moex.hardware.profile import HardwareProfile
from moex.prefetch.gate import Gate
from moex.prefetch.markov import Markov
from moex.testing import check_prefetcher

any_weights = np.random.default_rng(0).normal(
    size=(64, 3 * 12 + 1, 12)
)  # the checker's model has 12
check_prefetcher(lambda: Linear(any_weights))

toy = yaml.safe_load(Path("conf/hardware/toy.yaml").read_text())
toy = HardwareProfile(**{name: value for name, value in toy.items() if name != "_target_"})
rows = []
for name, prefetcher in {
    "none": None, "markov": Markov(), "gate": Gate(), "linear": Linear(weights)
}.items():  # fmt: skip
    report = moex.simulate(second, LRU(), 4, prefetcher, hardware=toy)
    rows.append(
        (name, report.prefetch_precision, report.effective_hit_rate, report.tokens_per_second)
    )
table = pd.DataFrame(rows, columns=["prefetch", "precision", "effective_hit_rate", "tokens_per_s"])
assert table["tokens_per_s"].iloc[-1] > table["tokens_per_s"].iloc[-2]
table.round(3)

# %% [markdown]
# ## Train on the model's own states
#
# `prefetch=mlp` sees the hidden state itself, up to three layers ahead; it starts as the routers themselves, so that it cannot begin
# worse than the gate. `prefetch=linear` is its control, a matrix instead of a network, with three quarters of the gain
# (`experiments/bundled_model/predictors`). For another model it takes minutes on one core; the checkpoint is kept in the cache folder and is
# found by the same options:
#
# ```
# python run.py mode=train prefetch=mlp model=hf model.name=FOLDER train.text=FILE_OR_FOLDER
# python run.py prefetch=mlp model=hf model.name=FOLDER
# ```
#
# Here a smoke test: 8,192 tokens where the bundled one read 800,000, of text that is at hand, into a folder of its own.

# %%
import subprocess
import sys
import tempfile

from moex.predictors import trained

folder = Path(moex.__file__).parent
with tempfile.TemporaryDirectory() as work:
    texts = Path(work) / "text"
    texts.mkdir()
    for source in sorted(folder.rglob("*.py")):  # any text will do: here this package's own source
        (texts / f"{'-'.join(source.relative_to(folder).parts)}.txt").write_text(source.read_text())
    words = (
        f"mode=train prefetch=mlp tracker=none train.text={texts} train.out={work}/mlp.safetensors"
    )
    small = "train.tokens=8192 train.batch=2 train.context=256 train.valid_tokens=1024"
    command = [
        sys.executable,
        "run.py",
        *words.split(),
        *small.split(),
        f"hydra.run.dir={work}/run",
    ]
    subprocess.run(command, cwd=folder.parent, check=True, capture_output=True)
    made = f"{work}/mlp.safetensors"
    mine = trained.read("mlp", trace.geometry, folder / "assets" / "tiny", made, "prefetch").about
bundled = trained.read("mlp", trace.geometry, folder / "assets" / "tiny", None, "prefetch").about


def recalls(about, column="recall"):
    """Recall of the two experts of the next layer with two named, by predicted layer."""
    found = pd.DataFrame(about["metrics"])
    found = found[(found["horizon"] == 1) & (found["named"] == 2)]
    return found.set_index("layer")[column]


pd.DataFrame(
    {"smoke test": recalls(mine), "the gate, same text": recalls(mine, "gate_recall")}
).round(3)

# %% [markdown]
# Even that little training helps where the gate is blind: from the first layer, whose state is hardly more than the token. What the
# bundled checkpoint reached on held-out text, and the linear model of above on its own held-out half:

# %%
from itertools import pairwise

from analysis.style import COLOURS, new, styled

linear, right = Linear(weights), [[] for _ in range(layers)]
linear.reset(trace.geometry, 0)
for access, after in pairwise(second.accesses()):
    seen = Observation(access, second.lookahead_rows(access.clock))
    linear.observe(seen)
    for prefetch in linear.predict(seen):
        right[after.layer].append(prefetch.expert.index in after.experts)
curves = {
    "gate": recalls(bundled, "gate_recall"),
    "linear, from the trace": pd.Series({n: np.mean(right[n]) for n in range(1, layers)}),
    "mlp, from hidden states": recalls(bundled),
}
with styled():
    figure, axes = new()
    for number, (name, line) in enumerate(curves.items()):
        look = {"color": COLOURS[number], "marker": "os^"[number]}
        axes[0][0].plot(line.index, line.to_numpy(), label=name, **look)
    axes[0][0].set_xticks(range(1, layers))
    axes[0][0].set_ylim(0, 1)
    axes[0][0].set_xlabel("MoE layer that is predicted")
    axes[0][0].set_ylabel("recall, two experts named")
    axes[0][0].legend(loc="lower right")
figure
