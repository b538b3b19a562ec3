"""The settings of a run: their meaning, reading them, and the rules that they must keep. Without torch."""
