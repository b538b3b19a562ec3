"""The documents hold: each command in them exists and is run by some test, each link and path leads somewhere."""

import argparse
import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from launch.cli import main
from launch.parser import build_parser
from tests.limits import patience
from trainer.configuration.reading import load

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "slurm" / "README.md", *DOCS]
RECIPES = sorted((ROOT / "configs").glob("*.yaml"))
PACKAGES = ("launch", "trainer", "model")

# Which test runs the documented commands that are not `dragoman` commands, by how they begin.
RUN_BY = {
    "accelerate launch": "tests/launch/test_other_launchers.py::test_accelerate_launch",
    "deepspeed": "tests/launch/test_other_launchers.py::test_deepspeed_with_a_hostfile",
    "torchrun --standalone": "tests/test_readme.py::test_the_way_from_training_to_a_score_by_the_documented_commands",
    "torchrun --nnodes": "tests/launch/test_other_launchers.py::test_torchrun_on_two_machines",
    "python slurm/local_cluster.py": "tests/launch/slurm/test_on_slurm.py::test_the_demonstration",
    "export SLURM_CONF": "tests/launch/slurm/test_on_slurm.py::test_the_demonstration",
    "make slurm-demo": "tests/launch/slurm/test_on_slurm.py::test_the_demonstration",
    "wandb": "tests/trainer/reporting/test_wandb_sink.py::test_a_run_of_the_sweep_is_one_training_under_the_agents_id",
    "cd runs/quickstart && wandb sync": "tests/trainer/reporting/test_wandb_sink.py::"
    "test_an_offline_run_holds_every_record_and_goes_on_under_its_id",
    "pip install .": "tests/launch/test_packaging.py",
    "python tests/benchmarks/": "tests/test_readme.py::test_a_benchmark_knows_its_documented_options",
    "python -m tests.benchmarks.": "tests/test_readme.py::test_a_benchmark_knows_its_documented_options",
    "make": "tests/test_readme.py::test_a_documented_target_is_one_of_make",
    "DRAGOMAN_DATA=FOLDER": "tests/test_readme.py::test_a_documented_target_is_one_of_make",
    "scancel": "tests/launch/slurm/test_on_slurm.py::test_a_run_that_meets_everything_ends_as_if_nothing_had_happened",
}


