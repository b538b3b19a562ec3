"""The report of `dragoman data` as text, for a terminal, a pipe or a log file."""

import sys
import unicodedata
from collections.abc import Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from trainer.data.inspection.corpus_report import CorpusReport, Distribution, Sentence
from trainer.data.inspection.inspect_data import Inspection, MixtureReport
from trainer.data.inspection.round_trip import RoundTrip
from trainer.data.printable import printable

_WIDTH_OF_FILES = 100
_BAR_WIDTH = 24
_MAX_REJECTED_CHARACTERS = 300


def show(inspection: Inspection, max_steps: int) -> None:
    """Prints the mixture and each corpus to stdout; `max_steps` is the length of the run."""
    width = None if sys.stdout.isatty() else _WIDTH_OF_FILES
    Console(width=width, markup=False, highlight=False, emoji=False).print(render(inspection, max_steps))


def render(inspection: Inspection, max_steps: int) -> Group:
    parts: list[RenderableType] = [
        _heading(f"Mixture ({inspection.mode} mode)"),
        _indented(_corpora(inspection.corpora)),
    ]
    parts.append(_indented(_micro_batches(inspection.mixture, max_steps)))
    for corpus in inspection.corpora:
        parts += _corpus(corpus)
    return Group(*parts)


def _heading(title: str) -> Text:
    return Text(f"\n{title}", style="bold")


def _indented(content: RenderableType, columns: int = 2) -> Padding:
    return Padding(content, (0, 0, 0, columns), expand=False)


