"""Record the routing of the bundled model on text: the trace that `prefetch=history` is trained on.

A window is read in one pass; the trace counts each of its tokens as decoded, as a sequence.

    python experiments/bundled_model/predictors/routing.py --text FILE_OR_FOLDER --out FILE.parquet
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from experiments.harness import arguments
from moex.models.loader import load_model
from moex.trace.format import write_trace
from moex.trace.importers.build import build
from moex.train.data import LEAST_TOKENS, corpus
from moex.train.fit import reading


def main() -> None:
    """Read the text and write the trace."""
    args = arguments(
        __doc__,
        tiny={"tokens": 1024},
        text=str,
        out=Path,
        tokens=(100_000, "to read"),
        context=(512, "tokens of a window"),
    )
    torch.set_num_threads(1)
    loaded = load_model("tiny")
    with tempfile.TemporaryDirectory() as work:
        most = max(4 * args.tokens, 10 * LEAST_TOKENS)
        text = corpus(args.text, loaded.tokenizer(), Path(work), args.context, most, 0)
        windows = -(-args.tokens // args.context)
        with reading(loaded) as see:
            seen = [see(torch.from_numpy(text.batch(number, 1))) for number in range(windows)]
    ids = np.stack([np.stack([each.chosen for each in window], 1) for window in seen])
    count = windows * args.context
    trace = build(
        ids.reshape(count, loaded.geometry.layers, -1),
        sequence=np.repeat(np.arange(windows), args.context),
        position=np.tile(np.arange(args.context), windows),
        prefill=np.zeros(count, np.bool_),
        geometry=loaded.geometry,
        provenance={"model": "tiny", "workload": text.source},
    )
    write_trace(trace, args.out)
    print(f"{args.out}: {args.out.stat().st_size} bytes, {count} passes")


if __name__ == "__main__":
    main()
