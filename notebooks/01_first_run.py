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
# # First run
#
# The bundled Mixtral (8 experts, top-2, 6 layers) with half of its experts on the device, the rest read from the disk
# when they are needed. It is an ordinary transformers model inside the `with` block.

# %%
import warnings

warnings.filterwarnings("ignore", message="IProgress not found")

from pathlib import Path

import torch
from transformers import AutoTokenizer

import moex
from moex.cache.lru import LRU
from moex.prefetch.gate import Gate

tokenizer = AutoTokenizer.from_pretrained(Path(moex.__file__).parent / "assets" / "tiny")
prompt = tokenizer("The captain looked at the sky for a long time", return_tensors="pt")
torch.manual_seed(0)
offloaded = moex.load("tiny", cache=LRU(), slots=4, prefetch=Gate())
with offloaded as model:
    tokens = model.generate(**prompt, max_new_tokens=64, do_sample=True)
offloaded.finish()
print(tokenizer.decode(tokens[0]))

# %% [markdown]
# Every run records its routing. The trace can be replayed through any other policy in milliseconds, by the very same
# cache, without the model and without torch.

# %%
trace = offloaded.recorder.trace({"model": "tiny", "workload": "one prompt"})
report = moex.simulate(trace, cache=LRU(), slots=4, prefetch=Gate())
print(f"{report.requests} experts demanded in decoding")
print(f"{report.hit_rate:.1%} resident, {report.effective_hit_rate:.1%} with prefetching")

# %% [markdown]
# Live and simulated runs make the same decisions, expert for expert, as the live run's own statistics show:

# %%
live = offloaded.cache_stats.phases["decode"]
assert (live.requests, live.resident_hits) == (report.requests, report.resident_hits)
live

# %% [markdown]
# The bundled trace is longer: 1,024 tokens of held-out text. How much does each further slot buy?

# %%
import pandas as pd

from analysis.style import new, policy_style, styled
from moex.cache.belady import Belady
from moex.cache.fifo import FIFO
from moex.cache.lfu import LFU

recorded = moex.read_trace("tiny")
policies = {"lru": LRU, "lfu": LFU, "fifo": FIFO, "belady": Belady}
rates = pd.DataFrame(
    {
        name: {slots: moex.simulate(recorded, policy(), slots).hit_rate for slots in range(2, 9)}
        for name, policy in policies.items()
    }
)
rates.round(3)

# %%
with styled():
    figure, axes = new()
    for name in rates:
        axes[0][0].plot(rates.index, rates[name], label=name, **policy_style(name))
    axes[0][0].set_xticks(rates.index)
    axes[0][0].set_xlabel("slots (experts per layer)")
    axes[0][0].set_ylabel("hit rate (resident / demanded)")
    axes[0][0].legend()
figure

# %% [markdown]
# The same from the command line: `python run.py -m mode=simulate prefetch=none cache=lru,lfu,fifo,belady
# memory.slots=2,3,4,5,6,7,8`, then `python -m analysis`.
