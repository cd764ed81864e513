"""`mode=chat`: type a text, read its continuation as it is computed, and what it cost."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

from moex.modes.common import load, make_setup, measure_hardware, set_threads
from moex.runs.notes import note, progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from transformers import PreTrainedModel

    from moex.bench.sampling import Choose
    from moex.modes.run import Run
    from moex.runs.report import Report


def run(run: Run, folder: Path) -> Report:
    """Answer every line of stdin on stdout until it ends, through the configured parts."""
    from moex.bench.calls import reporter, time_calls
    from moex.runner.assemble import offload

    measure_hardware(run)
    setup = make_setup(run, run.workload)
    known = setup.policy.needs | (setup.prefetcher.needs if setup.prefetcher else set())
    if known & {"future", "recorded"}:
        raise ValueError(
            "mode=chat: what will be typed is not recorded; expected a policy and a prefetcher "
            "that know no future; try cache=lru prefetch=gate"
        )
    progress(f"loading {run.model.name}")
    loaded = load(run, setup.memory.store)
    with closing(loaded.store):
        if loaded.random_weights:
            raise ValueError(
                "model.weights=random: says nothing that can be read; expected a checkpoint with a "
                "tokenizer; try model.weights=checkpoint"
            )
        tokenizer, choose = loaded.tokenizer(), run.workload.sampler(run.seed)
        timed = setup.hardware is not None and setup.hardware.timed
        set_threads(run, 1 if timed or loaded.store.io else 0)
        lengths = (run.workload.prompt_tokens or 0, run.mode.new_tokens, 1)
        offloaded = offload(loaded, setup, None, lengths)
        offloaded.recorder.keeps_router = False
        report = reporter(offloaded, loaded, setup, run.model.name)
        with offloaded as model, closing(_Clock(time_calls(offloaded))):
            progress("")
            note("type a text, and Enter; an empty line or Ctrl-D ends")
            for number, ids in enumerate(_prompts(tokenizer, _context(model))):
                before = report()
                try:
                    tokens = _continued(model, ids, run.mode.new_tokens, choose, number)
                    _show(tokens, tokenizer)
                except KeyboardInterrupt:
                    print()
                note(_cost(before, report()))
    return report()


class _Clock:
    """Ends the timing of calls when it is closed."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self.close = stop


def _context(model: PreTrainedModel) -> int | None:
    """Tokens that the model can attend to; None: it does not say."""
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return most if isinstance(most, int) else None


def _prompts(tokenizer: Any, context: int | None) -> Iterator[list[int]]:
    """Token ids of every line typed; of a chat model, with its template."""
    while True:
        try:
            text = input("> " if sys.stdin.isatty() else "")
        except (EOFError, KeyboardInterrupt):
            return
        if not text.strip():
            return
        if tokenizer.chat_template:
            said = [{"role": "user", "content": text}]
            asked = {"add_generation_prompt": True, "return_dict": False}
            ids = tokenizer.apply_chat_template(said, **asked)
        else:
            ids = tokenizer(text)["input_ids"]
        if not ids or (context is not None and len(ids) >= context):
            note(f"{len(ids)} tokens: expected at least 1, fewer than {context}")
            continue
        yield ids


def _continued(
    model: PreTrainedModel, ids: list[int], new_tokens: int, choose: Choose, number: int
) -> Iterator[int]:
    """Yield new tokens until the end of the text, of `new_tokens` or of the model's context."""
    import torch

    ends = model.generation_config.eos_token_id
    ends = {*ends} if isinstance(ends, list) else {ends}
    context = _context(model)
    left = new_tokens if context is None else min(new_tokens, context - len(ids))
    with torch.inference_mode():
        given = torch.tensor([ids], device=model.device)
        out = model(given, use_cache=True, logits_to_keep=1)
        for position in range(left):
            token = choose(out.logits[:, -1], number, position)
            if int(token) in ends:
                return
            yield int(token)
            if position < left - 1:
                out = model(token, past_key_values=out.past_key_values, use_cache=True)


def _show(tokens: Iterator[int], tokenizer: Any) -> None:
    """Print a text as its tokens come; a letter whose bytes are not all there waits."""
    found: list[int] = []
    shown = ""
    for token in tokens:
        found.append(token)
        text = tokenizer.decode(found, skip_special_tokens=True)
        if not text.endswith("\ufffd"):
            print(text[len(shown) :], end="", flush=True)
            shown = text
    print(flush=True)


def _cost(before: Report, after: Report) -> str:
    """What one answer took: speed of decoding, hits, bytes and stall."""

    def more(name: str) -> float:
        return (getattr(after, name) or 0) - (getattr(before, name) or 0)

    tokens, seconds, asked = more("tokens_decode"), more("decode_s"), more("requests")
    if not (tokens and seconds and asked):
        return f"1 token at most; first token after {more('prefill_s'):.2f} s"
    there = more("resident_hits") + more("prefetch_hits")
    return (
        f"{tokens / seconds:.1f} tokens/s, first after {more('prefill_s'):.2f} s; hits "
        f"{more('resident_hits') / asked:.0%}, with prefetches {there / asked:.0%}; "
        f"{more('bytes_moved') / tokens / 1e6:.1f} MB/token; stall {more('stall_s') / seconds:.0%}"
    )
