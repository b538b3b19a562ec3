"""Which file of the source belongs to which file of the target: the one whose pattern stands for the same text."""

import os
import re
from collections.abc import Sequence

from trainer.data.corpora.compressed_files import COMPRESSED_SUFFIXES, find_files
from trainer.data.corpora.remote_files import is_remote
from trainer.errors import UserError

Key = tuple[str, ...]
"""What the wildcards of a pattern stand for in the name of one file."""

# A folder of any depth, or neighbouring wildcards as one, so that `??` and `*` may stand for the same text.
_WILDCARDS = re.compile(r"(?P<folders>(?:^|(?<=/))\*\*/)|(?:\*|\?|\[!?\]?[^\]]*\])+")
_COMPRESSION = re.compile(f"({'|'.join(map(re.escape, COMPRESSED_SUFFIXES))})$", re.IGNORECASE)
_LETTERS_AT_THE_END = re.compile(r"\.[A-Za-z_]+$")


def pair_shards(source: str, target: str) -> list[tuple[str, str]]:
    """The files of two patterns in pairs, in the sorted order of the source's.

    Two files belong together if the wildcards stand for the same text in both. The ending of a compressed file does
    not count, nor one in letters (`.en`) that all files of a side share. A pattern that is a file's name needs one
    file on the other side. Raises UserError for missing files and for files that have no partner.
    """
    sides = find_files(source), find_files(target)
    if len(sides[0]) != len(sides[1]):
        raise UserError(
            f"{source} names {len(sides[0])} files but {target} names {len(sides[1])}: "
            "every shard of one needs its translation in the other."
        )
    keys = _keys(source, sides[0]), _keys(target, sides[1])
    if len(keys[0][0]) == 0 or len(keys[1][0]) == 0:  # one file's name, so that there is one on each side
        return list(zip(*sides, strict=True))
    if len(keys[0][0]) != len(keys[1][0]):
        raise UserError(
            f"{source} has {len(keys[0][0])} wildcards but {target} has {len(keys[1][0])}: shards belong together if "
            "the wildcards stand for the same text, so give both the same number."
        )
    plain = [_without_compression(side) for side in keys]
    for ours, theirs in (keys, plain, [_without_common_ending(side) for side in plain]):
        if sorted(ours) == sorted(theirs) and len(set(ours)) == len(ours):
            partner = dict(zip(theirs, sides[1], strict=True))
            return [(file, partner[key]) for file, key in zip(sides[0], ours, strict=True)]
    raise UserError(_first_difference(sides, plain))


def _keys(pattern: str, files: Sequence[str]) -> list[Key]:
    """The key of each file; empty ones if the pattern is the name of a file."""
    if list(files) == [pattern]:
        return [()]
    text = _comparable(pattern)
    wildcards = [mark for mark in _WILDCARDS.finditer(text) if not (_is_http(pattern) and mark[0] == "?")]
    expression, end = "", 0
    for mark in wildcards:
        expression += re.escape(text[end : mark.start()]) + ("((?:[^/]+/)*)" if mark["folders"] else "([^/]*)")
        end = mark.end()
    compiled = re.compile(expression + re.escape(text[end:]), re.DOTALL)
    found = [compiled.fullmatch(_comparable(file)) for file in files]
    return [
        tuple(match.groups()) if match else (os.path.basename(file),) for match, file in zip(found, files, strict=True)
    ]


def _comparable(name: str) -> str:
    """A path or an address as both its pattern and its files spell it."""
    return name.partition("://")[2].lstrip("/") if is_remote(name) else os.path.normpath(name)


def _is_http(name: str) -> bool:
    return name.startswith(("http://", "https://"))


def _without_compression(keys: Sequence[Key]) -> list[Key]:
    return [(*key[:-1], _COMPRESSION.sub("", key[-1])) for key in keys]


def _without_common_ending(keys: Sequence[Key]) -> list[Key]:
    """Without the ending in letters that all share; one file alone has none in common with others."""
    endings = {found[0] if (found := _LETTERS_AT_THE_END.search(key[-1])) else "" for key in keys}
    if len(keys) == 1 or len(endings) > 1:
        return list(keys)
    return [(*key[:-1], key[-1].removesuffix(*endings)) for key in keys]


def _first_difference(sides: tuple[list[str], list[str]], keys: Sequence[Sequence[Key]]) -> str:
    """Names the first two files that would go together although the wildcards stand for different text in them."""
    ordered = [sorted(zip(side_keys, side, strict=True)) for side_keys, side in zip(keys, sides, strict=True)]
    for (ours, source), (theirs, target) in zip(*ordered, strict=True):
        if ours != theirs:
            return (
                f"{source} and {target} are no two sides of one shard: the wildcards stand for {_shown(ours)} in one "
                f"and {_shown(theirs)} in the other, so give both files the same name up to the language."
            )
    twice = next(key for key in keys[0] if keys[0].count(key) > 1)
    first, second = [file for file, key in zip(sides[0], keys[0], strict=True) if key == twice][:2]
    return f"{first} and {second} are the same shard twice: remove one of them or give a narrower pattern."


def _shown(key: Key) -> str:
    return " and ".join(repr(text) for text in key)
