"""`dragoman data` prepares what is missing and shows it, in both modes, for people and for machines."""

import json
from pathlib import Path

import pytest
import yaml

from launch.cli import main

SOURCES = [f"sentence number {n} of a small corpus" for n in range(200)]
TARGETS = [f"Satz Nummer {n} eines kleinen Korpus" for n in range(200)]


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a configuration and its corpus. One pair is a copy and one without letters."""
    monkeypatch.chdir(tmp_path)
    Path("a.en").write_text("\n".join([*SOURCES, "the same", "1 2 3"]) + "\n")
    Path("a.de").write_text("\n".join([*TARGETS, "the same", "eins zwei drei"]) + "\n")
    config = {
        "run": {"directory": "run", "max_steps": 20},
        "model": {"preset": "tiny"},
        "tokenizer": {"kind": "bpe", "vocab_size": 300},
        "data": {"train": [{"source": "a.en", "target": "a.de"}], "max_length": 64, "max_tokens": 256},
    }
    Path("config.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def test_a_person_sees_pairs_numbers_and_what_was_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "config.yaml", "--examples", "2"]) == 0
    text = capsys.readouterr().out
    for part in ("Mixture (store mode)", "left out as copy: 1", "left out as few letters: 1", "1 2 3", "pair 2"):
        assert part in text
    assert "~" not in text
    assert "pair 3" not in text
    assert SOURCES[50] in text
    assert Path("run/tokenizer.model").exists()


def test_a_machine_reads_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "config.yaml", "data.mode=stream", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (corpus,) = found["corpora"]
    assert (found["mode"], corpus["name"], corpus["num_pairs"], corpus["is_estimate"]) == ("stream", "a", 200, True)
    assert {reason: count for reason, count in corpus["rejected"].items() if count} == {"copy": 1, "few letters": 1}
    assert corpus["rejected_examples"]["copy"] == [["the same", "the same"]]
    assert len(corpus["examples"]) == 3


def test_one_may_look_change_a_setting_and_look_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "config.yaml"]) == 0
    assert main(["data", "config.yaml", "data.filters.min_letters=null", "tokenizer.vocab_size=310", "--json"]) == 0
    (corpus,) = json.loads(capsys.readouterr().out.splitlines()[-1])["corpora"]
    assert corpus["num_pairs"] == 201


def test_what_a_training_has_learnt_from_is_not_changed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "config.yaml"]) == 0
    Path("run/metrics.jsonl").touch()
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(["data", "config.yaml", "data.filters.min_letters=null"]) == 2
    assert "differs in `data.filters.min_letters`" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before
