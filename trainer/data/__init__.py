"""From text to token ids to packed micro-batches; knows rank and world size as two integers."""
