"""The laws of the house (CONTRIBUTING.md), read off the imports of every module."""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("launch", "trainer", "model")
ONE_DOOR = ("accelerate", "deepspeed", "datasets", "fsspec", "sentencepiece", "wandb", "sacrebleu", "yaml", "pydantic")
TOP_LEVEL = {
    "dragoman_script.py",
    *PACKAGES, "configs", "slurm", "docs", "tests", ".ci", ".github", ".pre-commit-config.yaml", "pyproject.toml",
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "Makefile", "constraints.txt", ".gitignore",
}  # fmt: skip
BANNED_NAMES = {"utils.py", "helpers.py", "common.py", "misc.py"}


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def imports(path: Path) -> frozenset[str]:
    """Dotted names a file imports anywhere in it; `from a import b` counts as `a` and `a.b`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("model", ("trainer", "launch")),
        ("trainer", ("launch",)),
        ("trainer.data", ("trainer.engine", "trainer.configuration.sections", "launch")),
        ("trainer.data.corpora", ("trainer.data.preparation", "trainer.data.feeding", "trainer.data.inspection")),
        ("trainer.data.preparation", ("trainer.data.feeding", "trainer.data.inspection", "torch")),
        ("trainer.data.feeding", ("trainer.data.corpora", "trainer.data.preparation", "trainer.data.inspection")),
        ("trainer.engine", ("trainer.data", "trainer.configuration.sections", "launch")),
    ],
)
def test_imports_go_downward(package: str, forbidden: tuple[str, ...]) -> None:
    for path in sources():
        if within(module_name(path), package):
            wrong = [name for name in imports(path) for other in forbidden if within(name, other)]
            assert not wrong, f"{path} imports {wrong}"


def test_model_imports_torch_and_the_standard_library_only() -> None:
    import sys

    allowed = {"torch", "model", *sys.stdlib_module_names}
    for path in sources():
        if within(module_name(path), "model"):
            assert {name.split(".")[0] for name in imports(path)} <= allowed, path


@pytest.mark.parametrize("library", ONE_DOOR)
def test_a_library_enters_through_one_file(library: str) -> None:
    doors = [str(path.relative_to(ROOT)) for path in sources() if any(within(n, library) for n in imports(path))]
    assert len(doors) == 1, f"{library} is imported by {doors}"


def test_torch_distributed_stays_behind_the_engine() -> None:
    for path in sources():
        if not within(module_name(path), "trainer.engine"):
            assert not any(within(name, "torch.distributed") for name in imports(path)), path


def test_no_import_cycle() -> None:
    modules = {module_name(path): path for path in sources()}
    graph = {name: {other for other in imports(path) if other in modules} for name, path in modules.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail, name])
        if name not in done:
            for other in sorted(graph[name] - {name}):
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_nothing_else_at_the_top_level() -> None:
    import subprocess

    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {line.split("/")[0] for line in listed.splitlines()} <= TOP_LEVEL


def test_names_say_what_is_inside() -> None:
    assert not [path for path in sources() if path.name in BANNED_NAMES]
