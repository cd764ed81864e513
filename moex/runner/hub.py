"""Where a model comes from: bundled, a local folder, the hub; whole or a shard at a time."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig

from moex.places import model_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from transformers import PreTrainedConfig

SMALL = ("*.json", "*.model", "*.txt", "*.jinja")
WEIGHTS = ("*.safetensors",)


def find(name: str, weights: bool = True) -> Path:
    """Return the folder of a model: bundled, local, or downloaded from the hub.

    Args:
        name: a bundled model, a folder or a hub repository.
        weights: False leaves the shards of a hub repository where they are.

    Raises:
        FileNotFoundError: neither is there, or the folder lacks its config.
    """
    folder = model_folder(name)
    if folder is None:
        from huggingface_hub import snapshot_download

        patterns = [*SMALL, *(WEIGHTS if weights else ())]
        with explained(name):
            folder = Path(snapshot_download(name, allow_patterns=patterns))
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"model.name={name}: {folder} has no config.json; expected a Hugging Face model folder"
        )
    return folder


def configuration(name: str, architecture: Mapping[str, Any] | None = None) -> PreTrainedConfig:
    """The model's configuration, without its weights.

    Where the name is no local folder, `architecture` (the settings that decide shapes, as the
    yamls of known models have them) answers without a network; else the hub's config.json does.
    """
    folder = model_folder(name)
    if folder is None and architecture:
        return AutoConfig.for_model(**architecture)
    if folder is not None:
        return AutoConfig.from_pretrained(find(name))
    with explained(name):
        return AutoConfig.from_pretrained(name)


def fetch(name: str, file: str, folder: Path) -> Path:
    """Download one file of a repository into a folder; a download cut short goes on later."""
    from huggingface_hub import hf_hub_download

    with explained(name):
        return Path(hf_hub_download(name, file, local_dir=folder))


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn what the hub's client raises into one line that helps.

    Raises:
        FileNotFoundError: the hub does not give the model here, and why.
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
