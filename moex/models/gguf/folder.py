"""A GGUF file as a model folder: config.json, tokenizer, and an index of the tensors in the file.

The folder is made once, in the cache folder; the weights stay in the file.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moex.models.gguf.config import config_of
from moex.models.gguf.header import Stored, files_of, read_header
from moex.models.gguf.tokenizer import write_tokenizer
from moex.paths import cache_folder
from moex.quant.formats.gguf import GGUF
from moex.runs.atomic import write_atomically
from moex.runs.run_id import folder_digest, key_of

if TYPE_CHECKING:
    from moex.models.gguf.header import Header

TENSORS = "tensors.json"


def folder_of(path: Path) -> Path:
    """Return the folder of a GGUF file's model; it is made if it is not there.

    Raises:
        FileNotFoundError, ValueError: see `read_header` and `config_of`.
    """
    files = files_of(path)
    seen = [[str(each), folder_digest(each.parent, (each.name,))] for each in files]
    folder = cache_folder().expanduser() / "gguf" / f"{files[0].stem}-{key_of({'files': seen})}"
    if folder.is_dir():
        return folder
    header = read_header(path)
    config = {**config_of(header), "quantization_config": _stored(header)}
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
    try:
        write_atomically(made / "config.json", json.dumps(config, indent=1))
        write_atomically(made / TENSORS, json.dumps(header.tensors))
        write_tokenizer(header, files[0], made, folder.name)
        os.replace(made, folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder


def read_index(folder: Path) -> dict[str, Stored]:
    """Return where each tensor of the model is."""
    return {
        name: Stored(*place) for name, place in json.loads((folder / TENSORS).read_text()).items()
    }


def _stored(header: Header) -> dict[str, Any]:
    """The settings of `moex.quant.formats.gguf`: the block types of the experts' matrices."""
    types = {
        piece: sorted({place.type for name, place in header.tensors.items() if _is_of(name, piece)})
        for pieces in GGUF.pieces.values()
        for piece in pieces
    }
    return {"quant_method": "gguf", "types": types}


def _is_of(name: str, piece: str) -> bool:
    return name.startswith("blk.") and name.endswith(f".ffn_{piece}_exps.weight")
