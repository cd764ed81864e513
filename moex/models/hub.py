"""Finds models: bundled, in a local folder, or on the hub; whole or a shard at a time."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers
from transformers import AutoConfig

from moex.models.packed.formats import note_dtype
from moex.paths import model_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from transformers import PreTrainedConfig

SMALL = ("*.json", "*.model", "*.txt", "*.jinja")
WEIGHTS = ("*.safetensors",)


def local_folder(name: str) -> Path | None:
    """Return the folder of a bundled or local model, or the one made of a GGUF file.

    None if the name is neither.
    """
    if name.endswith(".gguf"):
        from moex.models.gguf.folder import folder_of

        return folder_of(Path(name))
    return model_folder(name)


def find(name: str, weights: bool = True) -> Path:
    """Return the folder of a model: bundled, local, or downloaded from the hub.

    Args:
        name: a bundled model, a folder, a GGUF file, or a hub repository.
        weights: False does not download the shards of a hub repository.

    Raises:
        FileNotFoundError: no such model, or the folder has no config.json.
    """
    folder = local_folder(name)
    if folder is None:
        from huggingface_hub import snapshot_download

        patterns = [*SMALL, *(WEIGHTS if weights else ())]
        with explained(name):
            folder = Path(snapshot_download(name, allow_patterns=patterns))
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"model.name={name}: {folder} has no config.json; expected a Hugging Face model "
            "folder; try model=tiny"
        )
    return folder


def configuration(name: str, architecture: Mapping[str, Any] | None = None) -> PreTrainedConfig:
    """The model's configuration, without its weights.

    If the name is not a local folder, `architecture` (the settings that determine shapes, from the
    yamls of known models) is used without a network; without it, the hub's config.json.
    """
    folder = local_folder(name)
    if folder is None and architecture:
        return made_up(architecture)
    if folder is not None:
        return of_folder(find(name))
    with explained(name), understood(f"model.name={name}"):
        return AutoConfig.from_pretrained(name)


def of_folder(folder: Path) -> PreTrainedConfig:
    """The configuration in a model's folder."""
    path = folder / "config.json"
    with understood(f"model: {path}"):
        json.loads(path.read_text(encoding="utf-8"))  # for a precise error: transformers gives none
        config = AutoConfig.from_pretrained(folder)
    note_dtype(config)
    return config


def made_up(architecture: Mapping[str, Any]) -> PreTrainedConfig:
    """Build a configuration from these settings."""
    with understood("model.architecture"):
        return AutoConfig.for_model(**architecture)


@contextmanager
def understood(where: str) -> Iterator[None]:
    """Turn transformers' errors about an unusable configuration into one clear line.

    Its own advice, another version of transformers, is dropped: moex is built for this one.

    Raises:
        ValueError: `where` the configuration is, and the reason.
    """
    from huggingface_hub.errors import StrictDataclassError

    refused = (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError)
    try:
        yield
    except (*refused, StrictDataclassError) as error:
        reason = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
        raise ValueError(
            f"{where}: {reason}; expected the configuration of a mixture of experts that "
            f"transformers {transformers.__version__} knows, e.g. of model_type mixtral, olmoe or "
            "qwen3_moe; try model=tiny"
        ) from error


def fetch(name: str, file: str, folder: Path) -> Path:
    """Download one file of a repository into a folder; interrupted downloads are resumed."""
    from huggingface_hub import hf_hub_download

    with explained(name):
        return Path(hf_hub_download(name, file, local_dir=folder))


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn errors of the hub's client into one clear line.

    Raises:
        FileNotFoundError: the hub does not provide the model, with the reason.
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        yield
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        what = "a model that the hub gives here"
        hint = "try model=tiny, the bundled model"
        if isinstance(error, GatedRepoError):
            reason, what = "its owner asks for a licence to be accepted", "one open to you"
            hint = f"accept it at https://huggingface.co/{name}, then: hf auth login"
        elif isinstance(error, RepositoryNotFoundError):
            reason = "no such repository, or a private one"
        elif "No space left" in reason:
            hint = "try model.keep_shards=false, which keeps one shard at a time"
        elif isinstance(error, LocalEntryNotFoundError):
            reason = "the hub cannot be reached, and its cache does not have it"
        raise FileNotFoundError(
            f"model.name={name}: neither a local folder nor {what} ({reason}); {hint}"
        ) from error
