"""What the scripts of the four rooms share: arguments, rows with provenance, turns, tables.

A script says what it takes, and every script takes `--tiny`:

    given = arguments(
        __doc__,
        "decode", "resident",            # its parts, if it has any: given.part
        tiny={"pairs": 2},               # what --tiny sets
        pairs=9,                         # --pairs, 9 unless typed; its type is that of the default
        text=Path,                       # a type: --text must be typed
        loads=[0.5, 1],                  # a list: several values
        cache=("lru", "policy", CACHES), # default, help, and choices or type
        hqq=(False, "HQQ in full"),      # a switch
        _traces=[],                      # an underscore: by position
    )
"""

from __future__ import annotations

import json
import os
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from moex.hardware.profile import HardwareProfile

ROOT = Path(__file__).parents[1]
COMMON: dict[str, tuple[str, type]] = {
    "folder": ("where large files are written", Path),
    "new_tokens": ("decoded of each prompt", int),
    "out": ("append the rows to this file", Path),
    "pairs": ("turns that are measured", int),
    "repeats": ("turns that are measured", int),
    "text": ("held-out text: tokens (FILE.bin) or a folder", str),
    "threads": ("that compute", int),
    "tokens": ("decoded of each prompt", int),
}
"""Help and type of arguments that several scripts take."""


def arguments(
    doc: str | None, /, *parts: str, tiny: Mapping[str, Any] | None = None, **options: Any
) -> Namespace:
    """Read the command line: what is typed, else the default, else what `--tiny` sets.

    Args:
        doc: the script's docstring.
        parts: names of which the first word is one.
        tiny: values that `--tiny` puts in the place of others.
        options: what the script takes, as described above.
    """
    parser = ArgumentParser(description=doc, formatter_class=RawDescriptionHelpFormatter)
    if parts:
        parser.add_argument("part", choices=parts)
    for name, option in options.items():
        _add(parser, name, option)
    parser.add_argument(
        "--tiny", "--smoke", action="store_true", help="the least that shows it works"
    )
    given = parser.parse_args()
    if given.tiny:
        vars(given).update(tiny or {})
    return given


def _add(parser: ArgumentParser, name: str, option: Any) -> None:
    usual, *more = option if isinstance(option, tuple) else (option,)
    about, kind = COMMON.get(name, ("", str))
    settings: dict[str, Any] = {"help": more[0] if more else about}
    flag = name[1:] if name.startswith("_") else f"--{name.replace('_', '-')}"
    if usual is False:
        parser.add_argument(flag, action="store_true", **settings)
        return
    if isinstance(usual, type):
        kind, settings["required"] = usual, True
    else:
        kinds = [type(one) for one in (usual if isinstance(usual, list) else [usual])]
        kind = kind if usual in (None, []) else float if float in kinds else kinds[0]
        settings["default"] = usual
    if isinstance(usual, list):
        settings["nargs"] = "+" if flag.startswith("--") else "*"
    if len(more) > 1:
        if isinstance(more[1], type):
            kind = more[1]
        else:
            settings["choices"] = list(more[1])
    if not flag.startswith("--"):
        settings.pop("required", None)
        if "nargs" not in settings and "default" in settings:
            settings["nargs"] = "?"
    parser.add_argument(flag, type=kind, **settings)


def append(row: Mapping[str, Any], out: Path) -> str:
    """Append a row with its provenance to a file, as one line of JSON; return the line."""
    from moex.runs.provenance import provenance

    line = json.dumps({**row, **provenance()})
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a") as file:
        file.write(line + "\n")
    return line


def emit(row: Mapping[str, Any], out: Path | None = None) -> None:
    """Print a row with its provenance as a line of JSON; append it to a file if there is one."""
    print(append(row, out or Path(os.devnull)), flush=True)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that `emit` wrote; none if it is not there."""
    return [json.loads(x) for x in path.read_text().splitlines()] if path.is_file() else []


def in_turns(pairs: int, ways: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Measure every way so many times, in turns, after one turn of warmth; by name."""
    from analysis import paired

    return dict(zip(ways, paired.in_turns(pairs, *ways.values()), strict=True))


def machine(name: str) -> HardwareProfile:
    """The profile that `hardware=NAME` builds, without Hydra."""
    import yaml

    from moex.hardware.profile import HardwareProfile

    fields = yaml.safe_load((ROOT / "conf" / "hardware" / f"{name}.yaml").read_text())
    return HardwareProfile(**{key: value for key, value in fields.items() if key != "_target_"})


def table(head: Iterable[Any], rows: Iterable[Iterable[Any]]) -> None:
    """Print a Markdown table; numbers with a fraction to three digits, `-` for None."""
    head = list(map(str, head))
    print("", f"| {' | '.join(head)} |", "|---" * len(head) + "|", sep="\n")
    for row in rows:
        print(f"| {' | '.join(map(_cell, row))} |", flush=True)


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as a Markdown table of all their fields."""
    head = list(dict.fromkeys(name for row in rows for name in row))
    table(head, ([row.get(name) for name in head] for row in rows))


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return "-" if value is None else str(value)
