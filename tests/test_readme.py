"""Every command that the README and the recipes name is one that exists, and the way they describe can be walked."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from launch.cli import build_parser
from trainer.configuration.reading import load

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "slurm" / "README.md", *sorted((ROOT / "configs").glob("*.yaml"))]


def commands(path: Path) -> list[str]:
    """Lines of a document that call dragoman, with continuations joined; the table's synopses are no commands."""
    text = re.sub(r"\\\n#?\s*", "", path.read_text())
    found = re.findall(r"^#? *(?:.*\| )?(?:\.venv/bin/)?(dragoman [a-z].*)$", text, flags=re.MULTILINE)
    return [line for line in found if "`" not in line and "CONFIG" not in line]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documented_commands_are_understood(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert commands(path)
    for line in commands(path):
        words = shlex.split(line.split(" < ")[0])[1:]
        options, changes = build_parser().parse_known_args(words)
        assert all("=" in change for change in changes), line
        if "config" in options:
            load(options.config, [*options.changes, *changes])


@pytest.mark.slow
def test_the_way_from_training_to_a_score_by_the_documented_commands(tmp_path: Path) -> None:
    """A worker under torchrun, then prepare (all there), average, translate and evaluate on what it left."""
    environment = os.environ | {
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }

    def run(*command: str, text: str | None = None) -> str:
        ended = subprocess.run(
            [sys.executable, "-m", *command], cwd=tmp_path, env=environment, input=text, capture_output=True, text=True,
            timeout=240, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    config = str(ROOT / "configs" / "quickstart.yaml")
    changes = ["run.max_steps=4", "checkpoint.every_steps=2", "evaluation.max_sentences=4"]
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "launch.worker"]
    run(*torchrun, config, *changes)
    assert "was there already" in run("launch", "prepare", config, *changes)
    run("launch", "average", "runs/quickstart", "--last", "2", "--output", "model")
    lines = run("launch", "translate", "model", text="Je suis étudiant.\n\nIl est ici.\n").split("\n")
    assert len(lines) == 4
    assert lines[1] == ""
    (tmp_path / "a.fr").write_text("Je suis étudiant.\n")
    (tmp_path / "a.en").write_text("I am a student.\n")
    assert run("launch", "evaluate", "model", "--source", "a.fr", "--reference", "a.en").startswith("BLEU ")
