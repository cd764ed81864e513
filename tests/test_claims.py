"""What the results tables quote of a study stands in that study's own README."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NUMBER = r"[-+]?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)"
TOGETHER = re.compile(rf"{NUMBER}(?:x?(?: ± |, | to | \[){NUMBER})*")
"""A number with its error or interval: 1.0 ± 0.2, 2.1x [1.9, 2.4], .80 to .83 [.77 to .79]."""
PAGES = (ROOT / "README.md", ROOT / "experiments" / "README.md")
SECTIONS = [page.read_text().partition("\n## Results\n")[2].partition("\n## ")[0] for page in PAGES]
RESULT = re.compile(r"^\|[^|]+\|([^|]+)\| \[(\w+)\]\(([\w/]+)\) \|$", re.MULTILINE)
HEADLINE = re.compile(r"^\| \[(\w+)\]\(([\w/]+)\) \|[^|]+\|[^|]+\|([^|]+)\|$", re.MULTILINE)
INDEX = PAGES[1].read_text().partition("\n## Index\n")[2]
ROWS = [
    (claim, name, page.parent / link)
    for page, section in zip(PAGES, SECTIONS, strict=True)
    for claim, name, link in RESULT.findall(section)
]
ROWS += [(claim, name, PAGES[1].parent / link) for name, link, claim in HEADLINE.findall(INDEX)]


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


@pytest.mark.parametrize(("claim", "name", "study"), ROWS, ids=[row[1] for row in ROWS])
def test_a_quoted_number_stands_in_the_study_it_names(claim, name, study):
    assert study.name == name
    assert not lacking(claim, (study / "README.md").read_text()), study


def test_every_study_of_the_tables_is_compared():
    quoted = [len(re.findall(r"\| \[\w+\]\([\w/]+\)", text)) for text in (*SECTIONS, INDEX)]
    assert len(ROWS) == sum(quoted)
    assert quoted[0] == 6
    assert quoted[1] > 10
    assert quoted[2] == len([*(ROOT / "experiments").glob("*/*/README.md")])


def test_a_row_of_the_readme_is_one_of_the_whole_table():
    for claim, name, study in ROWS[:6]:
        whole = " ".join(other for other, _, place in ROWS[6:] if place.name == study.name)
        assert not lacking(claim, whole), name


@pytest.mark.parametrize("claim", ["0.5 ± 0.9", "1.0 ± 0.9", "-1.00 ± 0.92", "2.29x [2.15, 2.39"])
def test_a_number_that_a_study_does_not_have_is_named(claim):
    study = "| corm | -1.00 ± 0.93 | +0.50 ± 0.50 |\n| 4 | 2.28 | [2.15, 2.39] |"
    assert lacking("-1.0 ± 0.9 / 2.28x [2.15, 2.39] / 2.3x", study) == []
    assert lacking(claim, study) == [claim]
