"""Composes the cells of a sweep: those that differ in values alone share what their groups give.

Composing a cell anew takes several times as long as simulating it.
"""

from __future__ import annotations

from copy import copy, deepcopy
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.override_parser.overrides_parser import OverridesParser

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

KEPT = 32
"""Compositions at a time: each takes about a megabyte."""


class Composer(ConfigLoaderImpl):
    """Hydra's own loader, which composes the same groups once and puts values into copies."""

    def __init__(self, loader: ConfigLoader) -> None:
        vars(self).update(vars(loader))
        self.loader = loader
        self.groups: dict[str, bool] = {}
        self.composed: dict[tuple[str, ...], DictConfig] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process gets Hydra's own: it need not find this package, as a job of Slurm's."""
        return copy, (self.loader,)

    def is_group(self, key: str) -> bool:
        """Whether a key names a group, whose option decides what is composed."""
        if key not in self.groups:
            self.groups[key] = self.repository.group_exists(key)
        return self.groups[key]

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig:
        """Compose a cell, as Hydra would: it, too, applies values last, in the order given."""
        overrides = [_parsed(override) for override in sweep_overrides]
        values = [override for override in overrides if self._is_value(override)]
        groups = tuple(
            override.input_line or "" for override in overrides if override not in values
        )
        if groups not in self.composed:
            if len(self.composed) == KEPT:
                del self.composed[next(iter(self.composed))]
            self.composed[groups] = super().load_sweep_config(master_config, list(groups))
        config = deepcopy(self.composed[groups])
        self._apply_overrides_to_config(values, config)
        own = [override for override in overrides if not override.is_hydra_override()]
        job = config.hydra.job
        config.hydra.overrides.task = [override.input_line for override in own]
        job.override_dirname = get_overrides_dirname(own, **job.config.override_dirname)
        return config

    def _is_value(self, override: Override) -> bool:
        return not override.is_hydra_override() and not self.is_group(override.key_or_group)


@lru_cache(1024)
def _parsed(override: str) -> Override:
    return OverridesParser.create().parse_override(override)
