"""What a run reports: metrics.jsonl, the console, W&B and TensorBoard."""
