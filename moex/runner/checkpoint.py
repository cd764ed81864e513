"""Reads a checkpoint folder: the skeleton into memory, the experts one layer at a time to a sink.

Renaming and fusing follow transformers' own conversion tables, so every architecture that it loads
through them is read the same way here. Never more than the skeleton and one layer is in memory.
"""

from __future__ import annotations

import hashlib
import json
import re
from copy import deepcopy
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from accelerate import init_empty_weights
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

from moex.runner.decode import decoder
from moex.runner.hf import moe_layers
from moex.types import Expert

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from torch import Tensor
    from transformers import PreTrainedModel

    Sink = Callable[[Expert, Mapping[str, Tensor]], None]

ASSETS = Path(__file__).parents[1] / "assets"
BUNDLED = ("tiny",)
DTYPES = ("auto", "float32", "bfloat16", "float16")
STORED = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")


def find(name: str) -> Path:
    """Return the folder of a model: bundled, local, or downloaded from the hub.

    Raises:
        FileNotFoundError: neither is there, or the folder lacks config or weights.
    """
    folder = ASSETS / name if name in BUNDLED else Path(name).expanduser()
    if not folder.is_dir():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )

        try:
            folder = Path(snapshot_download(name, allow_patterns=list(FILES)))
        except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise FileNotFoundError(
                f"model.name={name}: neither a local folder nor a model that the hub gives here "
                f"({reason}); try model=tiny, the bundled model"
            ) from error
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"model.name={name}: {folder} has no config.json; expected a Hugging Face model folder"
        )
    return folder


def shards(folder: Path) -> dict[str, Path]:
    """Map every tensor's name to the safetensors file that holds it.

    Raises:
        FileNotFoundError: no weights, or a shard named by the index is missing.
        ValueError: a file cut short.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        names = sorted(path.name for path in folder.glob("*.safetensors"))
    if not names:
        raise FileNotFoundError(
            f"model: {folder} has no *.safetensors file; expected the weights beside config.json"
        )
    found: dict[str, Path] = {}
    for name in names:
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"model: {folder} lacks {name}, which its index names")
        try:
            with safe_open(path, framework="pt") as file:
                found.update(dict.fromkeys(file.keys(), path))
        except SafetensorError as error:
            raise ValueError(f"model: {path} is not a whole safetensors file ({error})") from error
    return found


def identity(folder: Path) -> dict[str, Any]:
    """Say in a few lines which weights a folder holds and who reads them, without reading it all.

    Of every shard: name, size, time of change, and a digest of its head and of pages spread over
    it, because times alone can lie (some installers set them all alike).
    """
    files = []
    for path in sorted(set(shards(folder).values())):
        found, digest = path.stat(), hashlib.sha256()
        with path.open("rb") as file:
            digest.update(file.read(1 << 20))
            for number in range(1, 17):
                file.seek(found.st_size * number // 17)
                digest.update(file.read(4096))
        files.append([path.name, found.st_size, found.st_mtime_ns, digest.hexdigest()[:16]])
    config = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()[:16]
    return {"config": config, "files": files, "transformers": transformers.__version__}


def build(folder: Path, dtype: str = "auto") -> PreTrainedModel:
    """Build the model with all weights on meta; buffers are real."""
    config = AutoConfig.from_pretrained(folder)
    if dtype not in DTYPES:
        raise ValueError(f"model.dtype={dtype}: expected one of {', '.join(DTYPES)}")
    kind = config.dtype or torch.bfloat16 if dtype == "auto" else getattr(torch, dtype)
    decoder(config)
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=kind)
    _keep_wide(model, kind)
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model.eval()


def _keep_wide(model: PreTrainedModel, kind: torch.dtype) -> None:
    """Some weights of some models (router biases) stay in float32, as transformers' plan says."""
    for pattern, wide in model._get_dtype_plan(kind).items():
        for name, tensor in chain(model.named_parameters(), model.named_buffers()):
            if re.search(pattern, name):
                tensor.data = tensor.data.to(wide)


