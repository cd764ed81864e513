"""What is packed is known by all that decides it."""

from __future__ import annotations

import importlib
import inspect
import sys

import pytest

from moex.quant import scales
from moex.quant.grouped import Grouped, _written
from moex.quant.rtn import RTN

SHAPE = (192, 256)
OWN = """
from dataclasses import dataclass

from moex.quant.rtn import RTN


@dataclass
class Clipped(RTN):
    most: float = 0.9

    def solve(self, groups):
        return super().solve(groups * {factor})
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a module with a quantizer, and imports it as another process would."""
    monkeypatch.syspath_prepend(tmp_path)

    def written(factor):
        (tmp_path / "my_quantizers.py").write_text(OWN.format(factor=factor))
        sys.modules.pop("my_quantizers", None)
        importlib.invalidate_caches()
        return importlib.import_module("my_quantizers").Clipped

    yield written
    sys.modules.pop("my_quantizers", None)


def test_another_text_or_field_is_other_bytes(write):
    first = write("1.0")
    settings = first().settings(SHAPE)
    assert settings == first().settings(SHAPE)
    assert first(most=0.5).settings(SHAPE) != settings
    assert write("0.25")().settings(SHAPE) != settings
    assert write("1.0")().settings(SHAPE) == settings


def test_moex_s_own_are_known_by_name_fields_and_code():
    settings = RTN(3).settings(SHAPE)
    assert [*settings.pop("code")] == [scales.__name__, RTN.__module__, Grouped.__module__]
    assert settings == {
        "quantizer": "RTN",
        "bits": 3,
        "group_size": 64,
        "meta_bits": 8,
        "scale_group": 256,
        "kernel": "reference",
    }


@pytest.mark.parametrize(
    ("said", "done", "same"),
    [
        ("from __future__", "# A comment.\n\nfrom __future__", True),
        ("Round to nearest", "To the nearest", True),
        ("(groups, self.bits)", "(\n            groups,\n            self.bits\n)", True),
        ("(groups, self.bits)", "(groups, self.bits - 1)", False),
    ],
)
def test_an_edit_of_moex_s_own_that_does_something_is_other_bytes(monkeypatch, said, done, same):
    before, read = RTN(3).settings(SHAPE), inspect.getsource
    _written.cache_clear()
    monkeypatch.setattr(inspect, "getsource", lambda thing: read(thing).replace(said, done))
    assert (RTN(3).settings(SHAPE) == before) == same
    _written.cache_clear()


def test_a_class_without_a_file_is_known_by_what_it_is_made_from():
    Unwritten = type("Unwritten", (RTN,), {"__module__": "nowhere"})
    assert _written(Unwritten) == _written(RTN)
