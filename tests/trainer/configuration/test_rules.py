"""Each rule names the setting that breaks it, and its value."""

from pathlib import Path

import pytest

from tests.trainer.configuration.smallest import refusal
from trainer.configuration.reading import load


@pytest.mark.parametrize(
    ("overrides", "setting", "value"),
    [
        (["data.max_tokens=100"], "data.max_tokens", "100"),
        (["data.max_source_tokens=100"], "data.max_source_tokens", "100"),
        (["data.max_length=1"], "data.max_length", "1"),
        (["data.micro_batches_per_step=0"], "data.micro_batches_per_step", "0"),
        (["data.num_lanes=0"], "data.num_lanes", "0"),
        (["data.train=[]"], "data.train", "[]"),
        (["data.train.0.weight=0"], "data.train.0.weight", "0"),
        (["data.train.0.limit=0"], "data.train.0.limit", "0"),
        (["data.train.0.hub=a/b"], "data.train.0", "`hub` and `builtin`"),
        (["data.train=[{weight: 1}]"], "data.train.0", "none of them"),
        (["data.train=[{source: a}]"], "data.train.0.target", "missing"),
        (["data.train=[{hub: a/b}]"], "data.train.0.languages", "missing"),
        (["data.train=[{target: a.de}]"], "data.train.0.source", "one language alone is no corpus"),
        (["data.train=[{tsv: a, jsonl: b}]"], "data.train.0", "`tsv` and `jsonl`"),
        (["data.train=[{jsonl: a}]"], "data.train.0.languages", "`columns`"),
        (["data.train=[{parquet: a, columns: [b, c], languages: [b, c]}]"], "data.train.0.languages", "both given"),
        (["data.train.0.columns=[1, 2]"], "data.train.0.columns", "[1, 2], but means nothing"),
        (["data.train=[{tsv: a, languages: [en, de]}]"], "data.train.0.languages", "named by `tsv`"),
        (["data.train=[{source: a, target: b, split: test}]"], "data.train.0.split", "'test'"),
        (["data.train=[{parquet: a, languages: [en, de], config: de-en}]"], "data.train.0.config", "'de-en'"),
        (["data.train=[{parquet: a, columns: [1, 2]}]"], "data.train.0.columns", "two names, as columns of `parquet`"),
        (["data.train=[{tsv: a, columns: [1, b]}]"], "data.train.0.columns", "[1, 'b']"),
        (["data.train=[{tsv: a, columns: [0, 1]}]"], "data.train.0.columns", "[0, 1]"),
        (["data.train=[{hub: a/b, languages: [en, en]}]"], "data.train.0.languages", "two different ones"),
        (["data.valid=[{builtin: a, name: x}, {builtin: b, name: x}]"], "data.valid", "'x'"),
        (["data.temperature=0"], "data.temperature", "0"),
        (["data.workers=0"], "data.workers", "0"),
        (["data.filters.max_length_ratio=0.9"], "data.filters.max_length_ratio", "0.9"),
        (["data.filters.min_letters=1.1"], "data.filters.min_letters", "1.1"),
        (["data.filters.min_letters=-0.1"], "data.filters.min_letters", "-0.1"),
        (["data.filters.language_id=identify"], "data.filters.language_id", "'identify'"),
        (["data.filters.language_id='identify.py:'"], "data.filters.language_id", "'identify.py:'"),
        (["data.filters.language_id=a:b"], "data.filters.languages", "must be given"),
        (["data.filters.languages=[en, de]"], "data.filters.language_id", "must be given"),
        (["model.d_model=130"], "model.d_model", "130"),
        (["model.d_model=15", "model.num_heads=1"], "model.d_model", "15"),
        (["model.dropout=1"], "model.dropout", "1"),
        (["tokenizer.joint=false"], "model.tied_embeddings", "all"),
        (["tokenizer.target_path=de.model"], "tokenizer.target_path", "de.model"),
        (["tokenizer.sampling=0.1"], "tokenizer.sampling", "0.1"),
        (["tokenizer.sampling=0", "data.mode=stream"], "tokenizer.sampling", "0.0"),
        (["tokenizer.sampling=1.1", "data.mode=stream"], "tokenizer.sampling", "1.1"),
        (["tokenizer.sampling=1", "tokenizer.kind=bpe", "data.mode=stream"], "tokenizer.sampling", "1.0"),
        (["tokenizer.user_symbols=['']"], "tokenizer.user_symbols", "''"),
        (["tokenizer.user_symbols=[<a>, <b>, <a>]"], "tokenizer.user_symbols", "'<a>' occurs 2 times"),
        (["tokenizer.user_symbols=[<s>]"], "tokenizer.user_symbols", "'<s>'"),
        (["tokenizer.user_symbols=[<0x41>]"], "tokenizer.user_symbols", "'<0x41>'"),
        (["tokenizer.user_symbols=[a b]"], "tokenizer.user_symbols", "'a b'"),
        (["tokenizer.user_symbols=[▁a]"], "tokenizer.user_symbols", "'▁a'"),
        (["tokenizer.user_symbols=[<a>]", "tokenizer.path=a.model"], "tokenizer.user_symbols", "<a>"),
        (["model.preset=huge"], "model.preset", "huge"),
        (["tokenizer.character_coverage=0.9799"], "tokenizer.character_coverage", "0.9799"),
        (["tokenizer.normalization=nfkc", "tokenizer.path=a.model"], "tokenizer.normalization", "nfkc"),
        (["tokenizer.vocab_size=3"], "tokenizer.vocab_size", "3"),
        (["optimizer.peak_lr=.nan"], "optimizer.peak_lr", "nan"),
        (["optimizer.peak_lr=0"], "optimizer.peak_lr", "0"),
        (["optimizer.final_lr=1"], "optimizer.final_lr", "1"),
        (["optimizer.betas=[1, 0.9]"], "optimizer.betas", "[1.0, 0.9]"),
        (["optimizer.warmup_steps=-1"], "optimizer.warmup_steps", "-1"),
        (["engine.offload=cpu"], "engine.offload", "cpu"),
        (["engine.offload=nvme", "engine.kind=zero2"], "engine.offload", "nvme"),
        (["engine.activation_checkpointing=0"], "engine.activation_checkpointing", "0"),
        (["run.max_steps=0"], "run.max_steps", "0"),
        (["evaluation.beam_size=0"], "evaluation.beam_size", "0"),
        (["evaluation.patience=3"], "evaluation.patience", "3"),
        (["evaluation.max_sentences=0", "data.valid=[{builtin: a}]"], "evaluation.metric", "bleu"),
    ],
)
def test_a_broken_rule_names_the_setting_and_its_value(
    path: Path, overrides: list[str], setting: str, value: str
) -> None:
    message = refusal(path, *overrides)
    assert message.startswith(f"`{setting}`")
    assert value in message


