"""The order of the training data: a pure function of corpora, configuration and seed."""
