"""`dragoman submit` without a SLURM: its scripts, its profiles, its refusals."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from launch.cli import main
from launch.slurm.job_script import JobRequest, render
from launch.slurm.profile import PROFILES, VARIABLE, load_profile
from trainer.run_directory.state import RunState
from trainer.run_directory.stop_reason import StopReason

ROOT = Path(__file__).parents[3]
GOLDEN = Path(__file__).parent / "job_scripts"
PROFILE_NAMES = sorted(path.stem for path in PROFILES.glob("*.yaml"))
QUICKSTART = str(ROOT / "configs" / "quickstart.yaml")


def script(name: str) -> str:
    request = JobRequest(Path("/shared/runs/my 100% run"), Path("/shared"), 4, "/shared/venv/bin/python")
    return render(request, load_profile(name))


@pytest.mark.parametrize("name", PROFILE_NAMES)
def test_the_scripts_of_the_profiles(name: str, tmp_path: Path) -> None:
    """They are as they were; after a change that is meant, write what this prints into the golden file."""
    assert script(name) == (GOLDEN / f"{name}.sh").read_text()
    subprocess.run(["bash", "-n", GOLDEN / f"{name}.sh"], check=True)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs `apt-get install shellcheck`")
@pytest.mark.parametrize("name", PROFILE_NAMES)
def test_shellcheck_has_nothing_to_say(name: str) -> None:
    checked = subprocess.run(["shellcheck", GOLDEN / f"{name}.sh"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def submit(*words: str) -> int:
    return main(["submit", QUICKSTART, *words])


def test_a_dry_run_prints_the_script_writes_nothing_and_has_no_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a-secret")
    monkeypatch.setenv("PATH", "/nowhere")
    run = tmp_path / "run"
    assert submit(f"run.directory={run}", "--profile", "gres", "--set", "processes_per_node=2", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert f"run={run}" in printed
    assert "#SBATCH --gres=gpu:a100:2" in printed
    assert "#SBATCH --export=NONE" in printed
    assert "a-secret" not in printed
    assert not run.exists()


def test_without_slurm_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert submit(f"run.directory={tmp_path / 'run'}", "--profile", "local") == 2
    assert capsys.readouterr().err.startswith("dragoman: there is no SLURM on this machine")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("data.max_tokens=32", "`data.max_tokens` must be at least"),
        ("model.hight=3", "`model.hight` is not a setting"),
        ("data.train=[{source: no.fr, target: no.en}]", "no.fr"),
    ],
)
def test_a_mistake_is_refused_with_the_sentence_of_train(
    change: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = f"run.directory={tmp_path / 'run'}"
    assert submit(run, change, "--profile", "local") == 2
    told = capsys.readouterr().err
    assert sentence in told
    assert main(["train", QUICKSTART, run, change]) == 2
    assert capsys.readouterr().err == told
    assert not (tmp_path / "run").exists()


def test_a_path_that_slurm_could_not_be_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit(f"run.directory={tmp_path}/a\\b", "--profile", "local", "--dry-run") == 2
    assert "no path with a backslash" in capsys.readouterr().err


def test_the_processes_of_all_nodes_must_divide_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit(f"run.directory={tmp_path / 'run'}", "--profile", "local", "--nodes", "3") == 2
    assert "3 processes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("acount: a", "`acount` is not a setting; did you mean `account`?"),
        ("processes_per_node: '4'", "`processes_per_node` must be a whole number"),
        ("processes_per_node: 0", "`processes_per_node` must be at least 1, but is 0."),
        ("gpus: some", "`gpus` must be one of gres, gpus-per-node, none"),
    ],
)
def test_a_profile_that_is_wrong(line: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text(line)
    assert submit("--profile", str(tmp_path / "mine.yaml"), "--dry-run") == 2
    told = capsys.readouterr().err
    assert sentence in told
    assert "mine.yaml" in told


def test_paths_of_a_profile_are_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text("python: ~/env/bin/python\ncontainer: [run, $MINE/image.sif, $INSIDE]")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MINE", str(tmp_path))
    monkeypatch.delenv("INSIDE", raising=False)
    for written in ("~/mine.yaml", "$MINE/mine.yaml"):
        profile = load_profile(written)
        assert profile.python == f"{tmp_path}/env/bin/python"
        assert profile.container == ("run", f"{tmp_path}/image.sif", "$INSIDE")
    assert submit("--profile", "$INSIDE/mine.yaml", "--dry-run") == 2
    assert "--profile is $INSIDE/mine.yaml, but the environment variable INSIDE is not set" in capsys.readouterr().err


def test_the_profile_of_the_environment(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert submit("--dry-run") == 2
    assert "needs --profile, or DRAGOMAN_SLURM_PROFILE" in capsys.readouterr().err
    monkeypatch.setenv(VARIABLE, "container")
    assert load_profile(None) == load_profile("container")
    assert submit("--profile", "nowhere") == 2
    assert "must be one of container, gres, local, modules" in capsys.readouterr().err


def test_a_sweep_is_a_run_for_each_combination(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    arrays = ["--array", "optimizer.peak_lr=1e-3,2e-3", "--array", "model.dropout=0.0,0.1"]
    assert submit(f"run.directory={tmp_path}/run", *arrays, "--profile", "local", "--dry-run") == 0
    runs = [line for line in capsys.readouterr().out.splitlines() if line.startswith("run=")]
    names = [f"peak_lr={lr}-dropout={dropout}" for lr in ("1e-3", "2e-3") for dropout in ("0.0", "0.1")]
    assert runs == [f"run={tmp_path}/run-{name}" for name in names]
    assert submit("--array", "optimizer.peak_lr", "--profile", "local") == 2
    assert "--array is written `section.key=value,value`" in capsys.readouterr().err


FAKE_SBATCH = """\
#!/bin/bash
echo "$@" >> "$(dirname "$0")/asked"
echo $((100 + $(wc -l < "$(dirname "$0")/asked")))
"""
FAKE_SQUEUE = "#!/bin/bash\necho '102|PENDING|Dependency|2|1:00|N/A'\n"


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands that answer as SLURM's do; what sbatch was asked is in the file `asked`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, script in {"sbatch": FAKE_SBATCH, "squeue": "#!/bin/bash\n", "sacct": "#!/bin/bash\n"}.items():
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_CONF", "/nowhere")
    return folder


def test_a_chain_and_what_lies_beside_the_run(
    fake_slurm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = [f"run.directory={run}", "run.max_steps=7", "--profile", "local"]
    assert submit(*words, "--chain", "2", "--after", "9") == 0
    job = f"{run}/slurm/job.sh"
    asked = (fake_slurm / "asked").read_text().splitlines()
    assert asked == [f"--parsable --dependency=afterany:9 {job}", f"--parsable --dependency=afterany:101 {job}"]
    assert "max_steps: 7" in (run / "slurm" / "config.yaml").read_text()
    copied, ours = run / "slurm" / "code" / "launch" / "slurm" / "submit.py", ROOT / "launch" / "slurm" / "submit.py"
    assert copied.read_text() == ours.read_text()
    if (ROOT / ".git").exists():
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        assert (run / "slurm" / "code" / "commit.txt").read_text() == head.stdout
    (fake_slurm / "squeue").write_text(FAKE_SQUEUE)
    assert submit(*words) == 2
    assert "is already in the queue: job 102 is PENDING" in capsys.readouterr().err
    (fake_slurm / "squeue").write_text("#!/bin/bash\n")
    (fake_slurm / "sbatch").write_text("#!/bin/bash\necho 'sbatch: error: invalid account' >&2; exit 1\n")
    assert submit(*words) == 2
    assert "SLURM refuses the job: sbatch: error: invalid account." in capsys.readouterr().err
    assert os.access(run / "slurm" / "job.sh", os.R_OK)


def test_sbatch_does_not_see_the_job_from_which_it_is_called(
    fake_slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would pass SLURM_MEM_PER_CPU and the like on to the new job, whose srun then refuses to start."""
    (fake_slurm / "sbatch").write_text('#!/bin/bash\nenv > "$(dirname "$0")/environment"\necho 7\n')
    foreign = ("SLURM_JOB_ID", "SLURM_MEM_PER_CPU", "SLURM_GPUS_PER_NODE", "SBATCH_PARTITION", "SRUN_CPUS_PER_TASK")
    for name in (*foreign, "OTHER"):
        monkeypatch.setenv(name, "99")
    assert submit(f"run.directory={tmp_path / 'run'}", "--profile", "local") == 0
    seen = (fake_slurm / "environment").read_text().splitlines()
    assert [line for line in seen if line.startswith(("SLURM_", "SBATCH_", "SRUN_"))] == ["SLURM_CONF=/nowhere"]
    assert "OTHER=99" in seen


