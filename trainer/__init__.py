"""One training run: configuration, data, engine, loop, checkpoints, tracking, evaluation."""