def shell_lines(path: Path) -> list[str]:
    """The commands in the code blocks of a page or the comment of a recipe, continuations joined, comments removed."""
    text = re.sub(r"\\\n#?\s*", "", path.read_text())
    if path.suffix == ".yaml":
        return re.findall(r"^# {3,}(dragoman .*)$", text, flags=re.MULTILINE)
    blocks = re.findall(r"^```\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    lines = [re.sub(r"\s+# .*", "", line) for block in blocks for line in block.splitlines()]
    return [line for line in lines if re.match(r"[A-Za-z]+[ =]", line)]


def dragoman_commands(path: Path) -> list[str]:
    """From the word `dragoman` on, whatever feeds its input."""
    found = [re.search(r"(?:^|\| *|/)(dragoman [a-z].*)", line) for line in shell_lines(path)]
    return [match[1] for match in found if match]


def other_commands() -> list[str]:
    lines = {line for page in PAGES for line in shell_lines(page)}
    return sorted(line for line in lines if not re.search(r"(?:^|\| *|/)dragoman [a-z]", line))


def by_page(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [*PAGES, *RECIPES], ids=by_page)
def test_documented_commands_are_understood(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for line in dragoman_commands(path):
        words = shlex.split(re.sub(r" [<>] \S+", "", line))[1:]
        options, changes = build_parser().parse_known_args(words)
        assert all("=" in change for change in changes), line
        if "config" in options:
            load(options.config, [*options.changes, *changes])


def test_the_readme_names_every_command() -> None:
    subparsers = next(action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    text = (ROOT / "README.md").read_text()
    assert [name for name in subparsers.choices if not re.search(rf"`{name}`|dragoman {name} ", text)] == []


@pytest.mark.parametrize("path", [ROOT / "README.md", ROOT / "docs" / "training.md", *RECIPES], ids=by_page)
def test_a_page_for_users_has_commands(path: Path) -> None:
    assert dragoman_commands(path)


def configurations() -> list[str]:
    return [line for page in PAGES for line in dragoman_commands(page) if line.startswith("dragoman config ")]


@pytest.mark.parametrize("line", configurations())
def test_a_documented_command_that_is_quick_runs(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert main(shlex.split(line)[1:]) == 0


@pytest.mark.parametrize("line", other_commands())
def test_another_command_is_run_by_a_test(line: str) -> None:
    beginning = next((known for known in sorted(RUN_BY, key=len, reverse=True) if line.startswith(known)), None)
    assert beginning, f"no test is known to run {line!r}: write one and name it in RUN_BY"
    path, _, name = RUN_BY[beginning].partition("::")
    assert name in (ROOT / path).read_text(), f"{path} has no {name} any more: which test runs {line!r}?"


@pytest.mark.parametrize("line", [line for line in other_commands() if "tests" in line and "benchmarks" in line])
def test_a_benchmark_knows_its_documented_options(line: str) -> None:
    script, *options = re.sub(r"^python (-m )?", "", line).split()
    path = ROOT / (script if script.endswith(".py") else script.replace(".", "/") + ".py")
    missing = [word for word in options if word.startswith("--") and f'"{word}"' not in path.read_text()]
    assert missing == []


def test_a_documented_target_is_one_of_make() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = {target for page in PAGES for target in re.findall(r"\bmake ([a-z][a-z-]*)\b[`\n ]", page.read_text())}
    called = [".pre-commit-config.yaml", ".github/workflows/ci.yml", ".ci/run"]
    named |= {t for name in called for t in re.findall(r"\bmake ([a-z-]+)$", (ROOT / name).read_text(), re.MULTILINE)}
    in_code = {target for target in named if re.search(rf"^{target}:", makefile, re.MULTILINE)}
    assert {"test", "check", "lint", "demo", "install"} <= in_code
    in_blocks = {line.split()[1] for line in other_commands() if line.startswith("make ")}
    assert in_blocks <= in_code


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", path.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=by_page)
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        page = (path.parent / name) if name else path
        assert page.exists(), link
        assert not anchor or anchor in anchors(page), link


@pytest.mark.parametrize("path", [*PAGES, ROOT / "CHANGELOG.md"], ids=by_page)
def test_paths_exist(path: Path) -> None:
    folders = "|".join([*PACKAGES, "configs", "slurm", "tests", "docs"])
    words = re.findall(rf"`((?:{folders})/[\w./*-]*)`", path.read_text())
    assert [word for word in words if not list(ROOT.glob(word.rstrip("/")))] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_every_module_has_its_row_in_the_table_of_places() -> None:
    """CONTRIBUTING.md says where to look: a new module belongs there, under the heading of its folder."""
    place, named = "", set()
    for line in (ROOT / "CONTRIBUTING.md").read_text().splitlines():
        if heading := re.match(r"#+ `?([\w/]+)/`?", line):
            place = heading[1]
        elif line.startswith("| ") and place:
            named |= {f"{place}/{name}" for name in re.findall(r"`([\w/]+\.py)`", line)}
    modules = {by_page(path) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    new = sorted(module for module in modules - named if not module.endswith("/__init__.py"))
    gone = sorted(named - modules)
    assert not new, f"add to the table of places in CONTRIBUTING.md: {', '.join(new)}"
    assert not gone, f"CONTRIBUTING.md names modules that do not exist: {', '.join(gone)}"


def walk_of_the_code() -> list[tuple[str, str]]:
    """(file, function) of each station in reading-the-code.md."""
    text = (ROOT / "docs" / "reading-the-code.md").read_text()
    rows = re.findall(r"^\| (.*?) \| (.*?) \|", text, flags=re.MULTILINE)
    return [
        (file, name)
        for files, names in rows
        for file in re.findall(r"`([\w/.]+\.py)`", files)
        for name in re.findall(r"`([\w.]+)`", names)
    ]


@pytest.mark.parametrize("file", sorted({file for file, _ in walk_of_the_code()}))
def test_the_walks_through_the_code_meet_what_is_there(file: str) -> None:
    tree = ast.parse((ROOT / file).read_text())
    kinds = (ast.FunctionDef, ast.ClassDef)
    defined = {node.name for node in ast.walk(tree) if isinstance(node, kinds)}
    visited = {name.rpartition(".")[2] for other, name in walk_of_the_code() if other == file}
    assert sorted(visited - defined) == [], f"docs/reading-the-code.md names these of {file}"


@pytest.mark.slow
def test_the_way_from_training_to_a_score_by_the_documented_commands(tmp_path: Path) -> None:
    """`dragoman worker` under torchrun, then prepare (all there), average, translate and evaluate on what it left."""
    environment = os.environ | {
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }

    def run(*command: str, text: str | None = None) -> str:
        ended = subprocess.run(
            command, cwd=tmp_path, env=environment, input=text, capture_output=True, text=True,
            timeout=patience(240), check=False,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    config = str(ROOT / "configs" / "quickstart.yaml")
    changes = ["run.max_steps=4", "checkpoint.every_steps=2", "evaluation.max_sentences=4"]
    torchrun = shlex.split(next(line for line in other_commands() if line.startswith("torchrun --standalone")))
    run(*torchrun[:-1], config, *changes)
    assert "was there already" in run("dragoman", "prepare", config, *changes)
    run("dragoman", "average", "runs/quickstart", "--last", "2", "--output", "model")
    lines = run("dragoman", "translate", "model", text="Je suis étudiant.\n\nIl est ici.\n").split("\n")
    assert len(lines) == 4
    assert lines[1] == ""
    (tmp_path / "a.fr").write_text("Je suis étudiant.\n")
    (tmp_path / "a.en").write_text("I am a student.\n")
    assert run("dragoman", "evaluate", "model", "--source", "a.fr", "--reference", "a.en").startswith("BLEU ")
