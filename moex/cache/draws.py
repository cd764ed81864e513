"""Random numbers that are a function of what they are drawn for, and of nothing drawn before.

A policy that draws so decides the same in every execution of it, in any order.
"""


def draw(key: int) -> int:
    """Return 32 random bits of a whole number (the integer hash of Thomas Mueller).

    Products stay below 2^63, so that the same is computed in 64 bits where it is compiled.
    """
    key &= 0xFFFFFFFF
    key = ((key ^ (key >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
    key = ((key ^ (key >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
    return key ^ (key >> 16)