def test_filters_at_their_bounds_and_switched_off_are_accepted(path: Path) -> None:
    load(path, ["data.filters.max_length_ratio=1", "data.filters.min_letters=1"])
    load(path, ["data.filters.min_letters=0", "data.filters.language_id='a/b.py:c'", "data.filters.languages=[en, de]"])
    off = load(path, ["data.filters.max_length_ratio=null", "data.filters.min_letters=", "data.filters.copies=false"])
    assert (off.data.filters.max_length_ratio, off.data.filters.min_letters, off.data.filters.copies) == (
        None,
        None,
        False,
    )


@pytest.mark.parametrize(
    "corpus",
    [
        "{source: a*.en.gz, target: s3://bucket/a*.de.gz}",
        "{tsv: a.tsv}",
        "{tsv: a.tsv, columns: [2, 1]}",
        "{tsv: a.tsv, columns: [no, '1']}",
        "{jsonl: a, languages: [en, de]}",
        "{jsonl: a, columns: [src, tgt]}",
        "{parquet: a, columns: [src, tgt]}",
        "{hub: a/b, config: de-en, split: test, languages: [en, de]}",
        "{builtin: phrasebook, split: test}",
    ],
)
def test_every_way_of_naming_text_is_accepted(path: Path, corpus: str) -> None:
    load(path, [f"data.train=[{corpus}]"])


SEPARATE = ("tokenizer.joint=false", "model.tied_embeddings=decoder")


@pytest.mark.parametrize(("given", "missing"), [("path", "tokenizer.target_path"), ("target_path", "tokenizer.path")])
def test_separate_tokenizers_are_named_together(path: Path, given: str, missing: str) -> None:
    message = refusal(path, *SEPARATE, f"tokenizer.{given}=one.model")
    assert message.startswith(f"`{missing}` is missing")
    assert "one.model" in message
    both = load(path, [*SEPARATE, "tokenizer.path=a.model", "tokenizer.target_path=b.model"])
    assert (both.tokenizer.path, both.tokenizer.target_path) == ("a.model", "b.model")
    assert load(path, SEPARATE).tokenizer.path is None


@pytest.mark.parametrize(
    "overrides",
    [["tokenizer.sampling=1"], ["tokenizer.sampling=0.9", "tokenizer.kind=bpe"], ["tokenizer.user_symbols=[<2de>, ä]"]],
)
def test_what_the_tokenizer_can_do_is_allowed(path: Path, overrides: list[str]) -> None:
    load(path, ["data.mode=stream", *overrides])


def test_the_rule_of_the_token_budget_says_what_to_do(path: Path) -> None:
    assert refusal(path, "data.max_tokens=256", "data.max_length=512") == (
        "`data.max_tokens` must be at least `data.max_length` (512), so that one pair fits in a batch, but is 256."
    )
