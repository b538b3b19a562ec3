"""What `dragoman prepare` prints: what each store holds, what was left out and why, and what may be deleted."""

from collections.abc import Iterator

from trainer.data.preparation.build_stores import Prepared
from trainer.data.preparation.other_stores import other_stores
from trainer.data.printable import printable
from trainer.data.stores.store import Manifest, Store

_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def report(prepared: Prepared) -> Iterator[str]:
    """The lines to print."""
    tokenizers = prepared.tokenizers
    for tokenizer in dict.fromkeys((tokenizers.source, tokenizers.target)):
        yield f"tokenizer: {tokenizer.vocab_size:,} pieces, {tokenizer.path}"
    for store, reused in zip(prepared.stores, prepared.reused, strict=True):
        yield from _store(store, reused)
    others = [f"{path} ({_size(num_bytes)})" for path, num_bytes in other_stores(prepared)]
    if others:
        yield f"of other configurations, to be deleted if no run needs them: {', '.join(others)}"
    num_pairs = sum(store.manifest.num_pairs for store in prepared.stores)
    yield f"ready: {num_pairs:,} pairs to train on"


def _store(store: Store, reused: bool) -> Iterator[str]:
    found = store.manifest
    items = "tokens" if found.kind == "tokens" else "bytes of text"
    yield (
        f"{found.name}: {found.num_pairs:,} pairs, {found.num_source_items:,} source and {found.num_target_items:,} "
        f"target {items}, {store.directory}{' (was there already)' if reused else ''}"
    )
    yield from _rejected(found)


def _rejected(found: Manifest) -> Iterator[str]:
    total = found.num_pairs + sum(found.rejected.values())
    for reason, count in found.rejected.items():
        yield f"  left out, {reason}: {count:,} {'pair' if count == 1 else 'pairs'} ({count / total:.2%}), such as"
        for source, target in found.examples[reason]:
            yield f"    {_one_line(source)}  |  {_one_line(target)}"


def _one_line(text: str) -> str:
    return printable(" ".join(text.split())) or "(empty)"


def _size(num_bytes: int) -> str:
    size, unit = float(num_bytes), 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.3g} {_UNITS[unit]}"
