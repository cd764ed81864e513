"""Speed and memory of quantized experts. Run each part on an idle machine.

    python experiments/studies/quantization/bench.py decode    link-bound decoding, 4 bits, 16
    python experiments/studies/quantization/bench.py resident  an expert of Mixtral's
    python experiments/studies/quantization/bench.py packing   weights a second of the solvers
    python experiments/studies/quantization/bench.py memory    peak and rate of a whole packing
Each with [--threads 2] and, for a smoke run, [--tiny]. The last two leave HQQ, which takes a
hundred times as long as rounding, one small matrix and nothing, unless it is asked for: [--hqq].
"""

import json
import subprocess
import sys
import tempfile
from argparse import Namespace
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch.nn.functional import linear, silu

from analysis.paired import paired_ratio
from experiments.harness import arguments, in_turns
from moex.bench.workload import generate
from moex.cache.lru import LRU
from moex.cache.memory import Memory
from moex.hardware.profile import HardwareProfile
from moex.quant.hqq import HQQ
from moex.quant.rtn import RTN
from moex.runner.assemble import Setup, load_model, offload

LINK = HardwareProfile("slow link", link_bytes_per_s=1e8, link_latency_s=10e-6)
"""Emulated: real bytes move, and arrive when a link of 100 MB/s would have brought them."""


