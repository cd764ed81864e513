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
# # Write your own policy, and beat LRU
#
# A policy decides one thing: who leaves. Here is one that looks at what the router *almost* chose: it keeps a moving
# average of every expert's share of the router's mass, also of experts that were not picked, and evicts the lowest.

# %%
from collections import defaultdict
from dataclasses import dataclass

import moex
from moex.cache.base import ScoredPolicy
from moex.cache.belady import Belady
from moex.cache.lru import LRU


@dataclass
class Sought(ScoredPolicy):
    """Evict the expert whose router share, averaged over its layer's visits, is lowest."""

    memory: float = 0.97

    def reset(self, scope):
        self.share = defaultdict(float)

    def on_visit(self, access):
        for index, share in enumerate(access.scores):
            key = access.layer, index
            self.share[key] = self.memory * self.share[key] + (1 - self.memory) * share

    def score(self, expert, now):
        return self.share[tuple(expert)]


# %% [markdown]
# Does it keep the contract? `check_policy` replays planted and random traces through it and would name the rule that
# it breaks and the access at which it does.

# %%
from moex.testing import check_policy

check_policy(Sought)

# %% [markdown]
# Does it beat LRU on the bundled trace (1,024 tokens of held-out text, decoded by the bundled Mixtral)?

# %%
import pandas as pd

trace = moex.read_trace("tiny")
rows = []
for slots in range(3, 8):
    for name, policy in {"lru": LRU(), "sought": Sought(), "belady": Belady()}.items():
        report = moex.simulate(trace, policy, slots)
        rows.append((name, slots, report.hit_rate, report.bytes_moved / 1e9))
table = pd.DataFrame(rows, columns=["policy", "slots", "hit_rate", "moved_gb"])
rates = table.pivot(index="slots", columns="policy", values="hit_rate")
assert (rates["sought"] > rates["lru"]).all()
rates.round(4)

# %% [markdown]
# By a little, at every capacity. How much of the way from LRU to the optimum is that?

# %%
((rates["sought"] - rates["lru"]) / (rates["belady"] - rates["lru"])).map("{:.1%}".format)

# %%
from analysis.style import new, policy_style, styled

with styled():
    figure, axes = new()
    for name in ("belady", "sought", "lru"):
        axes[0][0].plot(rates.index, rates[name], label=name, **policy_style(name))
    axes[0][0].set_xticks(rates.index)
    axes[0][0].set_xlabel("slots (experts per layer)")
    axes[0][0].set_ylabel("hit rate (resident / demanded)")
    axes[0][0].legend()
figure

# %% [markdown]
# ## Make it a file
#
# Put the class into a module that can be imported, `my_policies.py`, and a yaml of three lines beside it,
# `my_conf/cache/sought.yaml`:
#
# ```yaml
# # Average router share, also of experts not chosen: python run.py --config-dir my_conf cache=sought
# _target_: my_policies.Sought
# memory: 0.97
# ```
#
# Nothing is registered. It is there in every command, sweep and figure:
#
# ```
# python run.py --config-dir my_conf mode=simulate cache=sought
# python run.py --config-dir my_conf experiment=policy_zoo      # among all others
# python run.py --config-dir my_conf cache=sought               # live
# ```
#
# (`tests/plugin_example` is such a package. In moex itself the two files go to `moex/cache/` and `conf/cache/`, and a
# line to the catalogue in the README.)
