"""The one seam to parallel training: every collective, wrapper, shard, device, precision and clip."""
