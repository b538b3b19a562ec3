"""The documented commands for other launchers start the very training that `dragoman train` starts."""

import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.limits import patience
from tests.runs import Runs
from trainer.run_directory.watchdog import read_heartbeats

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
STEPS = 3
MACHINES = {"node1": "10.231.77.1", "node2": "10.231.77.2"}
AS_A_MACHINE = 'hostname "$0" && exec "$@"'


def documented(beginning: str) -> list[str]:
    """The documented command that begins with these words."""
    pages = sorted((ROOT / "docs").glob("*.md"))
    lines = [line for page in pages for line in page.read_text().splitlines() if line.startswith(beginning)]
    assert len(lines) == 1, lines
    return shlex.split(lines[0])


class Launches:
    """Runs the documented commands on a small configuration, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.runs = Runs(folder)
        # What a user has by activating the virtual environment in the clone.
        self.environment = self.runs.environment | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHONSAFEPATH": "1",
        }
        self.expected = self.runs.finished("expected", f"run.max_steps={STEPS}", "engine.kind=zero2", processes=2)

    def command(self, name: str, words: list[str], replaced: Mapping[str, str]) -> list[str]:
        """The documented words with this machine's paths and addresses, and the run's own settings at the end."""
        replaced = {"configs/multi30k_en_de.yaml": str(self.runs.config), **replaced}
        changes = self.runs.changes(name, f"run.max_steps={STEPS}")
        words = [replaced.get(word, str(ROOT / word) if word.startswith("configs/") else word) for word in words]
        return [*words, *changes]

    def assert_same_training(self, name: str) -> None:
        steps = self.runs.steps(name)
        assert [step["step"] for step in steps] == list(range(1, STEPS + 1))
        for found, wanted in zip(steps, self.expected, strict=True):
            for key in ("loss", "nll", "grad_norm"):
                assert found[key] == pytest.approx(wanted[key], rel=1e-5, abs=0), (found["step"], key)


@pytest.fixture(scope="module")
def launches(tmp_path_factory: pytest.TempPathFactory) -> Launches:
    return Launches(tmp_path_factory.mktemp("launches"))


def end(process: "subprocess.Popen[str]") -> str:
    """Waits for the end, or kills it if it hangs. Returns its output. Asserts that it succeeded."""
    try:
        output, _ = process.communicate(timeout=patience(200))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def start(command: list[str], environment: Mapping[str, str], folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["ddp", "zero2", "zero3"])
def test_accelerate_launch(launches: Launches, kind: str) -> None:
    words = documented(f"accelerate launch --config_file configs/accelerate/{kind}.yaml")
    command = launches.command(f"accelerate-{kind}", words, {})
    end(start(command, launches.environment, launches.runs.folder))
    launches.assert_same_training(f"accelerate-{kind}")


def test_an_engine_that_accelerate_was_not_told_is_refused(launches: Launches) -> None:
    words = documented("accelerate launch --config_file configs/accelerate/zero2.yaml")
    words[2:2] = ["--num_processes", "1"]
    command = launches.command("refused", words, {"engine.kind=zero2": "engine.kind=ddp"})
    ended = subprocess.run(
        command, env=launches.environment, cwd=launches.runs.folder, capture_output=True, text=True, check=False
    )
    assert ended.returncode != 0
    assert "asks for DeepSpeed's ZeRO stage 2, but `engine.kind` is ddp" in ended.stderr
    assert not (launches.runs.folder / "refused").exists()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def listens(address: str, port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((address, port)) == 0


@contextmanager
def ssh_server(folder: Path) -> Iterator[tuple[int, Path]]:
    """A server for this user alone, on 127.0.0.1 and 127.0.0.2: its port, and the client's configuration."""
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if sshd is None or shutil.which("pdsh") is None or shutil.which("ssh") is None:
        pytest.skip("`deepspeed --hostfile` was not run: it needs `apt-get install openssh-server pdsh`")
    port = free_port()
    for name in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nListenAddress 127.0.0.2\nHostKey {folder}/host_key\nStrictModes no\n"
        f"AuthorizedKeysFile {folder}/user_key.pub\nPasswordAuthentication no\nUsePAM no\nPidFile none\n"
        "PermitRootLogin yes\n"
    )
    (folder / "ssh_config").write_text(
        f"IdentityFile {folder}/user_key\nIdentitiesOnly yes\nStrictHostKeyChecking no\nUserKnownHostsFile /dev/null\n"
        "LogLevel ERROR\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    server = subprocess.Popen([sshd, "-D", "-e", "-f", folder / "sshd_config"], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + patience(30)
        while not listens("127.0.0.2", port):
            assert server.poll() is None, "sshd has ended"
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield port, folder / "ssh_config"
    finally:
        server.terminate()
        server.wait()


def test_deepspeed_with_a_hostfile(launches: Launches, tmp_path: Path) -> None:
    """Two machines that are this one, reached by ssh under two addresses."""
    (tmp_path / "hostfile").write_text("127.0.0.1 slots=1\n127.0.0.2 slots=1\n")
    needed = ("OMP_NUM_THREADS", "DS_ACCELERATOR", "CUDA_VISIBLE_DEVICES")
    (tmp_path / ".deepspeed_env").write_text("".join(f"{key}={launches.environment[key]}\n" for key in needed))
    with ssh_server(tmp_path) as (port, client):
        words = documented("deepspeed --hostfile hostfile")
        # Its own check and search for an address take no configuration of ssh.
        words[1:1] = ["--ssh_port", f"{port}", "--no_ssh_check", "--master_addr", "127.0.0.1"]
        words[1:1] = ["--master_port", f"{free_port()}"]
        environment = launches.environment | {"PDSH_SSH_ARGS_APPEND": f"-F {client}"}
        output = end(start(launches.command("hostfile", words, {}), environment, tmp_path))
    assert "127.0.0.2: " in output  # as pdsh marks what a machine says
    launches.assert_same_training("hostfile")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextmanager
def two_machines() -> Iterator[dict[str, list[str]]]:
    """By the name of a machine, the words that run a command on it.

    Each is a network namespace with an address, a hostname and a file of hosts of its own; they share the files.
    """
    told = "torchrun on two machines was not run: network namespaces need root and `apt-get install iproute2`"
    if shutil.which("ip") is None:
        pytest.skip(told)
    links = {name: f"dm{os.getpid()}{name[-1]}" for name in MACHINES}
    hosts = {name: Path("/etc/netns") / links[name] / "hosts" for name in MACHINES}
    try:
        try:
            for link in links.values():
                _ip("netns", "add", link)
            one, two = links.values()
            _ip("link", "add", one, "netns", one, "type", "veth", "peer", "name", two, "netns", two)
        except subprocess.CalledProcessError:
            pytest.skip(told)
        for name, link in links.items():
            hosts[name].parent.mkdir(parents=True)
            known = [f"{address} {machine}" for machine, address in MACHINES.items()]
            hosts[name].write_text("\n".join(["127.0.0.1 localhost", *known, ""]))
            _ip("-n", link, "addr", "add", f"{MACHINES[name]}/24", "dev", link)
            for device in (link, "lo"):
                _ip("-n", link, "link", "set", device, "up")
        yield {
            name: ["ip", "netns", "exec", link, "unshare", "--uts", "sh", "-c", AS_A_MACHINE, name]
            for name, link in links.items()
        }
    finally:
        for name, link in links.items():
            subprocess.run(["ip", "netns", "del", link], capture_output=True, check=False)
            shutil.rmtree(hosts[name].parent, ignore_errors=True)
        with suppress(OSError):  # another's may be in it
            Path("/etc/netns").rmdir()


def test_torchrun_on_two_machines(launches: Launches, tmp_path: Path) -> None:
    """What one of them listens to on its loopback the other cannot reach."""
    command = launches.command("rendezvous", documented("torchrun --nnodes 2"), {})
    with two_machines() as machines:
        started = [start([*prefix, *command], launches.environment, tmp_path) for prefix in machines.values()]
        try:
            for process in started:
                end(process)
        finally:
            for process in started:
                if process.poll() is None:
                    os.killpg(process.pid, 9)
                    process.communicate()
    launches.assert_same_training("rendezvous")
    beats = read_heartbeats(launches.runs.folder / "rendezvous")
    assert {beat["host"] for beat in beats.values()} == set(MACHINES)
