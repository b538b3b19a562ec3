"""What a wheel holds: everything that the commands read, and a console script that the user cannot shadow."""

import configparser
import shutil
import subprocess
import sys
import zipfile

import pytest

from launch import HOME, PACKAGES

BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel of the working tree, built in a copy, because building writes into the source folder."""
    folder = tmp_path_factory.mktemp("wheel")
    for package in PACKAGES:
        shutil.copytree(HOME / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "dragoman_script.py"):
        shutil.copy(HOME / name, folder)
    built = subprocess.run([sys.executable, "-c", BUILD, "."], cwd=folder, capture_output=True, text=True, check=True)
    return zipfile.ZipFile(folder / built.stdout.splitlines()[-1])


def test_a_wheel_has_every_file_of_the_packages(wheel: zipfile.ZipFile) -> None:
    files = {path for package in PACKAGES for path in (HOME / package).rglob("*") if path.is_file()}
    ours = {str(path.relative_to(HOME)) for path in files if "__pycache__" not in path.parts}
    assert {"launch/slurm/profiles/gres.yaml", "launch/accelerate/zero2.yaml"} <= ours
    assert ours - set(wheel.namelist()) == set()


def test_the_console_script_has_a_name_of_its_own(wheel: zipfile.ZipFile) -> None:
    scripts = configparser.ConfigParser()
    (entry_points,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    scripts.read_string(wheel.read(entry_points).decode())
    assert dict(scripts["console_scripts"]) == {"dragoman": "dragoman_script:main"}
    assert "dragoman_script.py" in wheel.namelist()


@pytest.mark.parametrize(
    ("shown", "source"), [("slurm/profiles", "launch/slurm/profiles"), ("configs/accelerate", "launch/accelerate")]
)
def test_the_folders_that_people_look_into_are_the_packages(shown: str, source: str) -> None:
    if not (HOME / ".git").exists():
        pytest.skip("this is no clone: the folders outside the packages were not looked at")
    assert (HOME / shown).resolve() == HOME / source
