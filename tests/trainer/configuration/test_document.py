from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from trainer.configuration.document import document, explanations
from trainer.configuration.rules import RANGES
from trainer.configuration.sections import Config
from trainer.configuration.setting_types import known_settings
from trainer.data.config import CorpusConfig

PAGE = Path(__file__).parents[3] / "docs" / "settings.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == document(), (
        "run `python -m trainer.configuration.document > docs/settings.md`"
    )


def sections(kind: Any) -> list[Any]:
    return [hint for hint in get_type_hints(kind).values() if is_dataclass(hint)]


@pytest.mark.parametrize(
    "kind", [*sections(Config), *(inner for kind in sections(Config) for inner in sections(kind)), CorpusConfig]
)
def test_every_setting_is_explained(kind: Any) -> None:
    hints, texts = get_type_hints(kind), explanations(kind)
    assert kind.__doc__
    assert not [field.name for field in fields(kind) if field.name not in texts and not is_dataclass(hints[field.name])]


def test_every_range_is_that_of_a_setting() -> None:
    assert not RANGES.keys() - set(known_settings(Config))
