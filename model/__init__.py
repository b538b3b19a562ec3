"""The mathematics: a Transformer for translation that knows torch and nothing else."""
