"""Quantizes a model while it is loaded: experts for the store, linear layers in place."""

from __future__ import annotations

import hashlib
import json
import zlib
from typing import TYPE_CHECKING, Any

from safetensors.torch import load, save
from torch import nn
from tqdm.auto import tqdm

from moex.quant.base import EXPERTS, HEAD, Packed
from moex.quant.linear import QuantLinear
from moex.runs.atomic import atomic_write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from torch import Tensor

    from moex.quant.base import Quantizer, Scheme, Spec
    from moex.types import Expert

    Sink = Callable[[Expert, Mapping[str, Tensor]], None]
    Routers = Iterable[nn.Module | None]


class ExpertPacking:
    """Packs the tensors of one expert, and binds packed tensors for computing.

    Args:
        tensors: name, shape and dtype of an expert's tensors.
        scheme: chooses which of them are quantized; biases never are.
        transposed: whether weights are [in, out].

    `copies` is whether records are the bytes of a packed checkpoint, and nothing is packed here.
    """

    copies = False

    def __init__(self, tensors: Spec, scheme: Scheme, transposed: bool) -> None:
        self.transposed, self.copies = transposed, not scheme.changes
        self.shapes: dict[str, tuple[int, int]] = {}
        self.quantizers: dict[str, Quantizer] = {}
        self.tensors: Spec = {}
        refining: Spec = {}
        for name, (shape, dtype) in tensors.items():
            quantizer = scheme.of(EXPERTS + name) if len(shape) == 2 else None
            if quantizer is None:
                self.tensors[name] = (shape, dtype)
                continue
            rows, columns = shape[::-1] if transposed else shape
            self.shapes[name], self.quantizers[name] = (rows, columns), quantizer
            for part, spec in quantizer.tensors((rows, columns)).items():
                kind = refining if part in quantizer.refining else self.tensors
                kind[f"{name}.{part}"] = spec
        self.tensors |= refining
        self.refining = frozenset(refining)
        """The tensors of the low slice; they come last."""

    def pack(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Pack an expert's tensors; tensors without a quantizer are passed on unchanged."""
        packed = {}
        for name, tensor in tensors.items():
            quantizer = self.quantizers.get(name)
            if quantizer is None:
                packed[name] = tensor
                continue
            weight = tensor.t() if self.transposed else tensor
            for part, value in quantizer.pack(weight).items():
                packed[f"{name}.{part}"] = value
        return packed

    def sink(self, put: Sink) -> Sink:
        """Return a sink that packs an expert and passes it to `put`."""
        return lambda expert, tensors: put(expert, self.pack(tensors))

    def bind(self, views: Mapping[str, Tensor]) -> dict[str, Tensor | Packed]:
        """Group the tensors of a record into what is computed with, by weight name."""
        bound: dict[str, Tensor | Packed] = {}
        for name, tensor in views.items():
            weight, _, part = name.partition(".")
            quantizer = self.quantizers.get(weight)
            if quantizer is None:
                bound[name] = tensor
                continue
            packed = bound.setdefault(weight, Packed(quantizer, {}))
            packed.tensors[part] = tensor  # type: ignore[union-attr, index]
        return bound

    @property
    def settings(self) -> dict[str, Any]:
        """All settings that determine the packed bytes, by weight name."""
        return {name: q.settings(self.shapes[name]) for name, q in self.quantizers.items()}

    @property
    def kernels(self) -> set[str]:
        """The names of the compute kernels."""
        return {q.kernel_name(self.shapes[name]) for name, q in self.quantizers.items()}

    def kernels_not_on(self, device: str) -> set[str]:
        """The names of the kernels whose packed weights this device does not compute with."""
        shapes = self.shapes
        return {
            q.kernel_name(shapes[name])
            for name, q in self.quantizers.items()
            if not q.computes_on(device, shapes[name])
        }


def quantize_linears(
    model: nn.Module,
    scheme: Scheme,
    routers: Routers,
    folder: Path,
    source: Mapping[str, Any],
) -> int:
    """Replace the linear layers that the scheme names by packed ones; return their bytes.

    Each is packed once and stored in its own file in `folder`, named by settings and source.
    Routers are never packed: a changed choice of experts is not what bits are chosen for.

    Raises:
        ValueError: the settings do not support a layer, or the head to be packed is tied.
        RuntimeError: the folder cannot be written.
    """
    nbytes, chosen = 0, _chosen(model, scheme, routers).items()
    for name, (quantizer, module) in tqdm(chosen, desc="packed linear layers", disable=None):
        path = _file(folder, name, quantizer, module, source)
        tensors = _read(path)
        if tensors is None:
            tensors = quantizer.pack(module.weight.detach().cpu())
            _write(path, tensors)
        packed = QuantLinear(quantizer, tensors, module.bias, module.weight.dtype)
        model.set_submodule(name, packed)
        nbytes += packed.nbytes
    return nbytes


def saved_bytes(model: nn.Module, scheme: Scheme, routers: Routers) -> int:
    """Bytes saved by packing the linear layers that the scheme names; also for meta weights."""
    return sum(
        module.weight.nbytes - quantizer.nbytes(_shape(module))
        for quantizer, module in _chosen(model, scheme, routers).values()
    )


def linear_settings(model: nn.Module, scheme: Scheme, routers: Routers) -> list[Any]:
    """The distinct settings of the linear layers that the scheme names, as JSON strings."""
    found = {
        json.dumps(q.settings(_shape(m)), sort_keys=True)
        for q, m in _chosen(model, scheme, routers).values()
    }
    return sorted(found)


def _chosen(
    model: nn.Module, scheme: Scheme, routers: Routers
) -> dict[str, tuple[Quantizer, nn.Linear]]:
    """The linear layers to be packed, without routers and gates of shared experts (`gate`)."""
    chosen, kept = {}, {part for router in routers if router for part in router.modules()}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or module in kept or name.endswith("gate"):
            continue
        quantizer = scheme.of(name)
        if quantizer is None:
            continue
        config: Any = model.config
        if name == HEAD and config.get_text_config().tie_word_embeddings:
            raise ValueError(
                "quant.head: this model's head is its embedding, which keeps 16 bits; "
                "try quant.head=null"
            )
        quantizer.tensors(_shape(module))  # raises now, not after an hour of packing
        chosen[name] = (quantizer, module)
    return chosen


def _shape(module: nn.Linear) -> tuple[int, int]:
    return (module.out_features, module.in_features)


def _file(
    folder: Path, name: str, quantizer: Quantizer, module: nn.Linear, source: Mapping[str, Any]
) -> Path:
    settings = {**quantizer.settings(_shape(module)), "dtype": str(module.weight.dtype)}
    text = json.dumps([name, settings, source], sort_keys=True)
    return folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.linear"


def _read(path: Path) -> dict[str, Tensor] | None:
    """Read a packed layer; None if there is no file, or its checksum differs."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    body, checksum = data[:-4], data[-4:]
    return load(body) if zlib.crc32(body).to_bytes(4, "little") == checksum else None


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a packed layer atomically, followed by its checksum."""
    data = save(dict(tensors))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as partial:
            partial.write_bytes(data + zlib.crc32(data).to_bytes(4, "little"))
    except OSError as error:
        raise RuntimeError(
            f"store: cannot pack into {path.parent} ({error.strerror}); expected a folder that can "
            "be written and has room; try cache_dir=ANOTHER_FOLDER"
        ) from error
