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
# ---

# %% [markdown]
# # Coarse to fine: experts, and neurons of experts
#
# Of an expert's neurons only some contribute much to a token. A CORM-like pair of predictors predicts the experts of the next
# layer (coarse) and the neurons that count (fine), so that only those rows are fetched. Only CORM's abstract is public: this is
# our own design, in its spirit. It is lossy, and the loss must be measured.

# %%
import warnings

warnings.filterwarnings("ignore", message="IProgress not found")

from pathlib import Path

import torch
import yaml
from transformers import AutoTokenizer

import moex
from moex.cache.lru import LRU
from moex.prefetch.corm import Corm as Fetch
from moex.prefetch.gate import Gate
from moex.prefetch.mlp import MLP
from moex.sparsity.corm import Corm

folder = Path(moex.__file__).parent
tokenizer = AutoTokenizer.from_pretrained(folder / "assets" / "tiny")
passages = yaml.safe_load((folder.parent / "conf/workload/short.yaml").read_text())["prompts"]
windows = [tokenizer(text, return_tensors="pt")["input_ids"] for text in passages]
sum(ids.shape[1] for ids in windows)

# %% [markdown]
# How much worse does the model predict eight short passages if only a share of every expert's neurons is computed? (The masks
# are those that decoding would give each token: `prefill="masked"`.) A small sample: for figures that are to be quoted, use
# `python run.py mode=eval`.


# %%
def loss(selector):
    """Mean negative log-likelihood of a token, in bits."""
    bits, count = 0.0, 0
    with (
        moex.load("tiny", slots=8, sparsity=selector, store="ram") as model,
        torch.inference_mode(),
    ):
        for ids in windows:
            tokens = ids.shape[1] - 1
            bits += (
                float(model(ids, labels=ids).loss) / torch.log(torch.tensor(2.0)).item() * tokens
            )
            count += tokens
    return bits / count


shares = (0.05, 0.1, 0.2, 0.3, 0.5)
exact = loss(None)
lossy = {share: loss(Corm(fraction=share, prefill="masked")) for share in shares}
print(f"all neurons: {exact:.3f} bits/token")
for share, bits in lossy.items():
    print(f"{share:.0%} of the neurons: {bits:.3f} ({bits - exact:+.3f})")

# %% [markdown]
# And what does it save? The same prompt continued by 32 tokens, half of the experts on the device:


# %%
def moved(prefetch, selector):
    """Bytes asked of the link in decoding."""
    offloaded = moex.load("tiny", LRU(), slots=4, prefetch=prefetch, sparsity=selector)
    with offloaded as model:
        model.generate(windows[0], max_new_tokens=32, min_new_tokens=32, do_sample=False)
    offloaded.finish()
    counts = offloaded.cache_stats.phases["decode"]
    return counts.bytes_demand + counts.bytes_prefetch


whole = moved(Gate(), None)
rows = {share: moved(Fetch(coarse=MLP()), Corm(fraction=share)) for share in shares}
for share, size in rows.items():
    print(f"{share:.0%} of the neurons: {size / whole:.0%} of the bytes of whole experts")

# %%
from analysis.style import COLOURS, new, styled

with styled():
    figure, axes = new()
    axis = axes[0][0]
    axis.plot([rows[s] / whole for s in shares], list(lossy.values()), "o-", color=COLOURS[0])
    for share in shares:
        axis.annotate(
            f"{share:.0%}",
            (rows[share] / whole, lossy[share]),
            (3, 3 if lossy[share] > exact else -10),
            textcoords="offset points",
            fontsize=7,
        )
    axis.axhline(exact, color="0.45", linestyle="--")
    axis.margins(0.1, 0.15)
    axis.set_xlabel("bytes / bytes of whole experts with gate lookahead")
    axis.set_ylabel("bits/token (dashed: all neurons)")
figure

# %% [markdown]
# ## Where the predictions come from
#
# Coarse: a small network per layer predicts the next layer's experts; the bundled checkpoint records how often it was right on held-out
# text, beside the router's own lookahead. Fine: factors of low rank estimate what every neuron will contribute; beside them a
# list of neurons that are often large (freq) and the true best (oracle).

# %%
import pandas as pd

from moex.predictors import trained

geometry = moex.read_trace("tiny").geometry


def quality(kind):
    about = trained.read(kind, geometry, folder / "assets" / "tiny", None, "prefetch").about
    return pd.DataFrame(about["metrics"])


coarse = quality("mlp")
columns = ["layer", "recall", "gate_recall", "all_named", "gate_all_named"]
coarse[(coarse["horizon"] == 1) & (coarse["named"] == 2)][columns].round(3)

# %%
fine = quality("corm")
fine.groupby("way")[["neuron_recall", "energy_recall"]].mean().round(3)

# %% [markdown]
# Both are trained on text that the model reads, `mode=train prefetch=mlp` and `mode=train prefetch=corm`;
# `notebooks/06_train_a_predictor` does the first, in small.
