from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.data.config import CorpusConfig, DataConfig, FilterConfig
from trainer.data.preparation import sample as sample_module
from trainer.data.preparation.sample import sample_corpora, sample_stores
from trainer.data.stores.store import Store
from trainer.errors import UserError

MakeCorpus = Callable[..., CorpusConfig]
NO_FILTERS = FilterConfig(max_length_ratio=None, copies=False, min_letters=None)


def corpus(make_corpus: MakeCorpus, name: str, size: int, **settings: float) -> CorpusConfig:
    return make_corpus([f"{name}{n}" for n in range(size)], [f"{name}{n}" for n in range(size)], name, **settings)


def of(name: str, lines: list[str]) -> list[int]:
    return [int(line.removeprefix(name)) for line in lines if line.startswith(name)]


def test_the_sample_is_bounded_fair_and_fixed(make_corpus: MakeCorpus) -> None:
    data = DataConfig(train=(corpus(make_corpus, "a", 3000),), filters=NO_FILTERS)
    (sources, targets), sizes = sample_corpora(data, 900)
    assert sources == targets, "pairs stay together"
    assert sizes == [3000]
    assert len(set(sources)) == 900
    thirds = [sum(n // 1000 == third for n in of("a", sources)) for third in range(3)]
    assert all(240 < count < 360 for count in thirds), thirds
    assert sample_corpora(data, 900) == ((sources, targets), sizes)


def test_all_pairs_are_taken_where_there_is_room(make_corpus: MakeCorpus) -> None:
    data = DataConfig(train=(corpus(make_corpus, "a", 300), corpus(make_corpus, "b", 100)), filters=NO_FILTERS)
    (sources, _), _ = sample_corpora(data, 10_000)
    assert sorted(of("a", sources)) == list(range(300))
    assert sorted(of("b", sources)) == list(range(100))


@pytest.mark.parametrize(("temperature", "counts"), [(1.0, [300, 200, 100]), (2.0, [250, 204, 144])])
def test_corpora_have_their_shares_of_the_mixture(
    make_corpus: MakeCorpus, temperature: float, counts: list[int]
) -> None:
    """With temperature 2 as the square roots of 3000, 2 * 1000 and 1000."""
    a, b = corpus(make_corpus, "a", 3000), corpus(make_corpus, "b", 1000, weight=2.0)
    data = DataConfig(train=(a, b, corpus(make_corpus, "c", 1000)), filters=NO_FILTERS, temperature=temperature)
    (sources, _), _ = sample_corpora(data, 600)
    assert [len(of(name, sources)) for name in "abc"] == counts


def test_only_fit_pairs_are_taken_however_late_they_come(
    make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the sample is that of the fit pairs alone, wherever the reservoir is cut back."""
    lines = [f"x{n}" if n % 3 else "" for n in range(3000)]
    data = DataConfig(train=(make_corpus(lines, ["t"] * 3000),), filters=NO_FILTERS)
    samples = []
    for growth in (1.01, 100.0):
        monkeypatch.setattr(sample_module, "_GROWTH", growth)
        samples.append(sample_corpora(data, 200)[0])
    assert samples[0] == samples[1]
    assert len(samples[0][0]) == 200
    assert all(n % 3 for n in of("x", samples[0][0]))


def test_a_corpus_without_a_fit_pair_is_refused(make_corpus: MakeCorpus) -> None:
    data = DataConfig(train=(make_corpus(["", "same"], ["a", "same"]),))
    with pytest.raises(UserError, match=r"no pair of the corpus .*corpus\.en can be used: 1 copy, 1 empty source"):
        sample_corpora(data, 100)


def test_stores_of_text_give_the_like(make_store: Callable[..., Store], tmp_path: Path) -> None:
    stores = [make_store(300, seed=0, kind="text"), make_store(100, seed=1, kind="text")]
    unused = CorpusConfig(builtin="phrasebook")
    data = DataConfig(train=(unused, CorpusConfig(builtin="phrasebook", weight=3.0)))
    sources, targets = sample_stores(stores, data, 100)
    assert len(sources) == len(targets) == 100
    assert [source.split()[0] for source in sources] == [target.split()[0] for target in targets]
    assert len(set(sources[:50])) == 50, "no pair twice"
    assert len({source.split()[0] for source in sources[50:]}) == 50
    assert sample_stores(stores, data, 100) == (sources, targets)
    everything, _ = sample_stores(stores[:1], DataConfig(train=(unused,)), 10_000)
    assert len(everything) == 300


def test_each_corpus_gives_at_least_one_pair(make_corpus: MakeCorpus, make_store: Callable[..., Store]) -> None:
    corpora = tuple(corpus(make_corpus, name, 100) for name in "abc")
    (sources, _), _ = sample_corpora(DataConfig(train=corpora, filters=NO_FILTERS), 2)
    assert sorted(source[0] for source in sources) == ["a", "b", "c"]
    stores = [make_store(100, seed=seed, kind="text") for seed in range(3)]
    assert len(sample_stores(stores, DataConfig(train=corpora), 2)[0]) == 3
