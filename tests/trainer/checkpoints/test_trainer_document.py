import json
from pathlib import Path

import pytest

from trainer.checkpoints.trainer_document import TrainerDocument
from trainer.errors import UserError


def written(folder: Path, document: object) -> Path:
    (folder / "trainer.json").write_text(json.dumps(document))
    return folder


def test_it_reads_back_what_was_written(tmp_path: Path) -> None:
    document = TrainerDocument(
        num_updates=6,
        progress={"step": 7, "score": None},
        learning_rate=1e-3,
        metric="bleu",
        world_size=2,
        engine="zero2",
        tokenizer="ab",
    )
    content = document.to_json()
    assert content["format"] == 1
    assert content["step"] == 7
    assert TrainerDocument.read(written(tmp_path, content)) == document


def test_a_file_from_before_the_format_number_is_read(tmp_path: Path) -> None:
    old = {"step": 7, "score": 3.0, "num_updates": 6, "metric": "nll", "world_size": 1, "engine": "ddp"}
    document = TrainerDocument.read(written(tmp_path, old))
    assert (document.num_updates, document.metric, document.tokenizer) == (6, "nll", None)
    assert document.progress == {"step": 7, "score": 3.0}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"num_updates": 1, "format": 2}, r"trainer.json has format 2.*reads formats up to 1"),
        ({"format": 1}, r"trainer.json must hold an object with `num_updates`"),
        ([], r"trainer.json must hold an object with `num_updates`"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(tmp_path: Path, content: object, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        TrainerDocument.read(written(tmp_path, content))


def test_a_key_that_this_version_does_not_know_is_not_dropped() -> None:
    document = TrainerDocument(num_updates=6, progress={"step": 7, "momentum": 1})
    document.require_progress_keys(["step", "momentum", "score"])
    with pytest.raises(UserError, match=r"after step 7 has the key `momentum`"):
        document.require_progress_keys(["step", "score"])
