"""Text of a corpus for a terminal."""

import unicodedata


def printable(text: str) -> str:
    """Control characters would act on the terminal, and half a surrogate pair cannot be written at all."""
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)
