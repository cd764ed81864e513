"""Makes the objects that a configuration names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from moex.cli import schema

if TYPE_CHECKING:
    from omegaconf import DictConfig


def build(node: DictConfig) -> Any:
    """Make the object that a group's `_target_` names: the only caller of `instantiate`.

    Raises:
        ValueError: settings that its class cannot take, or refuses.
    """
    schema.check(OmegaConf.to_container(node, resolve=True), node._get_full_key(None))
    try:
        return instantiate(node, _convert_="object")
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError):
            raise ValueError(schema.refusal(error)) from error.__cause__
        raise
