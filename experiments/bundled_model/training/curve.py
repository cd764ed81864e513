"""Draw the training curve from the run's log.

python experiments/bundled_model/training/curve.py --log RUN_DIR/log.jsonl --out curve.png
"""

import json
from pathlib import Path

import matplotlib

from experiments.harness import arguments

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main() -> None:
    """Write one picture: bits per byte, and the load of the least used expert."""
    args = arguments(__doc__, log=Path, out=Path)
    lines = {line["step"]: line for line in map(json.loads, args.log.read_text().splitlines())}
    rows = [lines[step] for step in sorted(lines)]
    tokens = [row["tokens"] / 1e6 for row in rows]
    figure, (top, bottom) = plt.subplots(
        2, 1, sharex=True, figsize=(6, 4.5), height_ratios=(2, 1), layout="constrained"
    )
    top.plot(
        tokens,
        [row["train_bits_per_byte"] for row in rows],
        color="#999999",
        label="training batch",
    )
    held = [
        (row["tokens"] / 1e6, row["valid_bits_per_byte"]) for row in rows if "valid_nats" in row
    ]
    top.plot(*zip(*held, strict=True), "o-", color="#0072B2", label="held-out documents")
    top.set(ylabel="bits per byte", ylim=(1.4, 3.2))
    top.legend(frameon=False)
    bottom.plot(
        tokens, [100 * row["load_min"] for row in rows], color="#0072B2", label="least used"
    )
    bottom.plot(tokens, [100 * row["load_max"] for row in rows], color="#E69F00", label="most used")
    bottom.set(xlabel="tokens seen, millions", ylabel="load of an expert, %", ylim=(0, 45))
    bottom.legend(frameon=False)
    figure.savefig(args.out, dpi=150)


if __name__ == "__main__":
    main()
