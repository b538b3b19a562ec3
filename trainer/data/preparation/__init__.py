"""From corpora to tokenizers and stores on disk."""
