"""Text of a corpus for a terminal."""

import unicodedata

# Characters that turn the direction of what follows; marks of a script's own direction are not among them.
_TURNING = ("LRE", "LRO", "RLE", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


def printable(text: str) -> str:
    """Control characters would act on the terminal, and half a surrogate pair cannot be written at all."""
    return "".join(c.encode("unicode_escape").decode() if _acts(c) else c for c in text)


def _acts(character: str) -> bool:
    is_control = unicodedata.category(character) in ("Cc", "Cs")
    return is_control or unicodedata.bidirectional(character) in _TURNING
