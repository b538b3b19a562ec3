"""From text to token ids: SentencePiece models, segmentation, containers of sentences."""
