"""Mirrors a run's metrics to Weights & Biases; the only file that knows `wandb`.

W&B must never stop or slow training: `metrics.jsonl` is the truth, this is a copy. So everything of `wandb`, its import
included, happens on a daemon thread behind a bounded queue: what does not fit is dropped, what fails is reported once.
"""

import netrc
import os
import secrets
import shlex
import signal
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from trainer.configuration.sections import WandbConfig
from trainer.errors import error_line
from trainer.files import write_atomically
from trainer.reporting.background_tracker import BackgroundTracker, Notify, NoTracker, Tracker
from trainer.reporting.charts import X_AXES, chart_values
from trainer.reporting.events import STARTS, Event
from trainer.reporting.metrics_file import read_metrics
from trainer.run_directory.layout import WANDB, WANDB_COMPLETE, WANDB_ID, metrics_path
from trainer.run_directory.stop_reason import RunOutcome

_MODES = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline", "disabled": "disabled"}
_TRUE = ("true", "1", "yes", "on")
LEAST_FREE_BYTES = 64 * 1024  # what W&B may still have to write between two records
# Events that someone wants to know of at once, with their level in W&B.
ALERTS = {Event.ROLLED_BACK: "WARN", Event.SAVE_FAILED: "WARN", Event.FAILED: "ERROR", Event.ENDED: "INFO"}


def create_wandb_tracker(
    run_directory: Path, config: WandbConfig, run_config: Mapping[str, Any], notify: Notify
) -> Tracker:
    """The tracker of rank 0. `run_config` is the resolved configuration, `notify` shows a line to the user."""
    mode = resolve_mode(config.mode)
    if mode == "disabled":
        return NoTracker()
    sink = WandbSink(run_directory, config, run_config, online=mode == "online", notify=notify)
    return BackgroundTracker(sink, notify)


def resolve_mode(mode: str) -> str:
    """online, offline or disabled. `auto` follows WANDB_DISABLED and WANDB_MODE, else whether there is an API key."""
    if mode != "auto":
        return mode
    if os.environ.get("WANDB_DISABLED", "").lower() in _TRUE:
        return "disabled"
    chosen = os.environ.get("WANDB_MODE", "").lower()
    if chosen in _MODES:
        return _MODES[chosen]
    return "online" if _has_credentials() else "offline"


def with_environment(config: WandbConfig, run_directory: Path) -> WandbConfig:
    """Fills in project, entity and name, if the configuration leaves them open, as W&B's variables say.

    W&B itself reads the variables of what dragoman has no setting for: WANDB_RUN_GROUP, WANDB_TAGS, WANDB_NOTES,
    WANDB_JOB_TYPE. WANDB_DIR has no effect, because a resumed run looks for its files in the run directory.
    """
    return replace(
        config,
        project=config.project or os.environ.get("WANDB_PROJECT") or "dragoman",
        entity=config.entity or os.environ.get("WANDB_ENTITY") or None,
        name=config.name or os.environ.get("WANDB_NAME") or run_directory.resolve().name,
    )


def _has_credentials() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc
    for path in [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]:
        # Missing, unreadable, not text, no home directory: in every case there is no key, and training continues.
        with suppress(Exception):
            return netrc.netrc(Path(path).expanduser()).authenticators(host) is not None
    return False


