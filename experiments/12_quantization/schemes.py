"""The quantizations that the studies compare; groups as Eliseev & Mazur 2023 had them."""

from moex.quant.base import Scheme
from moex.quant.hqq import HQQ
from moex.quant.mixed import Mixed
from moex.quant.rtn import RTN

GROUPS = {16: None, 8: 64, 4: 64, 3: 64, 2: 16}
BITS = (16, 4, 3, 2)


def hqq(bits: int, group: int | None = None) -> HQQ | None:
    """HQQ with so many bits, None for 16."""
    return None if bits == 16 else HQQ(bits, group or GROUPS[bits])


def table() -> dict[str, Scheme | None]:
    """Attention bits x expert bits."""
    return {f"attention {a}, experts {e}": mixed(e, e, a) for a in BITS for e in BITS}


def mixed(gate_up: int, down: int, attention: int) -> Scheme | None:
    """HQQ with bits for each kind of weight."""
    if gate_up == down == attention == 16:
        return None
    return Mixed(hqq(gate_up), hqq(down), hqq(attention))


def sensitivity() -> dict[str, Scheme | None]:
    """One kind of weight at a time."""
    found = {}
    for bits in (4, 3, 2):
        found[f"only gate and up {bits}"] = mixed(bits, 16, 16)
        found[f"only down {bits}"] = mixed(16, bits, 16)
        found[f"only attention {bits}"] = mixed(16, 16, bits)
    return found


def solvers() -> dict[str, Scheme | None]:
    """HQQ and round to nearest at the same bits, experts and attention."""
    pairs = ((8, 64), (4, 64), (3, 64), (2, 16))
    made = {"hqq": HQQ, "rtn": RTN}
    return {
        f"{name} {bits} g{group}": kind(bits, group)
        for bits, group in pairs
        for name, kind in made.items()
    }


def groups() -> dict[str, Scheme | None]:
    """Group sizes, experts only."""
    found = {}
    for bits in (3, 2):
        for size in (16, 32, 64, 128):
            quantizer = HQQ(bits, size)
            found[f"experts {bits} g{size}"] = Mixed(quantizer, quantizer)
    return found


def bits_of(scheme: Scheme | None) -> dict[str, int]:
    """Bits of `gate_up`, `down` and `attention`, 16 if left alone, and `group` of the experts."""
    names = {"gate_up": "experts.gate_up_proj", "down": "experts.down_proj", "attention": "q_proj"}
    found = {kind: scheme.of(name) if scheme else None for kind, name in names.items()}
    group = {"group": found["down"].group_size if found["down"] else 0}
    return {kind: each.bits if each else 16 for kind, each in found.items()} | group


STUDIES = {"table": table, "sensitivity": sensitivity, "solvers": solvers, "groups": groups}
