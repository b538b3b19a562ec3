"""What `dragoman data` reports before training."""
