"""The user's modules called `launch`, `model`, `trainer` or `tests` are never imported in place of ours."""

import subprocess
import sys
from pathlib import Path

import pytest

import launch
from launch import HOME

QUICKSTART = str(HOME / "configs" / "quickstart.yaml")


@pytest.fixture
def users_folder(tmp_path: Path) -> Path:
    """A folder with modules that say that they are the wrong ones."""
    folder = tmp_path / "user"
    for name in ("launch.py", "model.py", "tests.py", "trainer/__init__.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("raise RuntimeError('the wrong module')")
    return folder


def arranged(entries: list[str], monkeypatch: pytest.MonkeyPatch, argv: str = "dragoman") -> list[str]:
    monkeypatch.setattr(sys, "argv", [argv])
    monkeypatch.setattr(sys, "path", entries)
    launch._put_our_packages_first(safe_path=False)
    return sys.path


def test_other_modules_of_our_names_come_after_ours(users_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user, home, library = str(users_folder), str(HOME), str(Path(subprocess.__file__).parent)
    assert arranged([user, library, home], monkeypatch) == [library, home, user]
    assert arranged([user, library], monkeypatch) == [home, user, library]
    assert arranged([library, home, user], monkeypatch) == [library, home, user]


def test_a_folder_without_modules_of_our_names_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()  # of weights, say
    assert arranged([str(tmp_path), str(HOME)], monkeypatch) == [str(tmp_path), str(HOME)]


def test_python_m_looks_for_libraries_in_the_current_folder_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert arranged([str(tmp_path), str(HOME)], monkeypatch, argv="-m") == [str(HOME)]
    assert arranged([str(HOME), "/library"], monkeypatch, argv="-m") == [str(HOME), "/library"]


def test_the_command_finds_ours_beside_the_users(users_folder: Path) -> None:
    """As the console script imports it; PYTHONPATH and the current folder hold the user's modules."""
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{users_folder}:{HOME}"}
    command = [sys.executable, "-m", "dragoman_script", "config", QUICKSTART, "run.seed=7"]
    ended = subprocess.run(command, cwd=users_folder, env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "seed: 7" in ended.stdout
