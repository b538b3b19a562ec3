"""From stores to the micro-batches of a rank: order, lanes, packing."""
