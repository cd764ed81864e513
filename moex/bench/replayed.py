"""A recorded trace under another memory or other bits than it was recorded with."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from moex.cache.memory import Memory, Needs
from moex.quant.base import quantizes

if TYPE_CHECKING:
    from moex.quant.base import Scheme, Spec
    from moex.runs.report import Report
    from moex.trace.format import Trace
    from moex.trace.stream import TraceStream

UNQUANTIZED = {"name": "none"}


def settings_of(part: Any) -> Any:
    """Return a quantizer's settings as a configuration has them, and as traces record them."""
    if part is None:
        return UNQUANTIZED
    if not is_dataclass(part):
        return part
    kind = type(part)
    given = {each.name: getattr(part, each.name) for each in fields(part) if each.init}
    inner = {name: settings_of(x) if is_dataclass(x) else x for name, x in given.items()}
    return {"_target_": f"{kind.__module__}.{kind.__qualname__}", **inner}


def within_budget(
    memory: Memory, trace: Trace | TraceStream, quant: dict[str, Any], timed: bool
) -> Memory:
    """Return the memory with the slots that a live run has within its budget.

    A live run records the bytes beside experts. A timed profile stands for a device of its own,
    where interpreter and libraries take none, as in a live run that names it.

    Args:
        memory: with slots it is returned as it is.
        trace: of the run, packed as `quant` says.
        quant: settings of the quantization.
        timed: whether a hardware profile with a link is named.

    Raises:
        ValueError: a budget, and a trace that does not record these bytes, or has other bits.
    """
    needs = trace.provenance.get("needs")
    if memory.budget is None:
        return memory
    changed = trace.provenance.get("quant", quant) != quant
    if needs is None or changed:
        lacks = "was recorded with another quant" if needs else "does not record them"
        shape = trace.geometry
        raise ValueError(
            f"memory.budget={memory.budget}: a budget also holds the bytes beside experts, and "
            f"this trace {lacks}; expected memory.slots; try memory.budget=null "
            f"memory.slots={min(shape.experts, 2 * shape.top_k)}"
        )
    wanted = Needs(**needs)
    if timed:
        wanted = replace(wanted, process=0)
    return replace(memory, slots=memory.resolve(trace.geometry, wanted), budget=None)


def describe_quant(
    report: Report,
    trace: Trace | TraceStream,
    quant: Scheme,
    settings: dict[str, Any],
    timed: bool,
) -> None:
    """Say in a row what was quantized."""
    shape, changed = trace.geometry, quantizes(quant)
    report.lossy += ["quant"] * changed
    report.bits_per_weight = 8 * shape.expert_bytes / (3 * shape.hidden * shape.intermediate)
    report.replayed_routing = changed and trace.provenance.get("quant") != settings
    report.kernel = "not modelled" if timed else None


def packed(
    trace: Trace | TraceStream,
    quant: Scheme | None,
    settings: dict[str, Any],
    device: str,
    by_neuron: bool = False,
) -> Trace | TraceStream:
    """Return the trace with experts of as many bytes as a quantization packs them into.

    Args:
        trace: of a model as it is, or of one quantized in the same way.
        quant: the quantization.
        settings: its settings, as `settings_of` gives them.
        device: that computes with them.
        by_neuron: whether neurons are packed one by one.

    Raises:
        ValueError: recorded with another quantization, or experts whose shapes are not known.
    """
    recorded, asked = trace.provenance.get("quant", UNQUANTIZED), settings
    if recorded == asked or {"_target_"}.isdisjoint({*recorded, *asked}):
        return trace
    if "_target_" in recorded:
        raise ValueError(
            f"quant: the trace was recorded with {recorded}, asked for is {asked}; expected the "
            "same, or a trace of the model as it is, recorded with quant=none"
        )
    import torch

    from moex.quant.packing import ExpertPacking
    from moex.store.bundles import NeuronPacking
    from moex.store.layout import Planes

    shape = trace.geometry
    hidden, neurons = shape.hidden, shape.intermediate
    dtypes = {2: torch.bfloat16, 4: torch.float32}
    dtype = dtypes.get(shape.expert_bytes // max(1, 3 * hidden * neurons))
    tensors: dict[str, tuple[int, ...]]
    tensors = {"gate_up_proj": (2 * neurons, hidden), "down_proj": (hidden, neurons)}
    spec: Spec = {name: (sizes, dtype or torch.bfloat16) for name, sizes in tensors.items()}
    if dtype is None or Planes(spec).bytes != shape.expert_bytes:
        raise ValueError(
            f"quant with this trace: its experts have {shape.expert_bytes} bytes, which are not "
            f"gate, up and down of {neurons} x {hidden} in 16 or 32 bits; expected quant=none, "
            "or a trace recorded with that quantization"
        )
    assert quant is not None
    quant.bind(device, dtype)
    packing = ExpertPacking(spec, quant, transposed=False)
    layout: Any = Planes(packing.tensors, refining=packing.refining)
    if by_neuron:
        layout = NeuronPacking(spec, quant).layout
    about = {**trace.provenance, "slices": [*layout.slices]}
    return replace(trace, geometry=shape._replace(expert_bytes=layout.bytes), provenance=about)
