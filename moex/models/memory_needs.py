"""Device memory that a model needs, computed from its configuration without reading weights."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch

from moex.cache.memory import Needs
from moex.hardware.process_memory import resident_bytes
from moex.models import experts_interface
from moex.models.packed.formats import stored_experts
from moex.quant.packing import ExpertPacking, saved_bytes
from moex.store.layout import Planes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from moex.hardware.profile import HardwareProfile
    from moex.quant.base import Scheme
    from moex.types import Geometry

LIBRARIES = 640 << 20
"""Bytes that interpreter, torch and transformers hold once in use: measured, and constant, so that
a plan and the run after it have the same number of slots."""

STAGES = 10
"""Approximate number of hidden states of all tokens that a prefill pass holds at once."""


def sizes(model: PreTrainedModel, quant: Scheme | None = None) -> tuple[Geometry, int]:
    """Geometry and skeleton bytes, plain or packed by `quant`; the model may be on meta."""
    layers = experts_interface.moe_layers(model)
    tensors, skeleton = layers[0].tensors, skeleton_bytes(model)
    refining: frozenset[str] = frozenset()
    if quant is not None:
        stored = stored_experts(model, layers[0], not quant.changes)
        quant.read(stored, str(model.config.name_or_path))
        packing = ExpertPacking(tensors, quant, layers[0].experts.is_transposed)
        tensors, refining = packing.tensors, packing.refining
        skeleton -= saved_bytes(model, quant, [layer.router for layer in layers])
    size = Planes(tensors, refining=refining).bytes
    return experts_interface.geometry(model, layers, size), skeleton


def needs(
    model: PreTrainedModel,
    geometry: Geometry,
    prompt_tokens: int = 0,
    new_tokens: int = 0,
    batch_size: int = 1,
    predictor_bytes: int = 0,
    skeleton: int | None = None,
    process: int = 0,
) -> Needs:
    """Device bytes other than experts; the model's weights may be on meta.

    `predictor_bytes` are the bytes of prefetcher and neuron selector on the device, `skeleton` the
    bytes of all other weights if they differ from the model's own, `process` the result of
    `process_bytes`.
    """
    text = model.config.get_text_config()
    size = model.dtype.itemsize
    prompt = prompt_tokens * batch_size
    widest = geometry.hidden * (STAGES + geometry.top_k) + 3 * geometry.intermediate
    matrix = geometry.hidden * geometry.intermediate * size
    # On a CPU the head is copied by the batched product with a prompt's last token; quantized
    # experts are dequantized for many tokens, one matrix at a time.
    head = text.vocab_size * geometry.hidden * size if process else 0
    copied = max(head, 2 * matrix if geometry.expert_bytes < 2 * matrix else 0)
    layers = experts_interface.moe_layers(model)
    routers = sum(p.nbytes for x in layers if x.router for p in x.router.parameters())
    return Needs(
        skeleton=skeleton_bytes(model) if skeleton is None else skeleton,
        kv_cache=(prompt_tokens + new_tokens) * batch_size * kv_bytes_per_token(text, size),
        workspace=prompt * widest * size + 2 * batch_size * text.vocab_size * 4 + copied,
        predictor=routers + predictor_bytes,
        process=process,
    )


def process_bytes(device: str, hardware: HardwareProfile | None = None, held: int = 0) -> int:
    """Bytes of this process other than the `held` bytes of the model, if the device is the host.

    0 for a GPU, or if an emulated link stands for one.
    """
    if _kind(device) != "cpu" or (hardware is not None and hardware.timed):
        return 0
    return max(LIBRARIES, resident_bytes() - held)


def skeleton_bytes(model: PreTrainedModel) -> int:
    """Bytes of all weights and buffers but the experts', tied ones once."""
    model.tie_weights()
    experts = {
        id(p) for layer in experts_interface.moe_layers(model) for p in layer.experts.parameters()
    }
    held = {id(t): t.nbytes for t in (*model.parameters(), *model.buffers())}
    return sum(size for key, size in held.items() if key not in experts)


def bytes_read(model: PreTrainedModel, layers: int, skeleton: int) -> dict[str, int]:
    """Bytes besides experts that every token reads: `layer_bytes` and `pass_bytes` of a profile.

    An embedding that is not the head is looked up and not read; what is outside of the `layers` MoE
    layers but the head counts as theirs.
    """
    head, embedding = (
        getattr(module, "weight", None)
        for module in (model.get_output_embeddings(), model.get_input_embeddings())
    )
    pass_bytes = 0 if head is None else head.nbytes
    looked_up = 0 if embedding is None or embedding is head else embedding.nbytes
    layer_bytes = max(0, skeleton - pass_bytes - looked_up) // layers
    return {"layer_bytes": layer_bytes, "pass_bytes": pass_bytes}


def kv_bytes_per_token(config: Any, itemsize: int) -> int:
    """Bytes that one token adds to the KV cache.

    An upper bound for layers with sliding attention, whose windows are ignored.
    """
    settings = config.to_dict()
    heads = config.num_attention_heads
    if settings.get("kv_lora_rank"):  # latent attention stores the latent and one rotary key
        width = settings["kv_lora_rank"] + settings["qk_rope_head_dim"]
    else:
        head = settings.get("head_dim") or settings["hidden_size"] // heads
        width = 2 * (settings.get("num_key_value_heads") or heads) * head
    return config.num_hidden_layers * width * itemsize


def _kind(device: str) -> str:
    """The type of a device, which need not exist on this machine."""
    try:
        return torch.device(device).type
    except RuntimeError as error:
        raise ValueError(
            f"model.device={device}: expected a device name of torch, e.g. cpu, cuda or "
            "cuda:1; try model.device=cpu"
        ) from error


def fits(size: int, device: str) -> bool:
    """Whether twice `size` bytes are free on the device."""
    if torch.device(device).type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 2 * size < free
