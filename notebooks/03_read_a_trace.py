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
# # Read a trace
#
# A trace is one parquet file: a row a layer visit, with the experts that were demanded, the router's scores and what
# gate lookahead predicted. Every `mode=live` run writes one; llama.cpp, vLLM and plain arrays can be imported
# (`moex.trace.importers`).

# %%
import moex
from moex.trace.diagnostics import diagnose

trace = moex.read_trace("tiny")
print(trace.geometry)
print(f"{len(trace)} layer visits; {trace.provenance['workload']}")

# %% [markdown]
# Can caching work on it? The figures that decide:

# %%
found = diagnose(trace)
print(f"reuse: a token shares {found.overlap.mean():.2f} of its experts with the one before")
print(f"balance: usage entropy {found.entropy_bits.mean():.2f} of 3 bits")
print(f"working set: {found.working_set:.1f} of 8 experts of a layer in 32 tokens")
print(f"next layer: {found.link.mean():.2f} of what popularity gets wrong follows from this layer")
print(f"contamination: {found.contamination:.2f} of positions repeat an earlier prefix's routing")

# %% [markdown]
# Who is used, and who is still there: the pattern of figure 1 of Eliseev & Mazur 2023.

# %%
from analysis.routing import lookahead_recall, pattern

seen = pattern(trace, slots=2, layers=[0, 3, 5], tokens=200)
seen[seen["weight"] > 0].groupby("layer")["resident"].mean().rename("LRU hit rate, 2 slots").round(
    3
)

# %% [markdown]
# How far ahead can the router's own lookahead see? Share of the demanded experts among the best two and four:

# %%
recall = lookahead_recall(trace)
recall[recall["fetched"].isin([2, 4])].pivot_table(
    index="ahead", columns="fetched", values="recall"
).round(3)

# %% [markdown]
# What no policy can go below, at half of the experts:

# %%
from moex.sim.bounds import floors

floors(trace, slots=4)

# %% [markdown]
# How long until an expert is used again, in tokens? Caches of few slots only catch the left end.

# %%
import numpy as np

from analysis.style import COLOURS, new, styled

reuse = found.reuse[1:33] / found.reuse.sum()
with styled():
    figure, axes = new()
    axes[0][0].bar(np.arange(1, len(reuse) + 1), reuse, color=COLOURS[0])
    axes[0][0].set_xlabel("tokens since the expert's last use")
    axes[0][0].set_ylabel("share of uses")
figure