def _table(*columns: str) -> Table:
    """A table with names in the first column and numbers in the others."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    for number, title in enumerate(columns):
        table.add_column(title, justify="right" if number else "left", overflow="fold")
    return table


def _corpora(corpora: Sequence[CorpusReport]) -> RenderableType:
    table = _table("corpus", "pairs", "share", "source tokens", "target tokens", "steps a pass")
    for corpus in corpora:
        about = "~" if corpus.is_estimate else ""
        table.add_row(
            corpus.name,
            f"{corpus.num_pairs:,}",
            f"{corpus.share:.1%}",
            f"{about}{corpus.source.num_tokens:,}",
            f"{about}{corpus.target.num_tokens:,}",
            f"{corpus.steps_per_pass:,.1f}",
        )
    notes = ["Pairs and tokens are those of one pass, eos counted."]
    if any(corpus.is_estimate for corpus in corpora):
        sampled = max(corpus.num_sampled for corpus in corpora if corpus.is_estimate)
        notes.append(f"~ is an estimate from at most {sampled:,} pairs of each corpus, spread evenly over it.")
    return Group(table, *notes)


def _micro_batches(mixture: MixtureReport, max_steps: int) -> RenderableType:
    pairs = mixture.pairs_per_micro_batch
    passes = max_steps / mixture.steps_per_pass
    facts = Table.grid(padding=(0, 3, 0, 0))
    facts.add_row("")
    facts.add_row(
        "micro-batch",
        f"at most {mixture.max_source_tokens:,} source and {mixture.max_target_tokens:,} target tokens; "
        f"{pairs:,.1f} pairs",
    )
    facts.add_row(
        "filled",
        f"{mixture.fill:.1%} (source {mixture.source_fill:.1%}, target {mixture.target_fill:.1%}), "
        f"measured on the first {mixture.num_measured}",
    )
    facts.add_row(
        "step",
        f"{mixture.micro_batches_per_step} micro-batches: {pairs * mixture.micro_batches_per_step:,.0f} pairs, "
        f"{mixture.source_tokens_per_step:,.0f} source and {mixture.target_tokens_per_step:,.0f} target tokens",
    )
    facts.add_row(
        "a pass", f"{mixture.steps_per_pass:,.1f} steps read as many pairs as there are ({mixture.num_pairs:,})"
    )
    facts.add_row("the run", f"{passes:,.1f} passes in `run.max_steps` ({max_steps:,})")
    return facts


def _corpus(corpus: CorpusReport) -> Iterator[RenderableType]:
    yield _heading(corpus.name)
    yield _indented(_distributions(corpus))
    yield _indented(_histogram(corpus))
    yield _indented(_rejected(corpus))
    yield _indented(_round_trip(corpus.target_round_trip))
    for number, (source, target) in enumerate(corpus.examples, 1):
        yield _indented(_heading(f"pair {number}"))
        yield _indented(_example(source, target), 4)


def _distributions(corpus: CorpusReport) -> RenderableType:
    looked_at = "all" if corpus.num_sampled == corpus.num_pairs else f"{corpus.num_sampled:,} sampled"
    percents = list(corpus.ratio.percentiles)
    table = _table(f"of {looked_at} pairs", "mean", *(f"{percent}%" for percent in percents))

    def add(name: str, values: Distribution, digits: int) -> None:
        shown = (f"{value:,.{digits}f}" for value in values.percentiles.values())
        table.add_row(name, f"{values.mean:,.{max(digits, 1)}f}", *shown)

    add("source tokens", corpus.source.lengths, 0)
    add("target tokens", corpus.target.lengths, 0)
    add("target / source", corpus.ratio, 2)
    return table


def _histogram(corpus: CorpusReport) -> RenderableType:
    source, target = corpus.source, corpus.target
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    for title, justify in (
        ("\ntokens", "right"),
        ("\nsource", "left"),
        ("", "right"),
        ("\ntarget", "left"),
        ("", "right"),
    ):
        table.add_column(title, justify=justify)  # type: ignore[arg-type]
    highest = max(source.histogram + target.histogram)
    last = len(source.histogram) - 1
    for number, shares in enumerate(zip(source.histogram, target.histogram, strict=True)):
        before, until = number * source.bin_width, (number + 1) * source.bin_width
        name = f"over {before}" if number == last else f"{before + 1} – {until}" if before + 1 < until else f"{until}"
        cells = [cell for share in shares for cell in (_bar(share / highest), f"{share:.1%}")]
        table.add_row(name, *cells)
    return table


def _bar(part: float) -> str:
    blocks = "█" * round(part * _BAR_WIDTH) or ("▏" if part else "")
    return blocks.ljust(_BAR_WIDTH)


def _rejected(corpus: CorpusReport) -> RenderableType:
    counts = {reason: count for reason, count in corpus.rejected.items() if count}
    if not counts:
        return Text("\nno pair was left out")
    about = "~" if corpus.is_estimate else ""
    rows: list[RenderableType] = [Text("")]
    for reason, count in counts.items():
        rows.append(Text(f"left out as {reason}: {about if reason == 'too long' else ''}{count:,}"))
        for source, target in corpus.rejected_examples.get(reason, []):
            rows.append(_indented(_sides(_shortened(source), _shortened(target))))
    return Group(*rows)


def _round_trip(found: RoundTrip | None) -> RenderableType:
    if found is None:
        return Text("\nwhether target lines come back from the tokenizer is not known: their text is gone")
    if not found.num_changed:
        return Text(f"\nall {found.num_lines:,} target lines looked at come back from the tokenizer as they are")
    rows: list[RenderableType] = [
        Text(
            f"\n{found.num_changed:,} of {found.num_lines:,} target lines looked at do not come back from the "
            "tokenizer as they are, so no translation can equal them (see `tokenizer.normalization`):"
        )
    ]
    for before, after in found.examples:
        shown = (_with_escapes(_shortened(text)) for text in (before, after))
        rows.append(_indented(_labelled(list(zip(("before", "after"), shown, strict=True)))))
    return Group(*rows)


def _with_escapes(text: str) -> str:
    """Spaces other than the usual one and invisible characters as escapes, such as \\xa0."""
    hidden = ("Zs", "Zl", "Zp", "Cf")
    return "".join(
        c.encode("unicode_escape").decode() if c != " " and unicodedata.category(c) in hidden else c for c in text
    )


def _sides(source: str, target: str) -> RenderableType:
    return _labelled([("source", source), ("target", target)])


def _example(source: Sentence, target: Sentence) -> RenderableType:
    rows = []
    for name, side in (("source", source), ("target", target)):
        rows += [(name, side.text), ("pieces", " ".join(side.pieces)), ("ids", " ".join(map(str, side.ids)))]
    return _labelled(rows)


def _labelled(rows: Sequence[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, text in rows:
        table.add_row(Text(name, style="dim"), Text(printable(text), overflow="fold"))
    return table


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_REJECTED_CHARACTERS else f"{text[:_MAX_REJECTED_CHARACTERS]} …"
