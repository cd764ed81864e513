"""Every number of every part, set to nonsense: accepted, or refused for something that is."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from typed import suggested

from moex.cli.build import check_all, typed_run
from moex.cli.errors import register_resolvers
from moex.paths import CONF

if TYPE_CHECKING:
    from collections.abc import Iterator

NEVER = ("nan", "inf", "-inf", "1e308", "1000000000000000000000", "[nan]")
NONSENSE = (*NEVER, "-1", "0", "0.5", "1000000000")
BUILT = (
    "cache",
    "prefetch",
    "miss",
    "hardware",
    "quant",
    "sparsity",
    "workload",
    "train",
    "routing",
)
CHECKED = ("memory", "runner", "eval", "mode")
MAY_BE_NULL = ("runner.threads", "eval.limit", "memory.staging", "memory.break_even")
NEEDED = {"hub": ["workload.dataset=mine"], "jsonl": ["workload.path=mine"]}


@pytest.fixture(autouse=True, scope="module")
def hydra_here():
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def leaves(key: str, value: Any, kind: str) -> Iterator[tuple[str, str, str]]:
    """The class that is built, and how every number below a key is typed: its name, and `{}`."""
    if isinstance(value, dict):
        kind = value.get("_target_", kind)
        for name, each in value.items():
            yield from leaves(f"{key}.{name}", each, kind)
    numbers = value if isinstance(value, list) else [value]
    if key in MAY_BE_NULL or any(type(each) in (int, float) for each in numbers):
        yield kind, key, "[{}]" if isinstance(value, list) else "{}"


def make(config: Any, group: str, *words: str) -> None:
    """Build a part, or check the settings that build none, with some overrides more."""
    changed = deepcopy(config)
    for override in OverridesParser.create().parse_overrides([*words]):
        OmegaConf.update(changed, override.key_or_group, override.value(), merge=False)
    if group in BUILT:
        typed_run(changed).make(group)
    else:
        check_all(OmegaConf.to_container(changed), list(changed))


@pytest.mark.study
@pytest.mark.parametrize("group", [*BUILT, *CHECKED])
def test_a_number_is_accepted_or_what_is_suggested_instead_is(group):
    tried = set()
    for path in sorted((CONF / group).glob("*.yaml")):
        config = compose("config", [f"{group}={path.stem}", *NEEDED.get(path.stem, ())])
        for each in leaves(group, OmegaConf.to_container(config)[group], group):
            for nonsense in () if each in tried else NONSENSE:
                word = f"{each[1]}={each[2].format(nonsense)}"
                accepted_or_corrected(config, group, word, surely_bad=nonsense in NEVER)
            tried.add(each)
    assert tried


def accepted_or_corrected(config: Any, group: str, word: str, surely_bad: bool) -> None:
    try:
        make(config, group, word)
    except ValueError as error:
        line = str(error)
    else:
        assert not surely_bad, word
        return
    key, expected = word.partition("=")[0], line.partition(": expected ")
    assert f"{key}=" in expected[0], line
    assert expected[2], line
    assert "\n" not in line
    make(config, group, *suggested(line))
