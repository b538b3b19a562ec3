import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.limits import patience
from tests.offline_wandb import history, wandb_records
from trainer.configuration.sections import WandbConfig
from trainer.reporting.background_tracker import BackgroundTracker, NoTracker
from trainer.reporting.charts import chart_values
from trainer.reporting.metrics_file import read_metrics
from trainer.reporting.wandb_sink import create_wandb_tracker, resolve_mode, with_environment
from trainer.run_directory.layout import metrics_path
from trainer.run_directory.stop_reason import RunOutcome

TRAIN = {"kind": "train", "step": 3, "target_tokens": 900, "loss": 2.5, "skipped": False, "note": "text"}
VALID = {"kind": "valid", "step": 3, "name": "val", "bleu": 30.5, "nll": None}


class RecordingSink:
    """A sink that fails or blocks in the methods that are named."""

    def __init__(self, fails: tuple[str, ...] = (), blocks: tuple[str, ...] = ()) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.fails, self.blocks = fails, blocks
        self.unblocked = threading.Event()

    def _call(self, name: str, argument: Any = None) -> None:
        self.calls.append((name, argument))
        if name in self.blocks:
            assert self.unblocked.wait(20)
            raise ConnectionResetError("gone")
        if name in self.fails:
            raise RuntimeError(f"{name} fails")

    def open(self) -> None:
        self._call("open")

    def write(self, record: Any) -> None:
        self._call("write", record)

    def finish(self, outcome: RunOutcome) -> None:
        self._call("finish", outcome)

    def confirm(self) -> None:
        self._call("confirm")

    def release(self) -> None:
        self._call("release")

    def abandon(self) -> None:
        self.unblocked.set()