def decode(args: Namespace) -> None:
    """Tokens a second of both at equal capacity in bytes, in interleaved pairs."""
    pairs, tokens = (2, 4) if args.tiny else (args.pairs, args.tokens)
    plain, packed = load_model("tiny"), load_model("tiny", quant=RTN(4, 64))
    slots, staging = 2, 4
    budget = (slots * plain.geometry.layers + staging) * plain.geometry.expert_bytes
    room = budget // packed.geometry.expert_bytes - staging
    memories = {
        "16 bits": (plain, Memory(slots, staging=staging)),
        "4 bits": (packed, Memory(min(8, room // packed.geometry.layers), staging=staging)),
        "4 bits, as many slots": (packed, Memory(slots, staging=staging)),
    }
    prompt = [torch.arange(16, 48)[None]]
    speeds: dict[str, list[float]] = {name: [] for name in memories}
    moved: dict[str, int] = {}
    for turn in range(-1, pairs):
        for name, (loaded, memory) in memories.items():
            offloaded = offload(loaded, Setup(LRU(), memory, hardware=LINK))
            with offloaded as model:
                generate(model, prompt, tokens, offloaded.meter)
            decoded = offloaded.meter.phases["decode"]
            moved[name] = decoded.bytes_moved
            if turn >= 0:
                speeds[name].append(decoded.tokens / decoded.seconds)
    print(
        f"decoding {tokens - 1} tokens, emulated link of {LINK.link_bytes_per_s:.0e} bytes/s, LRU"
    )
    print(f"equal capacity: {budget / 1e6:.2f} MB for experts")
    for name, (_, memory) in memories.items():
        print(
            f"{name}: {memory.slots} slots a layer, {median(speeds[name]):.1f} tokens/s, "
            f"{moved[name] / 1e6:.1f} MB moved"
        )
        if name != "16 bits":
            print(f"  against 16 bits: {paired_ratio(speeds[name], speeds['16 bits'])}")


def resident(args: Namespace) -> None:
    """Seconds of one expert, 4 bits against bfloat16, in interleaved pairs."""
    hidden, inner = (256, 384) if args.tiny else (4096, 14336)
    rounds, batches = (
        (2, (1, 64)) if args.tiny else (args.pairs, (1, 2, 4, 8, 16, 32, 64, 128, 256))
    )
    shapes = ((2 * inner, hidden), (hidden, inner))
    quantizer = RTN(4, 64)
    copies = 1 if args.tiny else 2  # in turns, so that no cache holds the weights
    plain = [[torch.randn(shape).bfloat16() / 50 for shape in shapes] for _ in range(copies)]
    packed = [[quantizer.pack(weight) for weight in weights] for weights in plain]
    kernel = quantizer.kernel_name(shapes[0])
    print(f"one expert {hidden}x{inner}, kernel {kernel}, {torch.get_num_threads()} threads")

    def through(x: torch.Tensor, product, weights) -> torch.Tensor:
        gate, up = product(x, weights[0]).chunk(2, -1)
        return product(silu(gate) * up, weights[1])

    for batch in batches:
        x = torch.randn(batch, hidden).bfloat16()
        count = max(1, 16 // batch)

        def seconds(product, weights, x=x, count=count) -> float:
            started = perf_counter()
            for number in range(count):
                through(x, product, weights[number % copies])
            return (perf_counter() - started) / count

        ways = {
            "bf16": partial(seconds, linear, plain),
            "4 bits": partial(seconds, quantizer.matmul, packed),
        }
        times = in_turns(rounds, ways)
        ratio = paired_ratio(times["bf16"], times["4 bits"])
        print(
            f"batch {batch:3d}: bf16 {1e3 * median(times['bf16']):8.2f} ms, "
            f"4 bits {1e3 * median(times['4 bits']):8.2f} ms, speed {ratio}"
        )


def packing(args: Namespace) -> None:
    """Weights a second of both solvers, one weight of an expert of Mixtral's."""
    shape = (512, 512) if args.tiny else (14336, 4096)
    weight = torch.randn(shape).bfloat16() / 50
    for kind in (RTN, HQQ):
        whole = kind is RTN or args.hqq
        part = weight if whole else weight[: shape[0] // 16]
        for bits, group in ((8, 64), (4, 64), (3, 64), (2, 16)):
            quantizer = kind(bits, group)
            quantizer.pack(weight[:64])
            rates = []
            for _ in range(1 if kind is HQQ or args.tiny else args.pairs):
                started = perf_counter()
                quantizer.pack(part)
                rates.append(part.numel() / (perf_counter() - started) / 1e6)
            rates.sort()
            print(
                f"{kind.__name__} {bits} bits g{group}, {'x'.join(map(str, part.shape))}: "
                f"{median(rates):.1f} M weights/s [{rates[0]:.1f}, {rates[-1]:.1f}]"
            )


def memory(args: Namespace) -> None:
    """Peak memory of packing a checkpoint of two layers, in processes of their own; its rate."""
    with tempfile.TemporaryDirectory(dir=args.folder or None) as folder:
        _apart("model", folder, args)
        bare = median(_apart("baseline", folder, args)["peak"] for _ in range(args.runs))
        for form in ("none", "RTN", *["HQQ"] * args.hqq):
            found = [_apart(form, folder, args) for _ in range(args.runs)]
            peaks, layer = [(run["peak"] - bare) / 1e6 for run in found], found[0]["layer"] / 1e6
            print(
                f"{form}: peak {median(peaks):.0f} MB [{min(peaks):.0f}, {max(peaks):.0f}] over "
                f"baseline (skeleton read, nothing packed), {median(peaks) / layer:.2f} layers of "
                f"{layer:.0f} MB; {median(run['rate'] for run in found) / 1e6:.1f} M weights/s, "
                "from checkpoint to checked files"
            )


def _apart(form: str, folder: str, args: Namespace) -> dict:
    """The result of `peak` in a process of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        command = [sys.executable, __file__, "peak", "--form", form, "--folder", folder]
        command += ["--cache", cache, "--threads", str(args.threads), *["--tiny"] * args.tiny]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout.splitlines()[-1])


def peak(args: Namespace) -> None:
    """Write a random model; or read its skeleton; or pack it: peak memory of the process."""
    from transformers import AutoModelForCausalLM, MixtralConfig

    from moex.hardware.process_memory import peak_host_bytes
    from moex.models import checkpoint

    folder = Path(args.folder) / "model"
    if args.form == "model":
        sizes = (256, 384) if args.tiny else (2048, 7168)
        config = MixtralConfig(
            vocab_size=512, hidden_size=sizes[0], intermediate_size=sizes[1], num_hidden_layers=2,
            num_local_experts=8, num_attention_heads=16, num_key_value_heads=4, dtype="bfloat16",
        )  # fmt: skip
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
        print("{}")
        return
    model = checkpoint.build(folder)
    layer = 8 * 3 * model.config.hidden_size * model.config.intermediate_size * 2
    started = perf_counter()
    if args.form == "baseline":
        checkpoint.fill(model, folder, None)
    else:
        quantizer = {"none": None, "RTN": RTN(4, 64), "HQQ": HQQ(4, 64)}[args.form]
        loaded = load_model(str(folder), store="disk", cache_dir=args.cache, quant=quantizer)
        loaded.store.close()
    rate = layer / (perf_counter() - started)  # two layers, two bytes a weight
    print(json.dumps({"peak": peak_host_bytes(), "layer": layer, "rate": rate}))


def main() -> None:
    """Run one part."""
    loaded = {"decode": decode, "resident": resident, "packing": packing, "memory": memory}
    loaded["peak"] = peak
    args = arguments(
        __doc__,
        *loaded,
        pairs=9,
        tokens=64,
        threads=torch.get_num_threads(),
        runs=(3, "of memory"),
        hqq=(False, "of packing and memory: HQQ in full"),
        folder=("", "of memory: with room for 3 GB"),
        form=("none", "of peak: model, baseline, none, RTN, HQQ"),
        cache=("", "of peak"),
    )
    args.runs = 1 if args.tiny else args.runs
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    with torch.no_grad():
        loaded[args.part](args)


if __name__ == "__main__":
    main()
