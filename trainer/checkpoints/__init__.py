"""Checkpoints: publishing, verifying, keeping and restoring the sharded state of a run."""
