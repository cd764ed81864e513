"""The workload through llama.cpp, from the same GGUF file: a strong engine beside moex's own.

It runs inside this process, by the package xllamacpp. Prompts are the token ids that moex gives its
own model; llama.cpp's own clock tells prompt from generation. The end-of-text token, which would
stop it, is never chosen.
"""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from moex.bench.rounds import Round, result_of
from moex.models import checkpoint
from moex.models.gguf.header import files_of
from moex.runner.meter import reference_s
from moex.runs.measured import Clocked
from moex.runs.report import Report
from moex.types import DECODE, PREFILL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.bench.rounds import OnStop, Result
    from moex.bench.workload import Workload

STEP = 256
"""Contexts are multiples of so many tokens."""
EXPERTS = r"\.ffn_(up|down|gate)_exps=CPU"
"""What `--cpu-moe` stands for: these tensors stay in host memory."""


def run_llama_cpp(
    name: str,
    workload: Workload,
    threads: int,
    mmap: bool = True,
    repack: bool = True,
    gpu_layers: int = 0,
    cpu_moe: bool = True,
    seed: int = 0,
    on_stop: OnStop | None = None,
) -> Result:
    """Run a workload; return the row that moex's own runs have.

    Args:
        name: a GGUF file.
        workload: greedy, and one prompt after the other.
        threads: computing threads.
        mmap: map the file, and let the page cache hold what it can; False: read all of it.
        repack: let llama.cpp lay weights out anew for its fastest kernels; costs a copy.
        gpu_layers: layers on a GPU.
        cpu_moe: whether these layers' experts stay in host memory.
        seed: the run's, for the row.
        on_stop: called with the measured rounds when the run is interrupted or fails.

    Raises:
        ValueError: no GGUF file, a workload that llama.cpp does not run alike, or xllamacpp is not
            installed.
    """
    _refuse(name, workload)
    engine = _engine()
    folder = checkpoint.find(name)
    tokenizer = checkpoint.load_tokenizer(folder, checkpoint.build(folder))
    prompts = [batch[0].tolist() for batch in workload.batches(tokenizer, "cpu")]
    params = engine.CommonParams()
    params.model.path = str(files_of(Path(name))[0])
    longest = max(map(len, prompts)) + workload.new_tokens
    params.n_ctx = -(-longest // STEP) * STEP
    params.n_parallel, params.n_gpu_layers = 1, gpu_layers
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    modes = engine.llama_load_mode
    params.load_mode = modes.LLAMA_LOAD_MODE_MMAP if mmap else modes.LLAMA_LOAD_MODE_NONE
    params.no_extra_bufts, params.fit_params, params.verbosity = not repack, False, 0
    if gpu_layers and cpu_moe:
        params.tensor_buft_overrides = EXPERTS
    try:
        server = engine.Server(params)
    except RuntimeError as error:
        raise ValueError(
            f"runner=llama_cpp: llama.cpp does not load {params.model.path} ({error}; its own "
            "lines are above); expected a model that it knows; try runner=moex"
        ) from error
    rounds = _rounds(server, prompts, workload, on_stop)
    report = Report(source="live", mode="live", runner="llama_cpp")
    weights = "" if repack else ", not repacked"
    report.kernel = f"llama.cpp (xllamacpp {version('xllamacpp')}{weights})"
    report.store = "mmap" if mmap else "ram"
    report.files_warm = True if mmap else None
    return result_of(report, rounds, seed)


def _refuse(name: str, workload: Workload) -> None:
    if not name.endswith(".gguf"):
        raise ValueError(
            f"runner=llama_cpp: model.name={name} is no GGUF file; expected one; "
            "try runner=llama_cpp model=FILE.gguf, or runner=moex"
        )
    if workload.batch_size != 1 or workload.sampling != "greedy":
        raise ValueError(
            f"runner=llama_cpp: workload.batch_size={workload.batch_size} "
            f"workload.sampling={workload.sampling}; expected one prompt after the other, and the "
            "likeliest token; try workload.batch_size=1 workload.sampling=greedy"
        )


def _engine() -> Any:
    try:
        import xllamacpp
    except ModuleNotFoundError as error:
        raise ValueError(
            "runner=llama_cpp: the package xllamacpp is not installed; expected llama.cpp; "
            "try pip install xllamacpp, or runner=moex"
        ) from error
    if not hasattr(xllamacpp, "llama_load_mode"):
        raise ValueError(
            f"runner=llama_cpp: xllamacpp {version('xllamacpp')} is too old; expected one that can "
            "be told how to load a file; try pip install -U xllamacpp"
        )
    return xllamacpp


def _rounds(
    server: Any, prompts: Sequence[list[int]], workload: Workload, on_stop: OnStop | None
) -> list[Round]:
    rounds: list[Round] = []
    with tqdm(total=workload.warmup + workload.repeats, desc="rounds", disable=None) as bar:
        reference = reference_s()
        for number in range(-workload.warmup, workload.repeats):
            done = Round([], {PREFILL: Clocked(), DECODE: Clocked()}, [])
            try:
                for prompt in prompts:
                    _continue(server, prompt, workload.new_tokens, done)
            except BaseException:
                if on_stop and number >= 0:
                    on_stop([*rounds, done])
                raise
            done.reference_s = (reference, reference := reference_s())
            if number >= 0:
                rounds.append(done)
            bar.update()
    return rounds


def _continue(server: Any, prompt: list[int], new_tokens: int, done: Round) -> None:
    """Continue one prompt, and add tokens and seconds to the round."""
    answer = server.handle_completions(
        {
            "prompt": prompt,
            "n_predict": new_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "cache_prompt": False,
            "n_probs": 1,
        }
    )
    tokens = [token["id"] for token in answer["choices"][0]["logprobs"]["content"]]
    timings = answer["timings"]
    if len(tokens) != new_tokens or timings["prompt_n"] != len(prompt):
        raise RuntimeError(
            f"runner=llama_cpp: {timings['prompt_n']} tokens read of {len(prompt)}, {len(tokens)} "
            f"generated of {new_tokens}; expected all; try another version of xllamacpp"
        )
    done.texts.append(tokens)
    # The first new token comes of the prompt's pass, as in moex's own runs.
    found = {
        PREFILL: Clocked(1, len(prompt), timings["prompt_ms"] / 1000),
        DECODE: Clocked(new_tokens - 1, new_tokens - 1, timings["predicted_ms"] / 1000),
    }
    for phase, line in found.items():
        done.series.append({"token": len(done.series), "phase": phase, **asdict(line)})
        total = done.phases[phase]
        for name in ("passes", "tokens", "seconds"):
            setattr(total, name, getattr(total, name) + getattr(line, name))
