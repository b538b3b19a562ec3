"""Mirrors a run's metrics to Weights & Biases; the only file that knows `wandb`.

W&B may never stop or slow training: `metrics.jsonl` is the truth, this is a copy. So everything of `wandb`, its import
included, happens on a daemon thread behind a bounded queue; what does not fit is dropped, what fails is told once.
"""

import netrc
import os
import secrets
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from trainer.background_tracker import BackgroundTracker, Notify, NoTracker, Tracker, Verdict, first_line
from trainer.config import WandbConfig
from trainer.metrics import read_metrics
from trainer.run_directory import metrics_path

X_AXES = ("step", "target_tokens")


def create_tracker(
    run_directory: Path, config: WandbConfig, run_config: Mapping[str, Any], notify: Notify | None = None
) -> Tracker:
    """The tracker of rank 0. `run_config` is the resolved configuration, `notify` shows a line to the user."""
    mode = resolve_mode(config.mode)
    if mode == "disabled":
        return NoTracker()
    notify = notify or _print_to_stderr
    sink = WandbSink(run_directory, config, run_config, online=mode == "online", notify=notify)
    return BackgroundTracker(sink, notify)


def resolve_mode(mode: str) -> str:
    """online, offline or disabled. `auto` follows WANDB_MODE, else is online where an API key is configured."""
    if mode != "auto":
        return mode
    chosen = os.environ.get("WANDB_MODE", "")
    if chosen in ("online", "offline", "disabled"):
        return chosen
    return "online" if _has_credentials() else "offline"


def _has_credentials() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc
    for path in [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]:
        # Missing, unreadable, not text, no home directory: whatever it is, there is no key and training goes on.
        with suppress(Exception):
            return netrc.netrc(Path(path).expanduser()).authenticators(host) is not None
    return False


def _print_to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def chart_values(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record under their names in W&B: `train/loss`, `valid/<name>/bleu`, `data/<corpus>/pairs`; the
    x-axes stay bare."""
    groups = {"train": "train", "valid": f"valid/{record.get('name')}"}
    if record["kind"] not in groups:
        return {}
    numbers = {key: value for key, value in record.items() if isinstance(value, int | float)}
    group = groups[record["kind"]]
    values = {key if key in X_AXES else f"{group}/{key}": value for key, value in numbers.items()}
    return values | _flattened("data", record.get("data", {}))


def _flattened(path: str, value: Any) -> dict[str, float]:
    if isinstance(value, Mapping):
        return {name: n for key, item in value.items() for name, n in _flattened(f"{path}/{key}", item).items()}
    return {path: value}


class WandbSink:
    """One W&B run per run directory: its id lies in `wandb_id`, so that a resumed run continues the same charts.

    W&B writes to disk every 15 s only, so a killed start loses records. A start that ended with every record brought
    out leaves `wandb_complete`; where it is missing, the next start first brings all of `metrics.jsonl` again: points
    that are there twice lie on each other.

    A server that has not answered after `init_seconds` is given up.
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
        self._config = config
        self._run_config = run_config
        self._online = online
        self._notify = notify
        self._init_seconds = init_seconds
        self._abandoned = False
        self._run: Any = None
        self._thread_id = 0
        metrics = metrics_path(run_directory)
        # What is written from now on comes through `write`.
        self._past_bytes = metrics.stat().st_size if metrics.exists() else 0
        # Before the first record of this start, which may be killed, or fail, while W&B still connects.
        self._was_complete = self._marker.exists()
        self._marker.unlink(missing_ok=True)

    def open(self) -> None:
        """Falls back to an offline run where the server does not answer."""
        self._connect()
        if self._past_bytes and not self._was_complete:
            for record in read_metrics(metrics_path(self._directory), self._past_bytes):
                self.write(record)

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
                self._notify(f"W&B cannot be reached ({first_line(error)}).")
                # The failed run still holds the id.
                wandb.teardown()
        self._start("offline")
        self._notify(f"W&B: offline; to upload: wandb sync {self._directory / 'wandb'}")

    def write(self, record: Mapping[str, Any]) -> None:
        # Never `step=`: W&B drops steps not beyond the last one, so all that a resumed run repeats.
        if values := chart_values(record):
            self._run.log(values)

    def finish(self, verdict: Verdict) -> None:
        if verdict == "interrupted":
            self._run.mark_preempting()
        self._run.finish(exit_code=0 if verdict == "finished" else 1)

    def confirm(self) -> None:
        self._marker.touch()

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
        return self._directory / "wandb_complete"

    def _prepare_thread(self) -> None:
        self._thread_id = threading.get_native_id()
        # SLURM sends the warning signal to every process of a job; W&B's own inherits this mask and survives it.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGUSR2])
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
            name=self._config.name or self._directory.resolve().name,
            config=dict(self._run_config),
            allow_val_change=True,
            settings=_settings(self._init_seconds),
        )
        for axis in X_AXES:
            self._run.define_metric(axis)
        self._run.define_metric("train/*", step_metric="step")
        self._run.define_metric("valid/*", step_metric="step")
        self._run.define_metric("data/*", step_metric="step")

    def _run_id(self) -> str:
        path = self._directory / "wandb_id"
        if not path.exists():
            temporary = path.with_suffix(".tmp")
            temporary.write_text(secrets.token_hex(8) + "\n")
            temporary.replace(path)
        return path.read_text().strip()


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
