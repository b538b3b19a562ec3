"""The laws of the house (CONTRIBUTING.md), checked on the imports of every module and of all that it imports."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("launch", "trainer", "model")
ONE_DOOR = ("accelerate", "deepspeed", "datasets", "fsspec", "sentencepiece", "wandb", "sacrebleu", "yaml", "pydantic")
TOP_LEVEL = {
    *PACKAGES, "configs", "slurm", "tests", "docs", "dragoman_script.py", "pyproject.toml", "README.md",
    "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "Makefile", "constraints.txt", ".ci", ".github", ".gitignore",
    ".pre-commit-config.yaml",
}  # fmt: skip
BANNED_NAMES = {"utils.py", "helpers.py", "common.py", "misc.py"}

# From the bottom to the top. A package may import itself and those below it, directly or through others.
TOWER = (
    "trainer.errors",
    "trainer.files",
    "trainer.configuration",
    "trainer.run_directory",
    "trainer.reporting",
    "trainer.checkpoints",
    "trainer.inference",
    "trainer.training",
    "trainer.run",
    "launch",
)
# What stands below `trainer.configuration`, next to each other, each with all that it may reach.
GROUND = {
    "model": ("model",),
    "trainer.errors": ("trainer.errors",),
    "trainer.files": ("trainer.files", "trainer.errors"),
    "trainer.data": ("trainer.data", "trainer.errors", "trainer.files", "model.batch"),
    "trainer.engine": ("trainer.engine", "trainer.errors", "trainer.files"),
}
ALLOWED = {
    package: (*GROUND, *TOWER[: level + 1])
    for level, package in enumerate(TOWER)
    if package not in GROUND
} | GROUND  # fmt: skip
# Inside `trainer.data`: each with what it may reach of the others.
_TEXT = ("trainer.data.config", "trainer.data.text", "trainer.data.order")
ROOMS_OF_DATA = {
    "trainer.data.text": _TEXT,
    "trainer.data.order": _TEXT,
    "trainer.data.corpora": ("trainer.data.corpora", "trainer.data.config", "trainer.data.printable"),
    "trainer.data.stores": ("trainer.data.stores", *_TEXT),
}
NEVER = {
    "trainer.data.preparation": ("trainer.data.feeding", "trainer.data.inspection"),
    "trainer.data.feeding": ("trainer.data.corpora", "trainer.data.preparation", "trainer.data.inspection"),
}
WITHOUT_TORCH = (
    "trainer.errors", "trainer.files", "trainer.configuration", "trainer.run_directory",
    "launch.cli", "launch.watching.status_text", "launch.watching.logs", "launch.slurm",
)  # fmt: skip
STANDARD_LIBRARY_ALONE = ("launch.slurm.requeue", "trainer.errors", "trainer.files", "trainer.run_directory.layout")


@functools.cache
def sources() -> dict[str, Path]:
    """Every module of ours by its dotted name."""
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return {module_name(path): path for path in sorted(paths)}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def imports(module: str, at_once: bool = False) -> frozenset[str]:
    """Dotted names that a module imports anywhere in it, or only those that come with importing it (`at_once`).

    `from a import b` counts as `a` and `a.b`.
    """
    tree = ast.parse(sources()[module].read_text())
    found: set[str] = set()
    for node in _run_when_imported(tree) if at_once else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def _run_when_imported(node: ast.AST) -> list[ast.AST]:
    """Every node but those in functions and under `if TYPE_CHECKING`."""
    found = [node]
    for child in ast.iter_child_nodes(node):
        is_later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if not is_later and not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            found += _run_when_imported(child)
    return found


@functools.cache
def reached(module: str, at_once: bool = False) -> dict[str, str]:
    """All modules that importing one brings, itself included; each with the module that imports it."""
    found, waiting = {module: "a test"}, [module]
    while waiting:
        name = waiting.pop()
        for other in sorted(_modules_of(imports(name, at_once)) - set(found)):
            found[other] = name
            waiting.append(other)
    return found


def _modules_of(names: frozenset[str]) -> set[str]:
    """The modules of ours among imported names; `a.b` brings the package `a` as well."""
    parents = {name.rpartition(".")[0] for name in names}
    return {name for name in names | parents if name in sources()}


def within(name: str, packages: str | tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in _as_tuple(packages))


def _as_tuple(packages: str | tuple[str, ...]) -> tuple[str, ...]:
    return (packages,) if isinstance(packages, str) else packages


def package_markers(name: str) -> bool:
    """Whether a module is the `__init__` of a package that only holds others: importing it brings nothing else."""
    return sources()[name].name == "__init__.py" and not _modules_of(imports(name)) - {name}


@pytest.mark.parametrize(("package", "allowed"), ALLOWED.items())
def test_a_package_reaches_only_what_stands_below_it(package: str, allowed: tuple[str, ...]) -> None:
    checked = 0
    for module in sources():
        if within(module, package):
            checked += 1
            wrong = {other: via for other, via in reached(module).items() if not within(other, allowed)}
            wrong = {other: via for other, via in wrong.items() if not package_markers(other)}
            assert not wrong, f"{module} reaches {wrong} (module: imported by)"
    assert checked, f"{package} is empty: this law holds for nothing"


def test_every_module_stands_somewhere_in_the_tower() -> None:
    known = (*ALLOWED, "trainer.__init__")
    assert [module for module in sources() if module != "trainer" and not within(module, known)] == []


@pytest.mark.parametrize(("room", "allowed"), ROOMS_OF_DATA.items())
def test_the_rooms_of_data_reach_only_their_neighbours_below(room: str, allowed: tuple[str, ...]) -> None:
    for module in sources():
        if within(module, room):
            inside = {n: via for n, via in reached(module).items() if within(n, "trainer.data")}
            wrong = [n for n in inside if not within(n, allowed) and not package_markers(n)]
            assert not wrong, f"{module} reaches {wrong} by {inside[wrong[0]]}"


@pytest.mark.parametrize(("room", "forbidden"), NEVER.items())
def test_feeding_and_preparation_do_not_know_each_other(room: str, forbidden: tuple[str, ...]) -> None:
    for module in sources():
        if within(module, room):
            assert not [name for name in reached(module) if within(name, forbidden)], module


@pytest.mark.parametrize("package", WITHOUT_TORCH)
def test_what_looks_at_a_run_needs_no_torch(package: str) -> None:
    for module in sources():
        if within(module, package):
            for name, via in reached(module, at_once=True).items():
                assert not any(within(n, "torch") for n in imports(name, at_once=True)), f"{module}: {name} ({via})"


@pytest.mark.parametrize("module", STANDARD_LIBRARY_ALONE)
def test_what_runs_outside_the_environment_needs_the_standard_library_alone(module: str) -> None:
    for name, via in reached(module, at_once=True).items():
        foreign = {n.split(".")[0] for n in imports(name, at_once=True)} - set(PACKAGES) - sys.stdlib_module_names
        assert not foreign, f"{module} needs {foreign} by {name} ({via})"


def test_model_imports_torch_and_the_standard_library_only() -> None:
    allowed = {"torch", "model", *sys.stdlib_module_names}
    for module in sources():
        if within(module, "model"):
            assert {name.split(".")[0] for name in imports(module)} <= allowed, module


@pytest.mark.parametrize("library", ONE_DOOR)
def test_a_library_enters_through_one_file(library: str) -> None:
    doors = [module for module in sources() if any(within(name, library) for name in imports(module))]
    assert len(doors) == 1, f"{library} is imported by {doors}"


def test_torch_distributed_stays_behind_the_engine() -> None:
    for module in sources():
        if not within(module, "trainer.engine"):
            assert not any(within(name, "torch.distributed") for name in imports(module)), module


def test_one_file_names_the_concrete_classes_together() -> None:
    """Only `trainer.run` creates an engine."""
    users = {module for module in sources() if "trainer.engine.create_engine" in imports(module)}
    assert users == {"trainer.run"}


def test_no_import_cycle() -> None:
    graph = {module: {n for n in imports(module) if n in sources()} - {module} for module in sources()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail, name])
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_nothing_else_at_the_top_level() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {line.split("/")[0] for line in listed.splitlines()} <= TOP_LEVEL


def test_names_say_what_is_inside() -> None:
    assert not [path for path in sources().values() if path.name in BANNED_NAMES]
