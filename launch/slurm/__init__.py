"""Runs as SLURM jobs: submitting them, and deciding what follows the end of one."""
