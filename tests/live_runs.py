"""Live runs in decoding, in prefill and with padding; their logits, plans and offloaded model."""

from __future__ import annotations

import torch
from test_exactness import run

from moex.hardware.profile import HardwareProfile
from moex.runner.assemble import offload

LINK = HardwareProfile("link", link_bytes_per_s=5e8, link_latency_s=1e-5, chunk_bytes=8192)


@torch.inference_mode()
def padded(model, seed: int) -> list[torch.Tensor]:
    """Three texts of different lengths, padded on the left, and eight passes of decoding."""
    draw = torch.Generator().manual_seed(seed)
    mask = torch.ones(3, 9, dtype=torch.long)
    mask[0, :4], mask[1, :1] = 0, 0
    out = model(torch.randint(2, 128, (3, 9), generator=draw), attention_mask=mask, use_cache=True)
    logits = [out.logits]
    for _ in range(8):
        mask = torch.cat([mask, mask[:, -1:]], 1)
        token = torch.randint(2, 128, (3, 1), generator=draw)
        past = out.past_key_values
        out = model(token, attention_mask=mask, past_key_values=past, use_cache=True)
        logits.append(out.logits)
    return logits


def both(model, seed: int) -> list[torch.Tensor]:
    return run(model, seed) + padded(model, seed)


def live(loaded, setup, workload=both):
    """Logits, plans and the trace of a run."""
    plans: list = []
    offloaded = offload(loaded, setup, on_plan=plans.append)
    with offloaded as model:
        logits = workload(model, 3)
        offloaded.finish()
    return logits, plans, offloaded
