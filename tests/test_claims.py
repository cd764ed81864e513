"""What the README quotes of a study stands in that study's own README."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NUMBER = r"[-+]?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)"
TOGETHER = re.compile(rf"{NUMBER}(?:x?(?: ± |, | to | \[){NUMBER})*")
"""A number with its error or interval: 1.0 ± 0.2, 2.1x [1.9, 2.4], .80 to .83 [.77 to .79]."""
SECTION = (ROOT / "README.md").read_text().partition("## What is measured here")[2]
ROWS = re.findall(
    r"^\|[^|]+\|([^|]+)\| `experiments/(\w+)` \|$", SECTION.partition("\n## ")[0], re.MULTILINE
)


def numbers(text: str) -> list[str]:
    return [found.replace(",", "") for found in re.findall(NUMBER, text)]


def lacking(claim: str, study: str) -> list[str]:
    """Quoted numbers, each with its error or interval, that the study has not, rounded alike."""
    there = [float(number) for number in numbers(study)]

    def stands(quoted: list[str]) -> bool:
        decimals = [len(number.partition(".")[2]) for number in quoted]
        return any(
            all(
                abs(float(number) - known) <= 0.5001 * 10**-slots
                for number, known, slots in zip(quoted, there[start:], decimals, strict=False)
            )
            for start in range(len(there) - len(quoted) + 1)
        )

    return [found for found in TOGETHER.findall(claim) if not stands(numbers(found))]


@pytest.mark.parametrize(("claim", "study"), ROWS, ids=[row[1] for row in ROWS])
def test_a_number_of_the_readme_stands_in_the_study_it_names(claim, study):
    text = (ROOT / "experiments" / study / "README.md").read_text()
    assert not lacking(claim, text), study


def test_every_study_of_the_table_is_compared():
    assert len(ROWS) == SECTION.partition("\n## ")[0].count("`experiments/") > 10


@pytest.mark.parametrize("claim", ["0.5 ± 0.9", "1.0 ± 0.9", "-1.00 ± 0.92", "2.29x [2.15, 2.39"])
def test_a_number_that_a_study_does_not_have_is_named(claim):
    study = "| corm | -1.00 ± 0.93 | +0.50 ± 0.50 |\n| 4 | 2.28 | [2.15, 2.39] |"
    assert lacking("-1.0 ± 0.9 / 2.28x [2.15, 2.39] / 2.3x", study) == []
    assert lacking(claim, study) == [claim]
