"""The pictures in docs/ are those that their descriptions draw."""

import runpy
from pathlib import Path

import pytest

from trainer.run_directory import layout

DOCS = Path(__file__).parents[1] / "docs"
DESCRIPTIONS = sorted((DOCS / "pictures").glob("*.txt"))
draw = runpy.run_path(str(DOCS / "draw.py"))["draw"]


@pytest.mark.parametrize("description", DESCRIPTIONS, ids=lambda path: path.stem)
def test_a_picture_is_what_its_description_draws(description: Path) -> None:
    drawn = description.with_suffix(".svg").read_text()
    assert drawn == draw(description.read_text()), "run `make pictures` and commit what it wrote"


def test_no_picture_without_a_description_and_none_unused() -> None:
    assert {path.stem for path in (DOCS / "pictures").glob("*.svg")} == {path.stem for path in DESCRIPTIONS}
    text = "".join(path.read_text() for path in (DOCS.parent / "README.md", *DOCS.glob("*.md")))
    assert [path.stem for path in DESCRIPTIONS if f"pictures/{path.stem}.svg" not in text] == []


@pytest.mark.parametrize(
    "description",
    ["size 90 90 | x\nbox a 50 10 60 20 blue | wide", "size 90 90 | x\nbox a 5 10 30 20 blue | too long a text"],
)
def test_what_does_not_fit_is_refused(description: str) -> None:
    with pytest.raises(AssertionError):
        draw(description)


def test_the_run_directory_is_drawn_with_every_name_in_it() -> None:
    drawn = (DOCS / "pictures" / "run_directory.txt").read_text()
    names = {value for name, value in vars(layout).items() if name.isupper() and not name.startswith("_")}
    assert sorted(name for name in names - {layout.WEIGHTS} if name not in drawn) == []  # weights: a model directory
