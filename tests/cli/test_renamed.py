"""Old names, of before 0.2.0, are answered with the new ones, which are there."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from moex.cli.errors import one_line
from moex.cli.renamed import KEYS, MODULES


@pytest.mark.parametrize(("old", "new"), MODULES.items())
def test_a_module_that_moved_is_where_it_is_said_to_be(old, new):
    assert find_spec(new)
    with pytest.raises(ModuleNotFoundError) as caught:
        __import__(old)
    assert one_line(caught.value) == f"import {old}: moved in moex 0.2; try import {new}"


@pytest.mark.parametrize(("old", "new"), KEYS.items())
def test_a_key_that_was_renamed_names_the_new_one(here, old, new):
    code, _, said = here("mode=simulate", f"{old}=false")
    assert code == 1
    assert said.strip() == f"moex: {old}: was renamed in moex 0.2; try {new}=false"
