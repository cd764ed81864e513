"""A machine's costs on the model of a trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moex.hardware.profile import HardwareProfile
    from moex.trace.format import Trace
    from moex.trace.stream import TraceStream


def scaled(hardware: HardwareProfile, trace: Trace | TraceStream) -> HardwareProfile:
    """Return the profile with its costs scaled to the trace's model (`HardwareProfile.on`).

    A live run's trace records the bytes of a layer's other weights and of the head.

    Raises:
        ValueError: a profile or a trace that does not say what scaling needs.
    """
    return hardware.on(trace.geometry, **recorded_bytes(trace))


def recorded_bytes(trace: Trace | TraceStream) -> dict[str, Any]:
    """Return what the trace records of `layer_bytes` and `pass_bytes`."""
    names = ("layer_bytes", "pass_bytes")
    return {name: trace.provenance[name] for name in names if name in trace.provenance}


def costs_line(hardware: HardwareProfile, trace: Trace | TraceStream) -> str | None:
    """Return how a profile's costs were made the trace's; None where they are its own."""
    here = scaled(hardware, trace)
    if here is hardware:
        return None
    line = (
        f"scaled from {hardware.fitted_on or 'another model'}, experts of "
        f"{hardware.expert_bytes} bytes, to {here.expert_bytes} bytes"
    )
    if "layer_bytes" not in trace.provenance:
        line += (
            f"; a layer's other weights estimated at {here.layer_bytes} bytes, 2.5 x hidden^2 in "
            "16 bits: this trace does not record them"
        )
    return line
