import json
import subprocess
from pathlib import Path

import pytest
import torch

from trainer.reporting import start_facts as module
from trainer.reporting.start_facts import start_facts

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DRAGOMAN_OUTCOMES", "DRAGOMAN_LAUNCH", "ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


def test_what_a_start_ran_on_and_with() -> None:
    facts = start_facts(CPU, 4, 1000)
    assert (facts["world_size"], facts["num_parameters"], facts["device"]) == (4, 1000, "cpu")
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["launcher"] == "dragoman train"
    assert json.loads(json.dumps(facts)) == facts


@pytest.mark.parametrize(
    ("names", "launcher"),
    [
        (("TORCHELASTIC_RUN_ID",), "torchrun"),
        (("TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION"), "accelerate launch"),
        (("TORCHELASTIC_RUN_ID", "DRAGOMAN_LAUNCH"), "dragoman train"),
        (("TORCHELASTIC_RUN_ID", "DRAGOMAN_OUTCOMES"), "dragoman submit"),
    ],
)
def test_the_launcher(names: tuple[str, ...], launcher: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in names:
        monkeypatch.setenv(name, "x")
    assert start_facts(CPU, 1, 1)["launcher"] == launcher


def test_slurm_is_told_without_the_rest_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_JOB_PARTITION", "gpu")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    facts = start_facts(CPU, 1, 1)
    assert facts["slurm_job"] == "17"
    assert facts["slurm"] == {"job": "17", "partition": "gpu"}
    assert "secret" not in json.dumps(facts)


def test_the_commit_of_a_clone_and_of_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HOME", tmp_path)
    assert "code" not in start_facts(CPU, 1, 1)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "file").write_text("one")
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert start_facts(CPU, 1, 1)["code"] == {"commit": commit, "changed": False}
    (tmp_path / "file").write_text("two")
    assert start_facts(CPU, 1, 1)["code"] == {"commit": commit, "changed": True}
    (tmp_path / "commit.txt").write_text("abc\n")
    assert start_facts(CPU, 1, 1)["code"] == {"commit": "abc", "changed": False}
