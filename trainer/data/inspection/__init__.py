"""What `dragoman data` tells before training."""
