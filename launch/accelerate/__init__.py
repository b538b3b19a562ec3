"""Accelerate's configuration files, one for each kind of engine that `accelerate launch` can start."""
