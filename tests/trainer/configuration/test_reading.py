"""A configuration is read as it was meant, written so that it reads back, and refused in one clear sentence."""

from dataclasses import replace
from pathlib import Path

import pytest

from model.config import PRESETS
from trainer.configuration.reading import CHANGEABLE, differences, dump, known_settings, load, require_same_run
from trainer.configuration.sections import Config
from trainer.errors import UserError

SMALLEST = """
run: {directory: runs/x}
data:
  train: [{builtin: phrasebook}]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(SMALLEST)
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as refused:
        load(path, overrides)
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_defaults_stand_where_the_file_says_nothing(path: Path) -> None:
    config = load(path)
    assert config.run.directory == "runs/x"
    assert config.optimizer.betas == (0.9, 0.98)
    assert config.data.train[0].weight == 1.0


@pytest.mark.parametrize(
    ("override", "section", "value"),
    [
        ("optimizer.peak_lr=7e-4", "optimizer.peak_lr", 7e-4),  # text in YAML 1.1
        ("optimizer.peak_lr=1E-3", "optimizer.peak_lr", 1e-3),
        ("optimizer.peak_lr=1", "optimizer.peak_lr", 1.0),
        ("optimizer.betas=[0.9, .95]", "optimizer.betas", (0.9, 0.95)),
        ("run.max_steps=300_000", "run.max_steps", 300_000),
        ("run.directory=a=b", "run.directory", "a=b"),
        ("run.directory=no", "run.directory", "no"),  # false in YAML 1.1
        ("run.directory='2024'", "run.directory", "2024"),
        ("engine.activation_checkpointing=2", "engine.activation_checkpointing", 2),
        ("data.cache=", "data.cache", None),
        ("tracking.wandb.mode=offline", "tracking.wandb.mode", "offline"),
    ],
)
def test_an_override_is_read_as_yaml(path: Path, override: str, section: str, value: object) -> None:
    found: object = load(path, [override])
    for name in section.split("."):
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)


def test_later_overrides_win_and_reach_into_lists(path: Path) -> None:
    config = load(path, ["data.train.0.weight=2", "run.seed=3", "run.seed=4"])
    assert (config.data.train[0].weight, config.run.seed) == (2.0, 4)


def test_a_preset_fills_what_was_not_given(path: Path) -> None:
    model = load(path, ["model.d_ff=77", "model.preset=big"]).model
    assert model.d_ff == 77
    assert model.d_model == PRESETS["big"]["d_model"]
    assert model.dropout == PRESETS["big"]["dropout"]


@pytest.mark.parametrize(
    ("override", "unknown", "nearest"),
    [
        ("optimizer.peak_rl=1", "optimizer.peak_rl", "optimizer.peak_lr"),
        ("optimizer.lr=1", "optimizer.lr", "optimizer.peak_lr"),
        ("optimiser.peak_lr=1", "optimiser", "optimizer"),
        ("data.max_steps=1", "data.max_steps", "run.max_steps"),
        ("data.train.0.wieght=1", "data.train.0.wieght", "data.train.0.weight"),
        ("tracking.wandb.moed=online", "tracking.wandb.moed", "tracking.wandb.mode"),
    ],
)
def test_an_unknown_setting_is_refused_with_the_nearest(path: Path, override: str, unknown: str, nearest: str) -> None:
    assert refusal(path, override) == f"`{unknown}` is not a setting; did you mean `{nearest}`?"


def test_an_unknown_setting_that_is_near_to_nothing_lists_the_known(path: Path) -> None:
    assert "`tokenizer` has kind, vocab_size" in refusal(path, "tokenizer.qqq=1")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.max_steps=ten", '`run.max_steps` must be a whole number, but is "ten".'),
        ("run.max_steps=1e5", "`run.max_steps` must be a whole number, but is 100000.0."),
        ("run.max_steps=true", "`run.max_steps` must be a whole number, but is true."),
        ('optimizer.peak_lr="1"', '`optimizer.peak_lr` must be a number, but is "1".'),
        ("engine.kind=zero4", '`engine.kind` must be one of ddp, zero1, zero2, zero3, but is "zero4".'),
        ("optimizer.betas=[0.9]", "`optimizer.betas` must be a list of 2, each a number, but is [0.9]."),
        ("optimizer.betas=[0.9, a]", '`optimizer.betas.1` must be a number, but is "a".'),
        ("data.train=[3]", "`data.train.0` must be a section of settings, but is 3."),
        ("tracking.wandb=1", "`tracking.wandb` must be a section of settings, but is 1."),
    ],
)
def test_a_wrong_type_is_refused(path: Path, override: str, message: str) -> None:
    assert refusal(path, override) == message


def test_what_is_required_is_asked_for(path: Path) -> None:
    path.write_text("data: {train: [{builtin: phrasebook}]}")
    assert refusal(path).startswith("`run` is missing")
    path.write_text("run:\n  seed: 1")
    assert refusal(path).startswith("`run.directory` is missing")


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


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("run: {directory: a", "line 1 is not valid YAML"),
        ("run: {directory: a}\nrun: {directory: b}", "line 2 is not valid YAML: `run` is given twice"),
        ("- run", "must hold sections"),
        ("", "must hold sections"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(path: Path, text: str, part: str) -> None:
    path.write_text(text)
    assert part in refusal(path)


def test_a_file_that_cannot_be_read_is_refused(path: Path) -> None:
    assert "nowhere.yaml cannot be read: No such file" in refusal(path.with_name("nowhere.yaml"))
    assert "cannot be read" in refusal(path.parent)
    path.write_bytes(b"run: {directory: \xff}")
    assert "must be UTF-8" in refusal(path)


@pytest.mark.parametrize(
    "override", ["run.max_steps", "=3", "data.train.1.weight=2", "model.d_model.x=3", "run.seed=[1"]
)
def test_a_malformed_override_is_refused(path: Path, override: str) -> None:
    refusal(path, override)


def test_what_is_written_reads_back_equal(path: Path, tmp_path: Path) -> None:
    overrides = [
        "run.directory='7e-4'",
        "tracking.wandb.name='true'",
        "tracking.wandb.entity='née: #1'",
        "optimizer.eps=1e-9",
        "model.preset=small",
        "engine.activation_checkpointing=2",
        "data.valid=[{hub: a/b, languages: [no, en], name: '010'}]",
    ]
    config = load(path, overrides)
    written = tmp_path / "written.yaml"
    written.write_text(dump(config))
    assert load(written) == config
    assert differences(load(written), config) == []
    assert dump(load(written)) == dump(config)


def changed(config: Config, setting: str) -> Config:
    """The same configuration with another, not necessarily sensible, value of one setting."""
    section, _, name = setting.partition(".")
    part = getattr(config, section)
    if "." in name:
        inner, _, name = name.partition(".")
        return replace(config, **{section: replace(part, **{inner: replace(getattr(part, inner), **{name: "other"})})})
    return replace(config, **{section: replace(part, **{name: "other"})})


FIXED = {
    "run.seed",
    "tokenizer.vocab_size",
    "tokenizer.path",
    "model.d_model",
    "model.norm",
    "data.train",
    "data.num_lanes",
    "data.window",
    "data.max_length",
    "optimizer.betas",
}
FREE = {
    "run.max_steps",
    "data.max_tokens",
    "data.valid",
    "engine.kind",
    "engine.precision",
    "optimizer.peak_lr",
    "checkpoint.keep_last",
    "evaluation.beam_size",
    "tracking.wandb.mode",
}


@pytest.mark.parametrize("setting", sorted(FIXED))
def test_a_run_cannot_go_on_with_another_past(path: Path, setting: str) -> None:
    config = load(path)
    with pytest.raises(UserError, match=f"differs in `{setting}`; give it its old value or"):
        require_same_run(config, changed(config, setting))


@pytest.mark.parametrize("setting", sorted(FREE))
def test_a_run_may_go_on_differently(path: Path, setting: str) -> None:
    config = load(path)
    other = changed(config, setting)
    assert differences(config, other) == [setting]
    require_same_run(config, other)


def test_all_keys_that_differ_are_named(path: Path) -> None:
    old, new = load(path), load(path, ["run.seed=2", "model.d_ff=64", "run.max_steps=7"])
    with pytest.raises(UserError, match=r"differs in `run.seed`, `model.d_ff`; give them their old values"):
        require_same_run(old, new)


def test_the_table_of_changeable_settings_names_existing_ones() -> None:
    for entry in CHANGEABLE:
        names = [name for name in known_settings() if name == entry or (entry.endswith(".") and name.startswith(entry))]
        assert names, entry
