"""Every word of conf/quant keeps the contract."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from moex.cli.errors import register_resolvers
from moex.testing import check_quantizer

CONF = Path(__file__).parents[2] / "conf"
PRESETS = sorted(path.stem for path in (CONF / "quant").glob("*.yaml") if path.stem != "none")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_keeps_the_contract(preset):
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=[f"quant={preset}"])
    check_quantizer(lambda: instantiate(config.quant, _convert_="object"))
