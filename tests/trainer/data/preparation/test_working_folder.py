import subprocess
import sys
from pathlib import Path

import pytest

from trainer.data.preparation.working_folder import working_folder
from trainer.errors import Unavailable, UserError

# Counts in a file, which only works where no two processes do it at once; after each holder the folder is gone.
COUNT = """
import sys, time
from pathlib import Path
from trainer.data.preparation.working_folder import working_folder
folder, counter = Path(sys.argv[1]), Path(sys.argv[2])
print(flush=True)
sys.stdin.read()  # until all have started
for _ in range(100):
    with working_folder(folder):
        assert not (folder / "part").exists()
        (folder / "part").touch()
        number = int(counter.read_text())
        time.sleep(0.002)
        counter.write_text(str(number + 1))
"""


def _fail_in(folder: Path, failure: type[BaseException]) -> None:
    with working_folder(folder):
        (folder / "part").touch()
        (folder / ".tmp-part").touch()
        raise failure("on purpose")


def test_it_is_gone_after_the_work_and_after_a_users_mistake(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / ".parts"
    with working_folder(folder):
        (folder / "part").touch()
    with pytest.raises(UserError):
        _fail_in(folder, UserError)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("failure", [OSError, KeyboardInterrupt, Unavailable])
def test_after_other_failures_what_is_finished_stays(tmp_path: Path, failure: type[BaseException]) -> None:
    folder = tmp_path / ".parts"
    with pytest.raises(failure):
        _fail_in(folder, failure)
    with working_folder(folder):
        assert (folder / "part").exists()
        assert not (folder / ".tmp-part").exists()


@pytest.mark.slow
def test_processes_take_turns(tmp_path: Path) -> None:
    (tmp_path / "counter").write_text("0")
    command = [sys.executable, "-c", COUNT, str(tmp_path / ".parts"), str(tmp_path / "counter")]
    root = Path(__file__).parents[4]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, cwd=root, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    messages = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], messages
    assert (tmp_path / "counter").read_text() == "300"
    assert "waiting for another process" in "".join(messages)
