"""The memory-mapped files that training reads."""
