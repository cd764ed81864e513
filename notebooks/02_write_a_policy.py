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
# An eviction policy decides one thing: which expert to evict. Here is one that looks at what the router *almost* chose: it keeps a moving
# average of every expert's share of the router's mass, also of experts that were not picked, and evicts the lowest.

# %%
from collections import defaultdict
from dataclasses import dataclass

from moex.cache.base import ScoredPolicy


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

import moex
from moex.cache.belady import Belady
from moex.cache.lru import LRU

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
# The first cell above is the file; a yaml gives it a name. Both may be in any folder:

# %%
import tempfile
from pathlib import Path

work = Path(tempfile.mkdtemp())
(work / "my_policies.py").write_text(In[1])  # noqa: F821 - the text of this notebook's first cell
(work / "my_conf" / "cache").mkdir(parents=True)
(work / "my_conf" / "cache" / "sought.yaml").write_text(
    """# Average router share, also of experts not chosen: python run.py --config-dir my_conf cache=sought
_target_: my_policies.Sought
memory: 0.97
"""
)
lines = [line for line in (work / "my_policies.py").read_text().splitlines() if line.strip()]
print(f"{len(lines)} lines and one yaml")

# %% [markdown]
# Nothing is registered and nothing else is edited: it is there in every command, sweep, study and figure, with a colour and a marker
# of its own.

# %%
import os
import subprocess
import sys
import warnings

words = "mode=simulate bottleneck=false prefetch=none cache=lru,sought,belady memory.slots=3,4,5"
command = [sys.executable, "run.py", "--config-dir", f"{work}/my_conf", "-m", *words.split()]
path = os.pathsep.join([str(work), os.environ.get("PYTHONPATH", "")])
subprocess.run(
    [*command, f"hydra.sweep.dir={work}/results", "tracker=none"],
    check=True, capture_output=True, env=os.environ | {"PYTHONPATH": path},
)  # fmt: skip

from analysis import collect
from analysis.catalogue import FIGURES

warnings.simplefilter("ignore")  # of results made with changes that are not committed
table = collect(work / "results")
with styled():
    picture = FIGURES["fig2a_hits_by_slots"].draw(table)
picture

# %% [markdown]
# From a shell that is
#
# ```
# python run.py --config-dir my_conf mode=simulate cache=sought
# python run.py --config-dir my_conf experiment=policy_zoo      # among all others
# python run.py --config-dir my_conf cache=sought               # live
# ```
#
# (`tests/plugin_example` is such a package. In moex itself the two files go to `moex/cache/` and `conf/cache/`, and
# `python -m analysis.options` adds the line to the README's catalogue.)
