"""The command line teaches, starts quickly, and reports a user's mistake in one line."""

import io
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest

from launch import commands
from launch.cli import main
from launch.parser import build_parser
from trainer.errors import UserError

COMMANDS = ("train", "worker", "prepare", "data", "translate", "evaluate", "average", "status", "logs", "config")
QUICKSTART = str(Path(__file__).parents[2] / "configs" / "quickstart.yaml")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "example" in text
    assert f" dragoman {command} " in text.partition("example")[2]


def test_the_help_names_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(f"    {command} " in text or f"    {command}\n" in text for command in COMMANDS)


def test_config_prints_the_resolved_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", QUICKSTART, "run.seed=7"]) == 0
    assert "\n  seed: 7\n" in capsys.readouterr().out


def test_config_needs_no_torch() -> None:
    code = (
        f"import sys; from launch.cli import main; main(['config', {QUICKSTART!r}]); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "COMMAND"),
        (["fly"], "fly"),
        (["config"], "CONFIG"),
        (["config", "nowhere.yaml"], "nowhere.yaml cannot be read"),
        (["config", QUICKSTART, "run.sede=1"], "did you mean `run.seed`?"),
        (["config", QUICKSTART, "--verbose"], "--verbose"),
        (["train", QUICKSTART, "data.max_tokens=8"], "`data.max_tokens` must be at least"),
        (["train", QUICKSTART, "--processes", "0"], "must be at least 1"),
        (["train", QUICKSTART, "--processes", "x"], "must be a whole number"),
        (["data", QUICKSTART, "--examples", "-1"], "must be at least 0"),
        (["data", QUICKSTART, "data.train=[{source: no.en, target: no.de}]"], "no.en"),
        (["train", QUICKSTART, "--processes", "3"], "3 processes"),
        (["train", QUICKSTART, "data.train=[{source: no.en, target: no.de}]"], "no.en"),
        (["evaluate", "--reference", "a"], "MODEL"),
        (["evaluate", "model", "--reference", "a"], "--source"),
        (["evaluate", "model", "--hypothesis", "a", "--reference", "a"], "either"),
        (["evaluate", "--hypothesis", "nowhere.txt", "--reference", "nowhere.txt"], "nowhere.txt"),
        (["translate", "nowhere"], "nowhere"),
        (["average", "nowhere", "--last", "2", "--output", "out"], "nowhere"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    arguments: list[str],
    part: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a\n")))
    assert main(arguments) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("dragoman: ")
    assert errors.count("\n") == 1
    assert part in errors
    assert list(tmp_path.iterdir()) == []


def test_changes_may_stand_before_and_after_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def train(options: Namespace) -> int:
        seen.append(options.changes)
        return 0

    monkeypatch.setattr(commands, "train", train)
    assert main(["train", QUICKSTART, "run.seed=1", "--processes", "2", "run.seed=2"]) == 0
    assert seen == [["run.seed=1", "run.seed=2"]]


def test_the_status_of_an_interrupted_command_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def config(options: Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "config", config)
    assert main(["config", QUICKSTART]) == 130


def test_a_reader_that_leaves_is_no_error() -> None:
    command = f"{sys.executable} -m launch config {QUICKSTART} | true; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert result.stdout.strip() in ("0", "141")  # 0 where the reader took it all before it left
    assert result.stderr == ""


class EchoTranslator:
    """Translates into upper case."""

    def translate_stream(self, lines: object, beam_size: int | None, length_penalty: float | None) -> object:
        for line in lines:  # type: ignore[attr-defined]
            yield line.upper()


def translate(monkeypatch: pytest.MonkeyPatch, content: bytes) -> bytes:
    output = io.BytesIO()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    monkeypatch.setattr("sys.stdout", SimpleNamespace(buffer=output, flush=lambda: None))
    monkeypatch.setattr("trainer.inference.translation.load_translator", lambda path, device: EchoTranslator())
    commands.translate(Namespace(model="m", device="cpu", beam_size=None, length_penalty=None))
    return output.getvalue()


def test_translate_keeps_lines_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    content = "é\n\nb\u2028c\rd\nlast without an end".encode()
    assert translate(monkeypatch, content).decode() == "É\n\nB\u2028C\rD\nLAST WITHOUT AN END\n"


def test_translate_refuses_a_line_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "_MAX_LINE_BYTES", 8)
    assert translate(monkeypatch, b"12345678\n").decode() == "12345678\n"
    with pytest.raises(UserError, match="Line 2 of the standard input is longer than 8 bytes"):
        translate(monkeypatch, b"a\n" + b"b" * 100)


def test_translate_names_the_line_that_is_not_utf8(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"^Line 2 of the standard input is not valid UTF-8"):
        translate(monkeypatch, b"a\n\xff\n")


def test_threads_of_a_decoding_process_sleep_while_they_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    translate(monkeypatch, b"a\n")
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")  # the user has decided
    translate(monkeypatch, b"a\n")
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


def test_evaluate_scores_an_existing_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hypothesis, other = tmp_path / "hypothesis.txt", tmp_path / "other.txt"
    hypothesis.write_text("the cat sat on the mat .\n")
    other.write_text("a dog barked .\n")
    arguments = ["evaluate", "--hypothesis", str(hypothesis), "--reference"]
    assert main([*arguments, str(other), str(hypothesis)]) == 0
    assert capsys.readouterr().out.startswith("BLEU 100.00  nrefs:2")
    assert main([*arguments, str(hypothesis), "--json"]) == 0
    assert '"bleu": 100.0' in capsys.readouterr().out


def test_paths_on_the_command_line_are_expanded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Where the shell does not: `--output=~/model` would make a folder called `~`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NOWHERE", raising=False)
    options = build_parser().parse_args(["average", "$HOME/run", "--last", "2", "--output=~/model"])
    assert (options.run, options.output) == (f"{tmp_path}/run", f"{tmp_path}/model")
    assert main(["config", "$NOWHERE/a.yaml"]) == 2
    assert "the environment variable NOWHERE is not set" in capsys.readouterr().err