class WandbSink:
    """One W&B run per run directory: its id is in `wandb_id`, so that a resumed run continues the same charts.

    W&B writes to disk only every 15 s, so a killed start loses records. A start that ended with every record written
    leaves `wandb_complete`. If that is missing, the next start first sends all of `metrics.jsonl` again: points that
    exist twice coincide.

    The sink stops waiting for a server that has not answered after `init_seconds`.
    """

    def __init__(
        self,
        run_directory: Path,
        config: WandbConfig,
        run_config: Mapping[str, Any],
        *,
        online: bool,
        notify: Notify,
        init_seconds: float = 30,
    ) -> None:
        self._directory = run_directory
        self._config = with_environment(config, run_directory)
        self._run_config = run_config
        self._online = online
        self._notify = notify
        self._init_seconds = init_seconds
        self._abandoned = self._disk_was_full = False
        self._run: Any = None
        self._thread_id = 0
        metrics = metrics_path(run_directory)
        # What is written from now on comes through `write`.
        self._past_bytes = metrics.stat().st_size if metrics.exists() else 0
        # Before the first record of this start, which may be killed, or fail, while W&B still connects.
        self._was_complete = self._marker.exists()
        self._marker.unlink(missing_ok=True)

    def open(self) -> None:
        """Falls back to an offline run if the server does not answer."""
        self._connect()
        if self._past_bytes and not self._was_complete:
            for record in read_metrics(metrics_path(self._directory), self._past_bytes):
                self._log(record)

    def _connect(self) -> None:
        self._prepare_thread()
        import wandb

        if self._online:
            try:
                self._start("online")
                self._notify(f"W&B: {self._run.url}")
                return
            except Exception as error:
                if self._abandoned:
                    raise
                self._notify(f"W&B cannot be reached ({error_line(error)}).")
                # The failed run still holds the id.
                wandb.teardown()
        self._start("offline")
        self._notify(f"W&B: offline; to upload: {sync_command(self._directory)}")

    def write(self, record: Mapping[str, Any]) -> None:
        self._check_disk()
        self._log(record)
        if record["kind"] != "event":
            return
        if record["event"] in STARTS:
            self._run.config.update({"start": _plain(record)}, allow_val_change=True)
        if record.get("best"):
            self._log_best(Path(record["path"]), record["step"])
        if self._config.alerts and record["event"] in ALERTS:
            detail = f"step {record['step']}: {record['detail']}"
            self._run.alert(f"{self._config.name}: {record['event']}", detail, ALERTS[record["event"]])

    def _log(self, record: Mapping[str, Any]) -> None:
        import wandb

        values: dict[str, Any] = chart_values(record)
        if samples := record.get("samples"):
            table = wandb.Table(list(samples[0]), [list(sample.values()) for sample in samples])
            values[f"valid/{record['name']}/samples"] = table
        # Never `step=`: W&B drops steps not beyond the last one, so all that a resumed run repeats.
        self._run.log(values)

    def _log_best(self, checkpoint: Path, step: int) -> None:
        """By reference: no byte of it is read or sent."""
        import wandb

        artifact = wandb.Artifact(f"best-{self._run.id}", "model", metadata={"step": step})
        artifact.add_reference(checkpoint.resolve().as_uri(), name=checkpoint.name, checksum=False)
        self._run.log_artifact(artifact, aliases=["best", checkpoint.name])

    def finish(self, outcome: RunOutcome) -> None:
        if outcome is RunOutcome.INTERRUPTED:
            self._run.mark_preempting()
        self._run.finish(exit_code=0 if outcome is RunOutcome.FINISHED else 1)

    def confirm(self) -> None:
        self._check_disk()
        if not self._disk_was_full:
            self._marker.touch()

    def _check_disk(self) -> None:
        """W&B drops records silently when the disk is full, so a clean finish is not trusted in that case."""
        folder = self._directory / WANDB
        if self._disk_was_full or not folder.exists():  # W&B uses another one if it may not write
            return
        disk = os.statvfs(folder)
        if disk.f_bavail * disk.f_frsize < LEAST_FREE_BYTES:
            self._disk_was_full = True
            self._notify(f"W&B: the disk of {folder} is full; the next start sends all records again.")

    def release(self) -> None:
        import wandb

        wandb.teardown()

    def abandon(self) -> None:
        """Kills W&B's own process: each call that waits for it raises, and nothing is left to wait for at exit."""
        self._abandoned = True
        with suppress(OSError):
            for pid in Path(f"/proc/self/task/{self._thread_id}/children").read_text().split():
                os.kill(int(pid), signal.SIGKILL)

    @property
    def _marker(self) -> Path:
        return self._directory / WANDB_COMPLETE

    def _prepare_thread(self) -> None:
        self._thread_id = threading.get_native_id()
        # A batch system warns every process of a job; W&B's own inherits this mask and survives. (It has a session of
        # its own, so that a closed terminal does not reach it.)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU])
        # Without this the interpreter's exit waits 20 s for a telemetry server that a compute node cannot reach.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        # Silence keeps the progress bar whole, and keeps `wandb` from asking for a key at the terminal.
        os.environ.setdefault("WANDB_SILENT", "true")

    def _start(self, mode: Literal["online", "offline"]) -> None:
        import wandb

        self._run = wandb.init(
            mode=mode,
            id=self._run_id(),
            resume="allow",
            dir=str(self._directory),
            project=self._config.project,
            entity=self._config.entity,
            name=self._config.name,
            config=dict(self._run_config),
            allow_val_change=True,
            settings=_settings(self._init_seconds),
        )
        for axis in X_AXES:
            self._run.define_metric(axis)
        for group in ("train", "valid", "data"):
            self._run.define_metric(f"{group}/*", step_metric=self._config.x_axis)
        self._run.define_metric("event/*", step_metric="step")

    def _run_id(self) -> str:
        """That of the directory; a new one takes the id that `wandb agent` gives to a run of a sweep."""
        path = self._directory / WANDB_ID
        if not path.exists():
            given = os.environ.get("WANDB_RUN_ID") or secrets.token_hex(8)
            write_atomically(path, f"{given}\n")
        return path.read_text().strip()


def sync_command(run_directory: Path) -> str:
    """The shell command that uploads what is on disk, also of starts that lost the server."""
    return f"cd {shlex.quote(str(run_directory.resolve()))} && wandb sync --include-online --yes"


def _plain(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in ("kind", "time")}


def _settings(init_seconds: float) -> Any:
    import wandb

    # finish_timeout 0, W&B's default, waits for ever; below the tracker's own limit it can still end in order.
    return wandb.Settings(
        init_timeout=init_seconds,
        finish_timeout=20,
        console="off",
        save_code=False,
        disable_git=True,
        x_save_requirements=False,
    )
