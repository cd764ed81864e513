"""Importer of responses of a vLLM server started with `--enable-return-routed-experts`.

A file holds one JSON response, a JSON list of them, or one a line. Two shapes exist (documentation
of vLLM 0.21, training/routed_experts_replay, and its server tests):

- `prompt_routed_experts` on the response and `routed_experts` on every choice, nested lists
  [tokens, MoE layers, k] of the prompt's and of the generated tokens;
- only `routed_experts` on every choice, base64 of the bytes of a `.npy` file, for the prompt and
  the generated tokens together; `usage.prompt_tokens` says how many are the prompt's. The last
  generated token has no row, because no pass was run on it.

The engine's batches and chunks are not recorded; here every prompt is one prefill
pass and every generated token one decode pass, the requests one after the other.
"""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moex.trace.importers.build import build, geometry_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from moex.trace.format import Trace


def read(path: str | Path, experts: int | None = None, expert_bytes: int = 1) -> Trace:
    """Read recorded responses; every choice becomes a sequence.

    Args:
        path: the file of responses.
        experts: routed experts of a layer; default: what the ids imply.
        expert_bytes: of one expert.

    Raises:
        ValueError: a response without routing.
    """
    path = Path(path)
    parts = [part for response in _responses(path) for part in _parts(response, path)]
    ids = np.concatenate([rows for _, rows in parts])
    lengths = [len(rows) for _, rows in parts]
    prompts = [prompt for prompt, _ in parts]
    position = np.concatenate([np.arange(length) for length in lengths])
    return build(
        ids,
        sequence=np.repeat(np.arange(len(parts)), lengths),
        position=position,
        prefill=position < np.repeat(prompts, lengths),
        geometry=geometry_of(ids, experts, expert_bytes),
        provenance={"imported": "vllm", "name": path.name},
    )


def _responses(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8")
    try:
        responses = json.loads(text)
    except json.JSONDecodeError:
        responses = [json.loads(line) for line in text.splitlines() if line.strip()]
    return responses if isinstance(responses, list) else [responses]


def _parts(response: dict[str, Any], path: Path) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield (prompt tokens, ids [tokens, layers, k]) of every choice."""
    for choice in response.get("choices", []):
        generated, prompt = choice.get("routed_experts"), response.get("prompt_routed_experts")
        if generated is None:
            raise ValueError(
                f"trace={path}: a choice without routed_experts; record with: "
                "vllm serve MODEL --enable-return-routed-experts"
            )
        rows = _array(generated)
        if prompt is not None:
            prompt_rows = _array(prompt)
            rows = np.concatenate([prompt_rows, rows]) if len(rows) else prompt_rows
            yield len(prompt_rows), rows
        else:
            yield int(response["usage"]["prompt_tokens"]), rows


def _array(value: Any) -> NDArray[Any]:
    if isinstance(value, str):
        array: NDArray[Any] = np.load(io.BytesIO(base64.b64decode(value)))
        return array.astype(np.int64)
    return np.asarray(value, np.int64)
