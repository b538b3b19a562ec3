"""Each mistake a user can make with a configuration or a corpus: one sentence, status 2, nothing written."""

import gzip
from pathlib import Path

import pytest
import yaml

from launch.cli import main

LINES = [f"sentence number {n} of a small corpus" for n in range(200)]


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a corpus and a configuration that would train."""
    monkeypatch.chdir(tmp_path)
    Path("a.en").write_text("\n".join(LINES) + "\n")
    Path("a.de").write_text("\n".join(reversed(LINES)) + "\n")
    config = {
        "run": {"directory": "run", "max_steps": 2},
        "model": {"preset": "tiny"},
        "tokenizer": {"kind": "bpe", "vocab_size": 300},
        "data": {"train": [{"source": "a.en", "target": "a.de"}], "max_length": 64, "max_tokens": 256},
        "tracking": {"wandb": {"mode": "disabled"}},
    }
    Path("config.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def mistake(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one sentence that `dragoman train` answers; progress of the reading before it does not count."""
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert main(["train", "config.yaml", *arguments]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    sentences = [line for line in told.err.splitlines() if line.startswith("dragoman: ")]
    assert len(sentences) == 1
    assert "Traceback" not in told.err
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before
    assert not Path("run").exists()
    return sentences[0]


@pytest.mark.usefixtures("corpus")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("optimizer.peak_rl=1", ["`optimizer.peak_rl`", "`optimizer.peak_lr`"]),
        ("data.max_tokens=many", ["`data.max_tokens`", "many"]),
        ("data.train.0.source=missing.en", ["missing.en", "does not exist"]),
        ("data.max_tokens=32", ["`data.max_tokens`", "`data.max_length` (64)", "but is 32."]),
        ("tokenizer.vocab_size=30000", ["`tokenizer.vocab_size` is 30000"]),
        ("tokenizer.vocab_size=100", ["`tokenizer.vocab_size` is 100,"]),
        ("model.num_heads=3", ["`model.num_heads` (3)", "but is 128."]),
        ("tokenizer.path=none.model", ["none.model"]),
    ],
)
def test_a_wrong_setting(change: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    sentence = mistake(capsys, change)
    assert all(word in sentence for word in words), sentence


@pytest.mark.usefixtures("corpus")
def test_a_corpus_of_which_nothing_can_be_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "config.yaml", "data.max_length=2"]) == 2
    told = capsys.readouterr().err
    assert "200 too long (`data.max_length` is 2 tokens)" in told
    assert not Path("run").exists()


@pytest.mark.usefixtures("corpus")
def test_a_number_of_processes_that_does_not_divide(capsys: pytest.CaptureFixture[str]) -> None:
    sentence = mistake(capsys, "--processes", "3")
    assert "3 processes" in sentence
    assert "1, 2 or 4" in sentence


@pytest.mark.usefixtures("corpus")
def test_different_line_counts(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.de").write_text("\n".join(LINES[:-3]) + "\n")
    sentence = mistake(capsys)
    assert all(word in sentence for word in ("a.en", "200", "a.de", "197")), sentence


@pytest.mark.usefixtures("corpus")
def test_invalid_utf8_names_file_and_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line.encode() for line in LINES]
    lines[122] = b"caf\xe9"
    Path("a.de").write_bytes(b"\n".join(lines) + b"\n")
    sentence = mistake(capsys)
    assert "a.de" in sentence
    assert "line 123" in sentence.lower()
    assert "UTF-8" in sentence


@pytest.mark.usefixtures("corpus")
def test_a_truncated_archive(capsys: pytest.CaptureFixture[str]) -> None:
    packed = gzip.compress(Path("a.en").read_bytes())
    Path("a.en.gz").write_bytes(packed[: len(packed) // 2])
    assert "a.en.gz is cut off after line " in mistake(capsys, "data.train.0.source=a.en.gz")


@pytest.mark.usefixtures("corpus")
def test_a_directory_that_cannot_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("in the way")
    assert "file" in mistake(capsys, "run.directory=file/run")
