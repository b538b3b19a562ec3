"""How processes come to be: command line, local launch, workers."""
