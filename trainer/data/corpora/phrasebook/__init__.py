"""The built-in corpus: French and English sentences of one grammar, for demos and tests."""
