"""What makes two runs the same run: the hash that names a result's folder."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

SEMANTIC = (
    "mode",
    "runner",
    "model",
    "memory",
    "cache",
    "quant",
    "sparsity",
    "prefetch",
    "train",
    "miss",
    "hardware",
    "workload",
    "eval",
    "seed",
    "smoke",
)
"""The groups that touch a result. Trackers, folders and verbosity do not."""

SAMPLED = 1 << 16
"""Bytes at either end of a file that its digest is of."""

SILENT = {"runner": ("timeline",)}
"""Keys of these groups that touch no result either."""


def run_id(config: dict[str, Any]) -> str:
    """Ten hex digits of everything that decides the result.

    That is the semantic groups, the content of the trace and of every file that they name (prompts,
    counts, checkpoints), and the source text of every class that a `_target_` names: an edited
    policy is another run.
    """
    parts: dict[str, Any] = {name: config.get(name) for name in SEMANTIC}
    for name, keys in SILENT.items():
        parts[name] = {k: value for k, value in (parts[name] or {}).items() if k not in keys}
    parts["sources"] = {target: _source(target) for target in sorted(set(_targets(parts)))}
    named = {text: os.path.expanduser(text) for text in _texts(parts)}
    parts["files"] = {
        text: _digest(Path(path).read_bytes())
        for text, path in named.items()
        if os.path.isfile(path)  # False, too, for what can be no file's name
    }
    if config.get("trace"):
        path = trace_path(config["trace"])
        parts["trace"] = _digest(path.read_bytes()) if path.is_file() else str(path)
    return key_of(parts)


def trace_path(name: str) -> Path:
    """The file of a trace: a bundled one by its name, or a path."""
    bundled = Path(__file__).parent / "assets" / "traces" / f"{name}.parquet"
    return bundled if bundled.is_file() else Path(name)


@cache
def code_version(package: str = "") -> str:
    """Ten hex digits of the source text of moex, or of one of its packages."""
    folder = Path(__file__).parent / package
    texts = (path.read_bytes() for path in sorted(folder.rglob("*.py")))
    return _digest(b"\0".join(texts))[:10]


def key_of(settings: dict[str, Any]) -> str:
    """Ten hex digits of plain settings."""
    return _digest(json.dumps(settings, sort_keys=True, default=str).encode())[:10]


def cache_folder() -> Path:
    """What belongs to a model but not to a result: $MOEX_CACHE, or a folder of the user's cache."""
    own = os.environ.get("MOEX_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "moex"


def folder_digest(folder: Path, which: tuple[str, ...] = (".json", ".safetensors")) -> str:
    """Ten hex digits of a model folder: the one identity that a model has, wherever it lies.

    Of every file whose name or suffix is in `which`: its name, its size, and of what is in it the
    head, the tail and pages spread between. Reading tens of gigabytes to name a result would take
    longer than the result.
    """
    parts: list[Any] = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and (path.suffix in which or path.name in which):
            size = path.stat().st_size
            with path.open("rb", buffering=0) as file:
                seen = [file.read(SAMPLED)]
                for number in range(1, 17):
                    file.seek(size * number // 17)
                    seen.append(file.read(4096))
                file.seek(max(0, size - SAMPLED))
                seen.append(file.read(SAMPLED))
            parts.append((path.name, size, _digest(b"".join(seen))))
    return key_of({"files": parts})


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict | list):
        for value in node.values() if isinstance(node, dict) else node:
            yield from _texts(value)


def _targets(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["_target_"]] if isinstance(node.get("_target_"), str) else []
        return own + [target for value in node.values() for target in _targets(value)]
    if isinstance(node, list):
        return [target for value in node for target in _targets(value)]
    return []


def _source(target: str) -> str:
    """Digest of the file that defines a dotted name, without importing it; its name if unknown."""
    module = target.rpartition(".")[0]
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return target
    if spec is None or not spec.origin or not Path(spec.origin).is_file():
        return target
    return _digest(Path(spec.origin).read_bytes())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
