"""Imports a trace of another tool: python -m moex.trace FILE --model qwen3_30b_a3b --bits 4.5.

FILE is a file or folder that one of `moex/trace/importers/` reads, or a `.npy` array of expert ids
[tokens, layers, k]. Writes FILE.trace.parquet, and prints what to do with it.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path

from moex.runs.notes import note
from moex.trace.format import write_trace
from moex.trace.importers.import_trace import IMPORTERS, import_trace


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, import and write the trace."""
    parser = ArgumentParser("python -m moex.trace", description="Import a trace of another tool.")
    parser.add_argument("file", type=Path, help="file or folder of another tool, or a .npy of ids")
    parser.add_argument(
        "--model", help="a file's name in conf/model/, or a folder with config.json"
    )
    parser.add_argument("--bits", type=float, help="of a weight; default the checkpoint's")
    parser.add_argument("--importer", choices=IMPORTERS, help="default: by the file's name")
    parser.add_argument("--top-k", type=int, help="of llama.cpp's layer,expert rows")
    parser.add_argument("--corpus", type=Path, help="of moe-speed-of-light: its tokenized corpus")
    parser.add_argument("--out", type=Path, help="default FILE.trace.parquet")
    given = parser.parse_args(arguments)
    options = {"top_k": given.top_k, "corpus": given.corpus}
    options = {name: value for name, value in options.items() if value is not None}
    trace = import_trace(
        given.file, given.model, bits=given.bits, importer=given.importer, **options
    )
    if given.model is None:
        note("no --model: an expert counts as one byte; name the model for bytes and speeds")
    out = given.out or given.file.with_name(f"{given.file.stem}.trace.parquet")
    write_trace(trace, out)
    shape = trace.geometry
    decoded = int((~trace.prefill).sum()) // shape.layers
    print(
        f"{out}: {len(trace)} visits of {shape.layers} MoE layers x {shape.experts} experts, "
        f"top-{shape.top_k}; {decoded} decoding passes; an expert has {shape.expert_bytes:,} bytes"
    )
    slots = max(shape.top_k, shape.experts // 4)
    print(f"curves:   python run.py mode=curves cache=lru trace={out}")
    print(
        f"forecast: python run.py mode=simulate trace={out} memory.slots={slots} hardware=rtx3060"
    )


if __name__ == "__main__":
    try:
        main()
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"moex: {error}")