@pytest.fixture
def uncaught(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Exceptions that escape a thread."""
    escaped: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", escaped.append)
    return escaped


def test_records_arrive_in_order_and_the_outcome_last() -> None:
    messages: list[str] = []
    sink = RecordingSink()
    tracker = BackgroundTracker(sink, messages.append)
    for step in range(100):
        tracker.log({"step": step})
    tracker.close(RunOutcome.INTERRUPTED)
    writes = [("write", {"step": step}) for step in range(100)]
    assert sink.calls == [
        ("open", None),
        *writes,
        ("finish", RunOutcome.INTERRUPTED),
        ("confirm", None),
        ("release", None),
    ]
    assert messages == []


@pytest.mark.parametrize("fails", [("open",), ("write",), ("finish",), ("finish", "release"), ("open", "release")])
def test_what_fails_is_messages_once_and_never_escapes(fails: tuple[str, ...], uncaught: list[Any]) -> None:
    messages: list[str] = []
    sink = RecordingSink(fails)
    tracker = BackgroundTracker(sink, messages.append, max_errors=3)
    for step in range(20):
        tracker.log({"step": step})
    tracker.close(RunOutcome.FINISHED)
    tracker.log({"step": 21})
    assert uncaught == []
    assert len(messages) == 1
    assert f"{fails[0]} fails" in messages[0]
    assert sink.calls[-1] == ("release", None)
    if fails == ("write",):
        assert [name for name, _ in sink.calls].count("write") == 3


@pytest.mark.parametrize("blocks", ["open", "write", "finish"])
def test_a_sink_that_stands_still_is_left_behind(blocks: str, uncaught: list[Any]) -> None:
    messages: list[str] = []
    sink = RecordingSink(blocks=(blocks,))
    tracker = BackgroundTracker(sink, messages.append, close_seconds=0.5, queue_size=10)
    tracker.log({"step": 0})
    start = time.monotonic()
    tracker.close(RunOutcome.FINISHED)
    assert 0.5 <= time.monotonic() - start < 2
    assert len(messages) == 1
    assert "abandoned" in messages[0]
    assert sink.calls[-1] == ("release", None)
    assert uncaught == []


def test_a_full_queue_drops_and_says_how_many() -> None:
    messages: list[str] = []
    sink = RecordingSink(blocks=("open",))
    tracker = BackgroundTracker(sink, messages.append, close_seconds=0.3, queue_size=10)
    for step in range(50):
        tracker.log({"step": step})
    tracker.close(RunOutcome.FINISHED)
    assert "40 records" in messages[-1]
    assert ("confirm", None) not in sink.calls


def test_numbers_are_grouped_and_the_axes_bare() -> None:
    assert chart_values(TRAIN) == {"step": 3, "target_tokens": 900, "train/loss": 2.5, "train/skipped": False}
    consumed = {"phrasebook": {"pairs": 5, "passes": 0.25, "rejected": {"copy": 1}}}
    assert chart_values(TRAIN | {"data": consumed}) == chart_values(TRAIN) | {
        "data/phrasebook/pairs": 5, "data/phrasebook/passes": 0.25, "data/phrasebook/rejected/copy": 1
    }  # fmt: skip
    assert chart_values(VALID) == {"step": 3, "valid/val/bleu": 30.5}
    assert chart_values({"kind": "event", "step": 3, "event": "rolled back"}) == {"step": 3, "event/rolled_back": 1}


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The path at which a netrc file would be found."""
    for name in os.environ:
        if name.startswith("WANDB_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return tmp_path / "netrc"


def test_auto_is_online_only_with_a_key(no_credentials: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_mode("auto") == "offline"
    no_credentials.write_text("machine example.org login user password secret\n")
    assert resolve_mode("auto") == "offline"
    no_credentials.write_text("machine api.wandb.ai login user password secret\n")
    assert resolve_mode("auto") == "online"
    no_credentials.write_bytes(b"\xff\xfe garbage")
    assert resolve_mode("auto") == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert resolve_mode("auto") == "online"
    assert resolve_mode("disabled") == "disabled"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert resolve_mode("auto") == "disabled"
    assert resolve_mode("offline") == "offline"


@pytest.mark.parametrize(
    ("variable", "value", "mode"),
    [
        ("WANDB_MODE", "dryrun", "offline"), ("WANDB_MODE", "run", "online"), ("WANDB_MODE", "Disabled", "disabled"),
        ("WANDB_DISABLED", "true", "disabled"), ("WANDB_DISABLED", "1", "disabled"),
        ("WANDB_DISABLED", "false", "offline"),
        ("WANDB_MODE", "unheard of", "offline"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("no_credentials")
def test_auto_follows_every_way_to_say_it(
    variable: str, value: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    assert resolve_mode("auto") == mode
    assert resolve_mode("online") == "online", "the configuration comes first"


@pytest.mark.usefixtures("no_credentials")
def test_names_come_from_the_configuration_or_else_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Path("runs/first")
    assert with_environment(WandbConfig(), run) == WandbConfig(project="dragoman", entity=None, name="first")
    for name in ("PROJECT", "ENTITY", "NAME"):
        monkeypatch.setenv(f"WANDB_{name}", name.lower())
    assert with_environment(WandbConfig(), run) == WandbConfig(project="project", entity="entity", name="name")
    chosen = WandbConfig(project="p", entity="e", name="n")
    assert with_environment(chosen, run) == chosen
    monkeypatch.setenv("WANDB_PROJECT", "")
    assert with_environment(WandbConfig(), run).project == "dragoman"


def test_disabled_starts_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    tracker = create_wandb_tracker(tmp_path, WandbConfig(mode="disabled"), {}, print)
    assert isinstance(tracker, NoTracker)
    assert threading.active_count() == before
    tracker.log(TRAIN)
    tracker.close(RunOutcome.FINISHED)
    assert list(tmp_path.iterdir()) == []


# Everything below runs `wandb` for real, in a process of its own: how long that process takes to end counts too.

PROGRAM = """
import json, sys, time
from pathlib import Path
from trainer.reporting.background_tracker import BackgroundTracker
from trainer.configuration.sections import WandbConfig
from trainer.reporting.wandb_sink import WandbSink
from trainer.run_directory.stop_reason import RunOutcome

def note(**values):
    print(json.dumps(values), flush=True)

def child():
    return [int(pid) for t in Path("/proc/self/task").iterdir() for pid in (t / "children").read_text().split()][0]

run, mode, close_seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
tell = lambda text: note(messages=text)
config = {"model": {"d_model": 8}}
sink = WandbSink(run, WandbConfig(), config, online=mode == "online", notify=tell, init_seconds=3)
tracker = BackgroundTracker(sink, tell, close_seconds=close_seconds)
durations = []
def log(step):
    before = time.perf_counter()
    tracker.log({"kind": "train", "step": step, "loss": step / 2})
    durations.append(time.perf_counter() - before)
def close(outcome):
    start = time.monotonic()
    tracker.close(RunOutcome(outcome))
    # Not the very slowest: on a busy machine the scheduler may take any one of them aside.
    note(closing=time.monotonic() - start, slow_log=sorted(durations)[-1 - len(durations) // 20])
"""


class Outcome:
    """What a program printed (its `note`s, merged; all it messages), and how long it lived, in seconds."""

    def __init__(self, run: Path, body: str, mode: str = "offline", close_seconds: float = 30, **environ: str) -> None:
        run.mkdir(exist_ok=True)
        program = PROGRAM + body
        kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
        command = [sys.executable, "-c", program, str(run), mode, str(close_seconds)]
        start = time.monotonic()
        done = subprocess.run(
            command, env=kept | environ, capture_output=True, text=True, timeout=patience(120), stdin=subprocess.DEVNULL
        )
        self.seconds = time.monotonic() - start
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        notes = [json.loads(line) for line in done.stdout.splitlines()]
        self.messages = [note["messages"] for note in notes if "messages" in note]
        self.notes = {key: value for note in notes for key, value in note.items()}


LOG_AND_FINISH = "for step in range({}): log(step); time.sleep(0.001)\nclose('finished')"


SIGNALS = f"""
import os
while not list(run.glob("wandb/offline-run-*/*.wandb")): time.sleep(0.05)
for number in ({int(signal.SIGUSR1)}, {int(signal.SIGXCPU)}): os.kill(child(), number)
"""


@pytest.mark.slow
def test_an_offline_run_holds_every_record_and_goes_on_under_its_id(tmp_path: Path) -> None:
    run = tmp_path / "run"
    # A batch system warns every process of a job: W&B's own survives that.
    outcome = Outcome(run, SIGNALS + LOG_AND_FINISH.format(900))
    assert not any("W&B is off" in line for line in outcome.messages)
    assert history(run) == [{"step": step, "train/loss": step / 2} for step in range(900)]
    assert any(f"cd {run} && wandb sync" in line for line in outcome.messages)
    run_id = (run / "wandb_id").read_text().strip()
    Outcome(run, LOG_AND_FINISH.format(5).replace("finished", "interrupted"))
    pieces = sorted(run.glob("wandb/offline-run-*/*.wandb"))
    assert [path.stem for path in pieces] == [f"run-{run_id}"] * 2
    assert len(history(run)) == 905
    configs = [r.run.config.update for p in pieces for r in wandb_records(p) if r.WhichOneof("record_type") == "run"]
    assert all(json.loads({i.key: i.value_json for i in c}["model"]) == {"d_model": 8} for c in configs)


# As the loop does it: a line in metrics.jsonl, then the same record to the tracker.
RECORD = """
import os, signal
from trainer.reporting.metrics_file import MetricsFile
from trainer.run_directory.layout import metrics_path
metrics = MetricsFile(metrics_path(run))
def record(step):
    line = {"kind": "train", "step": step, "target_tokens": 30 * step, "loss": step / 2}
    metrics.write(line)
    before = time.perf_counter()
    tracker.log(line)
    durations.append(time.perf_counter() - before)
"""
# Both processes die at once, W&B's first.
KILLED = """
while not list(run.glob("wandb/offline-run-*/*.wandb")): time.sleep(0.05)
for step in range(1, 101): record(step); time.sleep(0.001)
os.kill(child(), signal.SIGKILL)
os._exit(0)
"""


@pytest.mark.slow
def test_what_a_kill_took_from_wandb_is_brought_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    Outcome(run, RECORD + KILLED)
    assert len(history(run)) < 100
    Outcome(run, RECORD + "for step in range(101, 151): record(step)\nclose('interrupted')")
    wanted = [chart_values(record) for record in read_metrics(metrics_path(run))]
    assert [row["step"] for row in wanted] == [*range(1, 151)]
    assert history(run)[-150:] == wanted
    # After a clean end nothing is brought twice.
    Outcome(run, RECORD + "for step in range(151, 161): record(step)\nclose('finished')")
    wanted = [chart_values(record) for record in read_metrics(metrics_path(run))]
    assert history(run)[-160:] == wanted
    assert {path.stem for path in run.glob("wandb/offline-run-*/*.wandb")} == {
        f"run-{(run / 'wandb_id').read_text().strip()}"
    }


@pytest.mark.slow
def test_a_run_of_the_sweep_is_one_training_under_the_agents_id(tmp_path: Path) -> None:
    """The command as `wandb agent` makes it, with its own functions; the server is left out."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    root = Path(__file__).parents[3]
    sweep = yaml.safe_load((root / "configs" / "wandb" / "sweep.yaml").read_text())
    chosen: dict[str, dict[str, object]] = {"optimizer.peak_lr": {"value": 0.0005}, "model.dropout": {"value": 0.2}}
    small = {"run.max_steps": 2, "evaluation.max_sentences": 2, "engine.kind": "ddp", "tokenizer.vocab_size": 500}
    small |= {"data.train.0.limit": 1000, "data.valid.0.limit": 20, "data.max_tokens": 128, "data.workers": 1}
    chosen |= {name: {"value": value} for name, value in small.items()}
    assert set(sweep["parameters"]) <= set(chosen)
    arguments = create_sweep_command_args({"args": chosen})["args_no_hyphens"]
    words = create_sweep_command(sweep["command"])
    command = [word for given in words for word in (arguments if given == "${args_no_hyphens}" else [given])]
    (tmp_path / "configs").symlink_to(root / "configs")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environ = {"PATH": path, "WANDB_RUN_ID": "abc123", "WANDB_SWEEP_ID": "sweep1", "WANDB_MODE": "offline"}
    environ |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | environ, capture_output=True, text=True, timeout=patience(200)
    )
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "sweep" / "abc123"
    assert [path.stem for path in run.glob("wandb/offline-run-*/*.wandb")] == ["run-abc123"]
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["optimizer"]["peak_lr"], config["model"]["dropout"]) == (0.0005, 0.2)
    assert f"valid/{config['data']['valid'][0]['name']}/nll" == sweep["metric"]["name"]
    assert any(sweep["metric"]["name"] in row for row in history(run))


TOLD = """
from trainer.reporting.console import Sample
checkpoint = run / "checkpoints" / "step-00000004"
checkpoint.mkdir(parents=True)
(checkpoint / "large").write_bytes(b"x" * 100_000)
def event(name, step, **values):
    line = {"kind": "event", "step": step, "event": name, "time": time.time(), **values}
    metrics.write(line)
    tracker.log(line)
event("started", 0, world_size=2, code={"commit": "abc"}, versions={"torch": "2"})
record(1)
samples = [Sample("Ein Haus.", "A house.", "A home.", 61.5), Sample("Ja.", "Yes.", "Yes.", 100.0)]
line = {"kind": "valid", "name": "val", "step": 4, "target_tokens": 120, "bleu": 30.0}
line |= {"samples": [sample._asdict() for sample in samples]}
metrics.write(line)
tracker.log(line)
event("saved", 4, detail="any prose", path=str(checkpoint), best=True)
event("save failed", 6, detail="no space left")
event("ended", 8, detail="finished")
close("finished")
"""


@pytest.mark.slow
def test_facts_samples_events_alerts_and_the_best_model_arrive(tmp_path: Path) -> None:
    run = tmp_path / "run"
    Outcome(run, RECORD + TOLD)
    rows, records = history(run), read_metrics(metrics_path(run))
    assert [chart_values(record) for record in records] == [
        {key: value for key, value in row.items() if "samples" not in key} for row in rows
    ]
    (piece,) = run.glob("wandb/offline-run-*")
    (path,) = piece.glob("*.wandb")
    written = [(record.WhichOneof("record_type"), record) for record in wandb_records(path)]
    (table,) = (row["valid/val/samples.path"] for row in rows if "valid/val/samples.path" in row)
    found = json.loads((piece / "files" / table).read_text())
    assert found["columns"] == ["source", "hypothesis", "reference", "chrf"]
    assert [dict(zip(found["columns"], row, strict=True)) for row in found["data"]] == records[2]["samples"]
    configs = [{i.key: json.loads(i.value_json) for i in r.config.update} for kind, r in written if kind == "config"]
    (start,) = (config["start"] for config in configs if "start" in config)
    assert (start["world_size"], start["code"], start["versions"]) == (2, {"commit": "abc"}, {"torch": "2"})
    alerts = [(r.alert.title, r.alert.text, r.alert.level) for kind, r in written if kind == "alert"]
    assert alerts == [
        ("run: save failed", "step 6: no space left", "WARN"),
        ("run: ended", "step 8: finished", "INFO"),
    ]
    (model,) = (r.artifact for kind, r in written if kind == "artifact" and r.artifact.type == "model")
    assert {"best", "step-00000004"} <= set(model.aliases)
    (entry,) = model.manifest.contents
    assert entry.ref == (run / "checkpoints" / "step-00000004" / "large").as_uri()
    assert not any(b"x" * 1000 in file.read_bytes() for file in piece.rglob("*") if file.is_file())


@pytest.mark.slow
def test_a_full_disk_in_its_folder_costs_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "wandb"
    folder.mkdir(parents=True)
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "none", folder]).returncode:
        pytest.skip("the full disk was not run: mounting a small tmpfs needs root")
    try:
        body = "for step in range(1, 2001): record(step); time.sleep(0.001)\nclose('finished')"
        outcome = Outcome(tmp_path / "run", RECORD + body, close_seconds=3)
    finally:
        subprocess.run(["umount", folder], check=True)
    assert len(read_metrics(metrics_path(tmp_path / "run"))) == 2000
    assert outcome.notes["slow_log"] < 0.005
    assert outcome.notes["closing"] < 15
    assert len([line for line in outcome.messages if "is full" in line]) == 1
    # The next start, with room again, brings everything.
    Outcome(tmp_path / "run", RECORD + "record(2001)\nclose('finished')")
    assert {row["step"] for row in history(tmp_path / "run")} == set(range(1, 2002))


@pytest.fixture
def silent_server() -> Iterator[str]:
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.slow
def test_a_server_that_never_answers_costs_nothing(tmp_path: Path, silent_server: str) -> None:
    body = LOG_AND_FINISH.format(1500)
    outcome = Outcome(
        tmp_path / "run", body, "online", close_seconds=1, WANDB_BASE_URL=silent_server, WANDB_API_KEY="k" * 40
    )
    assert outcome.notes["slow_log"] < 0.005
    assert outcome.notes["closing"] < 10
    assert outcome.seconds < 30
    assert any("abandoned" in line for line in outcome.messages)


@pytest.mark.slow
@pytest.mark.parametrize("environ", [{"WANDB_API_KEY": "k" * 40}, {"NETRC": "/nonexistent"}], ids=["refused", "no key"])
def test_where_the_server_cannot_be_had_the_run_is_offline(tmp_path: Path, environ: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
    outcome = Outcome(
        tmp_path / "run", LOG_AND_FINISH.format(50), "online", close_seconds=60, WANDB_BASE_URL=address, **environ
    )
    assert "W&B cannot be reached" in outcome.messages[0]
    assert [row["step"] for row in history(tmp_path / "run")] == [*range(50)]
    assert outcome.notes["slow_log"] < 0.005


@pytest.mark.slow
def test_when_its_own_process_dies_training_does_not_notice(tmp_path: Path) -> None:
    body = """
import os, signal
while not list(run.glob("wandb/offline-run-*/*.wandb")): time.sleep(0.05)
time.sleep(1)
os.kill(child(), signal.SIGKILL)
for step in range(100): log(step); time.sleep(0.01)
close('finished')
"""
    outcome = Outcome(tmp_path / "run", body)
    assert outcome.notes["slow_log"] < 0.005
    assert outcome.notes["closing"] < 10
    assert [line for line in outcome.messages if "W&B is off" in line] == outcome.messages[-1:]


@pytest.mark.slow
def test_a_frozen_process_is_killed_at_the_end(tmp_path: Path) -> None:
    body = """
import os, signal
while not list(run.glob("wandb/offline-run-*/*.wandb")): time.sleep(0.05)
time.sleep(1)
os.kill(child(), signal.SIGSTOP)
log(1)
close('finished')
"""
    outcome = Outcome(tmp_path / "run", body, close_seconds=1)
    assert "abandoned" in outcome.messages[-1]
    assert outcome.seconds < 30