def fill(
    model: PreTrainedModel,
    folder: Path,
    sink: Sink | None,
    device: str = "cpu",
    skip: Collection[int] = (),
) -> None:
    """Read the weights: the skeleton into the model, every expert to the sink (None: not at all).

    Experts of the MoE layers in `skip` are not read.

    Raises:
        ValueError: the checkpoint lacks weights of the model.
    """
    layers = moe_layers(model)
    layer_of = {layer.name: number for number, layer in enumerate(layers)}
    skeleton: dict[str, Tensor] = {}
    pending: dict[str, dict[str, Tensor]] = {}
    done: set[str] = set()
    wanted = set(layer_of) if sink is not None else set()
    wanted -= {layers[number].name for number in skip}
    for name, tensor in _tensors(model, folder, lambda n: n in wanted or n not in layer_of):
        module, _, parameter = name.rpartition(".")
        if module not in layer_of:
            skeleton[name] = tensor.to(device)
            continue
        stacked = pending.setdefault(module, {})
        stacked[parameter] = tensor
        if stacked.keys() == layers[layer_of[module]].tensors.keys():
            assert sink is not None
            for index in range(len(tensor)):
                expert = Expert(layer_of[module], index)
                sink(expert, {part: values[index] for part, values in stacked.items()})
            del pending[module]
            done.add(module)
    model.load_state_dict(skeleton, strict=False, assign=True)
    model.tie_weights()
    model.requires_grad_(False)
    _check_complete(model, folder, wanted - done, layer_of)


def _tensors(
    model: PreTrainedModel, folder: Path, wanted: Callable[[str], bool]
) -> Iterator[tuple[str, Tensor]]:
    """Yield (parameter name, tensor), fused as the model wants it, layer by layer."""
    coded = decoder(model.config)
    mapping = get_model_conversion_mapping(model, hf_quantizer=coded)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    by_pattern = {p: converter for converter in converters for p in converter.source_patterns}
    known = model.state_dict()
    groups: dict[str, tuple[Any, list[tuple[str, str | None]]]] = {}
    files = shards(folder)
    for key in sorted(files, key=dot_natural_key):
        target, pattern = rename_source_key(
            key, renamings, converters, model.base_model_prefix, known
        )
        if target in known and wanted(target.rpartition(".")[0]):
            converter = deepcopy(by_pattern[pattern]) if pattern is not None else None
            groups.setdefault(target, (converter, []))[1].append((key, pattern))
    headers: dict[Path, dict[str, Any]] = {}

    def read(key: str, dtype: torch.dtype | None) -> Tensor:
        path = files[key]
        if path not in headers:
            headers[path] = _header(path)
        return _read(path, headers[path], key).to(dtype)

    for target, (converter, keys) in sorted(groups.items(), key=lambda kv: dot_natural_key(kv[0])):
        dtype = known[target].dtype
        if converter is None:
            yield target, read(keys[0][0], dtype)
            continue
        for key, pattern in keys:
            converter.add_tensor(target, key, pattern, partial(read, key, None if coded else dtype))
        for name, value in converter.convert(target, model=model, config=model.config).items():
            yield name, (value[0] if isinstance(value, list) else value).to(dtype)


def _header(path: Path) -> dict[str, Any]:
    """A safetensors file's table of contents, and where its data begins."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return {"": 8 + size, **json.loads(file.read(size))}


def _read(path: Path, header: dict[str, Any], key: str) -> Tensor:
    """Read one tensor into memory of its own.

    Not through the library's mapping: mapped pages count as memory until the file is closed, and a
    shard of a large model is larger than a small machine's.
    """
    entry = header[key]
    begin, end = entry["data_offsets"]
    data = torch.empty(end - begin, dtype=torch.uint8)
    with path.open("rb", buffering=0) as file:
        file.seek(header[""] + begin)
        view, done = memoryview(data.numpy()), 0  # type: ignore[arg-type]
        while done < len(view):
            count = file.readinto(view[done:])
            if not count:
                raise ValueError(f"model: {path} ends inside {key}; is the file whole?")
            done += count
    return data.view(STORED[entry["dtype"]]).view(entry["shape"])


def _check_complete(
    model: PreTrainedModel, folder: Path, absent: set[str], layer_of: dict[str, int]
) -> None:
    missing = sorted(absent)
    for name, parameter in model.named_parameters():
        if parameter.is_meta and name.rpartition(".")[0] not in layer_of:
            missing.append(name)
    if missing:
        raise ValueError(
            f"model: {folder} lacks {len(missing)} weights of {type(model).__name__}, "
            f"first {missing[0]}; is a shard missing, or is it another model's config?"
        )
