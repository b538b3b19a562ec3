"""What a run is told to do: sections of settings, reading them, the rules between them. Without torch."""
