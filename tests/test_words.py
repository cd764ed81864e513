"""What a user reads uses the field's words: names, messages, docstrings, yamls and pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BANNED = re.compile(
    r"\b(ledgers?|the books|booked|guess(?:es|ed)?|foresee|untold|in vain|by lot|"
    r"(?:uneven|quiet) (?:evening|night)|nats a token|where it lies|who (?:leaves|comes)|"
    r"verdict|judge[ds]?|HostLane|load_parts|io_uring thread)\b",
    re.IGNORECASE,
)
PATTERNS = ("*.md", "moex/**/*.py", "moex/**/*.md", "conf/**/*", "analysis/**/*", "run.py")
PATTERNS += ("experiments/**/*.py", "experiments/**/*.md", "notebooks/*.py", "notebooks/*.md")
DATA = {  # word lists and old names that are told of
    "experiments/bundled_model/items/lexicon.py",
    "moex/cli/renamed.py",
    "CHANGELOG.md",
    "analysis/collect.py",
    "experiments/benchmarks/random_combinations/golden.py",
}
FILES = sorted(
    path
    for pattern in PATTERNS
    for path in ROOT.glob(pattern)
    if path.suffix in (".md", ".py", ".yaml") and str(path.relative_to(ROOT)) not in DATA
)


def banned(text: str) -> list[str]:
    return [match[0] for match in BANNED.finditer(text)]


def test_a_banned_word_is_found():
    assert banned("The verdict: three guesses were booked.") == ["verdict", "guesses", "booked"]


@pytest.mark.parametrize(
    "folder", sorted({path.parent for path in FILES}), ids=lambda path: str(path.relative_to(ROOT))
)
def test_no_page_message_or_name_uses_a_private_word(folder):
    found = {
        f"{path.name}:{number}": words
        for path in FILES
        if path.parent == ROOT / folder
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if (words := banned(line))
    }
    assert not found
