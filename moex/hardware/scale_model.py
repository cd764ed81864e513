"""A scale model: this machine's small model, behind a link as slow as a large model's really is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import yaml

from moex.hardware.profile import HardwareProfile
from moex.paths import CONF
from moex.types import Geometry

LEAST_CHUNK = 1 << 14
"""Bytes of a chunk, at least: moving smaller ones costs more than they take."""


@dataclass(frozen=True)
class ScaleModel(HardwareProfile):
    """A profile whose link is set when the time of a layer on this machine is known.

    A load then takes as many layer times here as an expert of the model `of` takes on the device
    `like`: real bytes and a real model, at the ratio of loading to computing of the real thing.

    Args:
        like: a profile of conf/hardware, with costs of computing for the model `of`.
        of: a model of conf/model with its architecture.
        bits: per weight of that model's experts, scales included.

    Raises:
        ValueError: an unknown profile or model, or one without what is needed.
    """

    name: str = "scale_model"
    like: str = "rtx4090"
    of: str = "mixtral_8x7b"
    bits: float = 4.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.bits <= 32:
            raise ValueError(
                f"hardware.bits={self.bits}: expected bits per weight, above 0 and at most 32; "
                "try hardware.bits=4.5"
            )
        if self.link_bytes_per_s is None:
            named = f"scale model of {self.of} on {self.like}"
            object.__setattr__(self, "name", named)
            object.__setattr__(self, "source", f"{named}: {self.load_layers:.1f} layers a load")

    @property
    def measured_here(self) -> bool:
        """Until a live run has set the link."""
        return self.link_bytes_per_s is None

    @property
    def timed(self) -> bool:
        """True: it has a link as soon as it is used."""
        return True

    @property
    def load_layers(self) -> float:
        """How many times as long as computing a layer the load of one expert takes there."""
        there, shape = self._profile(), self._architecture()
        assert there.link_bytes_per_s is not None
        top_k, hidden, wide = (
            shape[name] for name in ("num_experts_per_tok", "hidden_size", "intermediate_size")
        )
        layers, experts = shape["num_hidden_layers"], shape["num_local_experts"]
        model = Geometry(layers, experts, top_k, hidden, wide, int(self._expert_bytes()))
        costs = there.on(model, there.layer_bytes)
        layer_s = costs.visit_s + top_k * costs.expert_s
        return (there.link_latency_s + self._expert_bytes() / there.link_bytes_per_s) / layer_s

    def here(self, expert_bytes: int, layer_s: float) -> ScaleModel:
        """Return the profile with a link.

        Args:
            expert_bytes: of the small model.
            layer_s: seconds of a decoding visit of one of its layers, all experts resident.
        """
        there, share = self._profile(), expert_bytes / self._expert_bytes()
        return replace(
            self,
            link_bytes_per_s=expert_bytes / (self.load_layers * layer_s),
            chunk_bytes=max(LEAST_CHUNK, int(share * there.chunk_bytes)),
        )

    def _profile(self) -> HardwareProfile:
        given = _read("hardware", self.like, "hardware.like", "rtx4090")
        fields = {name: value for name, value in given.items() if name != "_target_"}
        if not fields.get("visit_s") or not fields.get("link_bytes_per_s"):
            raise ValueError(
                f"hardware.like={self.like}: has no link or no costs of computing; expected a "
                "profile of a device that has both; try hardware.like=rtx4090"
            )
        return HardwareProfile(**fields)

    def _architecture(self) -> dict[str, Any]:
        model = _read("model", self.of, "hardware.of", "mixtral_8x7b")
        shape: dict[str, Any] = model.get("architecture") or {}
        if "num_local_experts" not in shape:
            raise ValueError(
                f"hardware.of={self.of}: its yaml has no architecture of a Mixtral, whose costs "
                "profiles hold; try hardware.of=mixtral_8x7b"
            )
        return shape

    def _expert_bytes(self) -> float:
        shape = self._architecture()
        return 3 * shape["hidden_size"] * shape["intermediate_size"] * self.bits / 8


def _read(group: str, name: str, key: str, usual: str) -> dict[str, Any]:
    """The settings of an option, without the defaults that it inherits."""
    path = CONF / group / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(each.stem for each in path.parent.glob("*.yaml")))
        raise ValueError(f"{key}={name}: expected one of {known}; try {key}={usual}")
    settings: dict[str, Any] = yaml.safe_load(path.read_text())
    inherited: dict[str, Any] = {}
    for base in settings.pop("defaults", ()):
        if isinstance(base, str) and base != "_self_":
            inherited |= _read(group, base, key, usual)
    return inherited | settings