def test_a_finished_run_is_not_submitted_again_but_for_more_steps(
    fake_slurm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    state = RunState(run, rank=0, world_size=1, max_steps=7)
    state.training(0)
    state.ended(7, StopReason.FINISHED)
    words = [f"run.directory={run}", "--profile", "local"]
    assert submit(*words, "run.max_steps=7") == 2
    assert "has finished after step 7: give it more `run.max_steps`" in capsys.readouterr().err
    assert submit(*words, "run.max_steps=8") == 0


def documented_submissions() -> list[list[str]]:
    text = "".join((ROOT / name).read_text() for name in ("docs/clusters.md", "slurm/README.md"))
    return [shlex.split(line)[1:] for line in text.splitlines() if line.startswith("dragoman submit")]


@pytest.mark.parametrize("words", documented_submissions(), ids=lambda words: " ".join(words[1:]))
def test_the_documented_commands(
    words: list[str],
    fake_slurm: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whether their corpora are there is another matter."""
    monkeypatch.setattr("trainer.data.preparation.build_stores.check_sources", lambda corpora: None)
    monkeypatch.chdir(tmp_path)
    words[1] = str(ROOT / words[1])
    assert main(words) == 0, capsys.readouterr().err
    asked = (fake_slurm / "asked").read_text().splitlines()
    assert asked
    for line in asked:
        subprocess.run(["bash", "-n", line.split()[-1]], check=True)
