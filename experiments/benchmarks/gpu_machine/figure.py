"""The part `figure` of run.py: speed against memory on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from argparse import Namespace


def figure(options: Namespace) -> list[dict[str, Any]]:
    """Speed against memory, measured and at the link's ceiling, from the parts before."""
    try:
        import matplotlib as mpl
    except ModuleNotFoundError:
        return [{"what": "figure", "skipped": "no matplotlib here"}]
    mpl.use("Agg")
    from matplotlib import pyplot

    from experiments.harness import read_rows

    written, made = read_rows(options.out / "rows.jsonl"), []
    for part in ("decode", "decode4"):
        rows = [row for row in written if row["what"] == part and row["usual"]]
        rows = sorted((row for row in rows if "refused" not in row), key=lambda row: row["slots"])
        if not rows:
            continue
        axes = pyplot.figure(figsize=(6, 4), layout="constrained").gca()
        for name in dict.fromkeys((row["policy"], row["prefetch"]) for row in rows):
            those = [row for row in rows if (row["policy"], row["prefetch"]) == name]
            memory = [row["planned_device_bytes"] / 1e9 for row in those]
            (line,) = axes.plot(
                memory, [r["tokens_per_second"] for r in those], "o-", label=", ".join(name)
            )
            best = [row["link_ceiling_tokens_per_second"] or float("nan") for row in those]
            axes.plot(memory, best, ":", color=line.get_color())
        first = rows[0]
        axes.set(xlabel="planned memory on the device, GB", ylabel="tokens a second", yscale="log")
        about = f"{first['layers']} layers, {first['bits_per_weight']:.2f} bits, random weights"
        about += ", tiny: means nothing" if first["tiny"] else ", replayed routing"
        axes.set_title(f"{about}; dotted: the link's ceiling", fontsize=9)
        axes.legend(fontsize=8)
        axes.figure.savefig(options.out / f"{part}.png", dpi=150)
        made.append(f"{part}.png")
    return [{"what": "figure", "files": made}]
