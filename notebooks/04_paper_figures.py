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
# # The figures of both papers, beside the published numbers
#
# Eliseev & Mazur 2023 first. All of it is simulated, on a real recorded routing of the bundled model and, for table 2, on synthetic routing of
# Mixtral-8x7B's shape. The studies are presets: `python -m analysis --simulate` runs them in full and draws every
# figure; here a few cells are run through the same functions.

# %%
import tempfile
import warnings
from pathlib import Path

from analysis import collect
from analysis.catalogue import FIGURES, simulate_all
from analysis.published import ADAPMOE_MEAN, MIXTRAL_LRU_2, MIXTRAL_LRU_2_SOURCE
from analysis.speeds import table_2
from analysis.style import styled

warnings.simplefilter("ignore")  # of results made with changes that are not committed
results = Path(tempfile.mkdtemp())
simulate_all(results, ["fig1_expert_pattern", "fig2b_speculative_recall", "tab2_simulated"])
simulate_all(results, ["fig2a_lru_hit"], ["cache=lru"])
table = collect(results)


def draw(name):
    entry = FIGURES[name]
    with styled():
        return entry.draw(entry.rows(table))


# %% [markdown]
# ## Figure 1: which experts are loaded

# %%
draw("fig1_expert_pattern")

# %% [markdown]
# ## Figure 2, left: hit rate of LRU by layer
#
# The paper prints no numbers. What it must be for 2 slots on Mixtral-8x7B follows from how often consecutive tokens
# share experts:

# %%
print(MIXTRAL_LRU_2_SOURCE, MIXTRAL_LRU_2)
two = table[(table["policy"] == "lru") & (table["slots"] == 2) & (table["trace"] == "tiny")]
[round(rate, 3) for rate in two["layer_hit_rates"].iloc[0]]

# %% [markdown]
# The same shape: lowest in the first layer, highest in the middle. The bundled model is another model, so that its
# numbers are its own (its last layers repeat more).

# %%
draw("fig2a_hits_by_layer")

# %% [markdown]
# ## Figure 2, right: speculative loading
#
# The paper shows 1, 2 and 10 layers ahead; traces hold 1, 2 and 3.

# %%
print(f"one layer ahead, Mixtral-8x7B, mean over layers (AdapMoE): {ADAPMOE_MEAN}")
draw("fig2b_speculative_recall")

# %% [markdown]
# ## Table 2: tokens per second on four GPUs
#
# Costs of computing come from the rows without pre-loading, so only "full" is a prediction. The simulator gives
# pre-loading a copy stream of its own, which the paper's software did not have: too fast on the 3060 and the A100.
# `experiments/paper/seed1_table2` has all columns and two weaker assumptions about overlap.

# %%
table_2(table).round(3)

# %%
draw("tab2_simulated")

# %% [markdown]
# ## CORM
#
# Of CORM only the abstract is public: so much faster than whole experts, for so little accuracy.

# %%
from analysis.published import CORM_LOSS, CORM_SOURCE, CORM_SPEEDUP

print(f"up to {CORM_SPEEDUP}x, about {CORM_LOSS:g} point of accuracy ({CORM_SOURCE})")

# %% [markdown]
# Here neurons are chosen and fetched by a design of our own, on the bundled model, behind an emulated link. The runs take
# minutes; what they gave is kept with the experiments. Speed beside whole experts with gate lookahead, at equal bytes, for the time that a
# load takes over a layer's (`experiments/studies/neurons`; every pair with its interval stands there):

# %%
import re

import pandas as pd

from analysis.style import COLOURS, new

text = Path("experiments/studies/neurons/README.md").read_text()
rows = re.findall(r"^\| ([\d.]+) \| (\d) \|.*? ([\d.]+) \[([\d.]+), ([\d.]+)\]", text, re.MULTILINE)
neurons = pd.DataFrame(rows, columns=["load", "slots", "speedup", "low", "high"]).astype(float)
neurons = neurons.drop_duplicates(["load", "slots"])
with styled():
    figure, axes = new()
    axis = axes[0][0]
    for number, (slots, line) in enumerate(neurons.groupby("slots")):
        bars = [line["speedup"] - line["low"], line["high"] - line["speedup"]]
        look = {"color": COLOURS[number], "marker": "os^"[number], "capsize": 2}
        axis.errorbar(line["load"], line["speedup"], bars, label=f"{slots:.0f} slots", **look)
    axis.axhline(CORM_SPEEDUP, color="0.45", linestyle="--")
    axis.annotate("CORM", (neurons["load"].min(), CORM_SPEEDUP), (0, 3), textcoords="offset points")
    axis.axhline(1, color="0.45", lw=0.8)
    axis.set_xscale("log", base=2)
    axis.set_xticks(sorted(set(neurons["load"])), [f"{x:g}" for x in sorted(set(neurons["load"]))])
    axis.set_xlabel("a load's time / a layer's time")
    axis.set_ylabel("speed over whole experts (emulated)")
    axis.set_ylim(bottom=0)
    axis.legend(loc="lower right")
figure

# %% [markdown]
# The slower the link beside computing, the more rows are worth; computing is a small model's, for which choosing rows costs
# about as much as a layer. Accuracy over the share of neurons computed (`experiments/paper/corm_sparsity`), the published loss being
# one point:

# %%
from IPython.display import Image

Image("experiments/paper/corm_sparsity/corm_sparsity.png")
