"""Text of a corpus for a terminal."""

import unicodedata

# Characters that change the direction of the text after them; a script's own marks of direction are harmless.
_TURNS_DIRECTION = ("LRE", "LRO", "RLE", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


def printable(text: str) -> str:
    """Text with escapes for control characters, which would act on the terminal, and for lone surrogates, which no
    encoding can write."""
    return "".join(c.encode("unicode_escape").decode() if _acts(c) else c for c in text)


def _acts(character: str) -> bool:
    is_control = unicodedata.category(character) in ("Cc", "Cs")
    return is_control or unicodedata.bidirectional(character) in _TURNS_DIRECTION
