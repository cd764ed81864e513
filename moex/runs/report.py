"""The result row of a run: flat, with the same fields live or simulated."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moex.runs import sections
from moex.runs.atomic import write_atomically
from moex.runs.sections import SCHEMA as SCHEMA


@dataclass
class Report(  # fields come in the opposite order of the bases
    sections.Provenance,
    sections.Findings,
    sections.Equality,
    sections.Prefill,
    sections.Peaks,
    sections.Transfers,
    sections.Bytes,
    sections.Prefetches,
    sections.Accesses,
    sections.Speed,
    sections.Identity,
):
    """One row of results; None where the run does not measure the value."""

    def fill(self, *filled: object, **fields: Any) -> None:
        """Take over all fields of sections, and single fields.

        Raises:
            AttributeError: a field that no row has.
        """
        for section in filled:
            fields = vars(section) | fields
        for name, value in fields.items():
            if name not in vars(self):
                raise AttributeError(f"row: no field {name}; expected one of moex.runs.sections")
            setattr(self, name, value)

    def json(self) -> str:
        """Return the row as one line of JSON.

        Raises:
            ValueError: a field holds nan or an infinity, which JSON cannot express.
        """
        row = asdict(self)
        for name, value in row.items():
            try:
                json.dumps(value, allow_nan=False)
            except ValueError as error:
                raise ValueError(
                    f"row: {name}={value}; expected finite numbers: a part of this run computed "
                    "none; MOEX_TRACEBACK=1 shows where the row was written"
                ) from error
        return json.dumps(row)

    def write(self, folder: str | Path) -> Path:
        """Write `result.json` atomically: it exists only if the run has finished."""
        path = Path(folder) / "result.json"
        write_atomically(path, self.json() + "\n")
        return path
