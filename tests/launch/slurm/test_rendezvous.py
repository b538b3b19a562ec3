"""The port at which the processes of a job meet."""

import json
import socket
from pathlib import Path

import pytest

from launch.slurm import rendezvous
from launch.slurm.rendezvous import find_port
from launch.worker_failures import OUTCOMES_FOLDER
from trainer.errors import UserError

LOCAL = "127.0.0.1"


def test_each_restart_has_another_port_outside_the_ephemeral_range() -> None:
    ports = [find_port(LOCAL, job=4711, restart=restart) for restart in range(5)]
    ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert len(set(ports)) == len(ports)
    assert all(rendezvous._LOWEST <= port < ephemeral for port in ports)


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, ""), (socket.AF_INET, LOCAL), (socket.AF_INET6, "::")])
def test_a_port_that_is_taken_is_passed_over(family: socket.AddressFamily, host: str) -> None:
    taken = find_port(LOCAL, job=7, restart=0)
    try:
        listener = socket.create_server((host, taken), family=family)
    except OSError as error:
        pytest.skip(f"this machine cannot listen there: {error}")
    with listener:
        assert find_port(LOCAL, job=7, restart=0) != taken


def test_where_nearly_every_port_is_ephemeral_there_is_still_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "range").write_text("1024\t65535\n")
    monkeypatch.setattr(rendezvous, "_EPHEMERAL", tmp_path / "range")
    assert find_port(LOCAL, job=7, restart=0) > 0


@pytest.mark.parametrize("address", ["no-such-host.invalid", "192.0.2.1"])
def test_an_address_that_does_not_lead_to_the_node_is_one_sentence(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the end of the job is decided."""
    monkeypatch.setattr(rendezvous, "_SECONDS_TO_CONNECT", 0.2)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv(OUTCOMES_FOLDER, str(tmp_path))
    monkeypatch.setattr("sys.argv", ["rendezvous", address])
    assert rendezvous.main() == 75
    errors = capsys.readouterr().err
    assert errors.startswith(f"dragoman: the processes of this job cannot meet at {address}:")
    assert errors.count("\n") == 1
    (outcome,) = tmp_path.iterdir()
    assert json.loads(outcome.read_text())["message"] == errors.strip()


def test_no_free_port_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(port: int) -> list[socket.socket]:
        raise OSError

    monkeypatch.setattr(rendezvous, "_listen", taken)
    with pytest.raises(UserError, match="no port is free on"):
        find_port(LOCAL, job=7, restart=0)
