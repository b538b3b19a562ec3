"""A terminal that is closed: two processes save, and end well."""

import fcntl
import os
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
import yaml

from tests.limits import patience
from trainer.run_directory.layout import checkpoint_step, list_checkpoints, log_path
from trainer.run_directory.state import read_state

CONFIGURATION = {
    "run": {"directory": "run", "max_steps": 100_000},
    "model": {"d_model": 8, "d_ff": 16, "num_heads": 2, "num_encoder_layers": 1, "num_decoder_layers": 1},
    "tokenizer": {"kind": "bpe", "vocab_size": 350},
    "data": {
        "train": [{"builtin": "phrasebook", "limit": 200}],
        "max_length": 64, "max_tokens": 64, "micro_batches_per_step": 2, "num_lanes": 2,
    },
    "engine": {"precision": "fp32", "device": "cpu"},
    "tracking": {"every_steps": 1, "wandb": {"mode": "disabled"}},
}  # fmt: skip


@pytest.mark.slow
def test_a_closed_terminal_saves_the_step(tmp_path: Path) -> None:
    """The kernel hangs up on the foreground process, and what is written from then on fails."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIGURATION))
    terminal, theirs = os.openpty()
    command = [sys.executable, "-m", "launch", "train", "config.yaml", "--processes", "2"]
    training = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    os.set_blocking(terminal, False)
    run, deadline = tmp_path / "run", time.monotonic() + patience(120)
    log = log_path(run, 0)
    while not log.exists() or "\nstep 3/" not in log.read_text():
        assert training.poll() is None, log.read_text() if log.exists() else "no log"
        assert time.monotonic() < deadline
        try:
            os.read(terminal, 65536)  # a full terminal would stop the training
        except BlockingIOError:
            time.sleep(0.05)
    os.close(terminal)
    assert training.wait(timeout=patience(120)) == 0
    state = read_state(run) or {}
    assert (state["state"], state["reason"]) == ("stopped", "SIGHUP")
    assert state["step"] == checkpoint_step(list_checkpoints(run)[-1]) > 0
    assert f"saved: run/checkpoints/{list_checkpoints(run)[-1].name}\n" in log.read_text()
