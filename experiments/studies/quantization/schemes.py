"""The quantizations that the studies compare; groups as Eliseev & Mazur 2023 had them."""

from moex.quant.base import Scheme
from moex.quant.hqq import HQQ
from moex.quant.mixed import Mixed
from moex.quant.rtn import RTN

GROUPS = {8: 64, 4: 64, 3: 64, 2: 16}
BITS = (16, 4, 3, 2)


def hqq(bits: int) -> HQQ | None:
    """HQQ with so many bits, None for 16."""
    return None if bits == 16 else HQQ(bits, GROUPS[bits])


def table() -> dict[str, Scheme | None]:
    """Attention bits x expert bits."""
    return {
        f"attention {a}, experts {e}": Mixed(hqq(e), hqq(e), hqq(a)) if min(a, e) < 16 else None
        for a in BITS
        for e in BITS
    }


def solvers() -> dict[str, Scheme | None]:
    """HQQ and round to nearest at the same bits, experts and attention."""
    made = {"hqq": HQQ, "rtn": RTN}
    return {
        f"{name} {bits} g{group}": kind(bits, group)
        for bits, group in GROUPS.items()
        for name, kind in made.items()
    }


STUDIES = {"table": table, "solvers": solvers}
