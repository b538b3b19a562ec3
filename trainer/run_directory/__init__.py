"""The files of a run directory, and whose they are. Without torch."""
