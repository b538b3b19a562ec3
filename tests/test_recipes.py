"""Every recipe that ships is a valid configuration of a model that can be built, with the numbers it claims."""

import os
import subprocess
import sys
from pathlib import Path
from typing import cast

import pyarrow
import pyarrow.parquet
import pytest
import torch

from model.transformer import Transformer
from tests.limits import patience
from trainer.configuration.reading import load
from trainer.data.corpora.phrasebook import corpus as phrasebook
from trainer.reporting.metrics_file import read_metrics

RECIPES = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
WMT = [path for path in RECIPES if path.name.startswith("wmt14")]


def test_the_recipes_are_there() -> None:
    assert {"quickstart", "multi30k_en_de", "wmt14_en_de_base", "wmt14_en_de_big", "wmt14_en_fr_big"} <= {
        path.stem for path in RECIPES
    }


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_loads_and_its_model_can_be_built(path: Path) -> None:
    config = load(path)
    with torch.device("meta"):
        model = Transformer(config.model, config.tokenizer.vocab_size, pad_id=0)
    assert config.run.directory == f"runs/{path.stem}"
    embedding = config.tokenizer.vocab_size * config.model.d_model
    assert sum(parameter.numel() for parameter in model.parameters()) > embedding


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_what_it_needs_and_what_to_expect(path: Path) -> None:
    comment = path.read_text()
    assert f"dragoman train configs/{path.name}" in comment
    assert "Hardware:" in comment
    assert "Expected result:" in comment


@pytest.mark.parametrize("path", WMT, ids=lambda path: path.stem)
def test_a_paper_recipe_has_the_papers_numbers(path: Path) -> None:
    """Vaswani et al. 2017, sections 5.1 to 5.4 and 6.1."""
    config = load(path)
    optimizer = config.optimizer
    assert optimizer.peak_lr == pytest.approx(config.model.d_model**-0.5 * optimizer.warmup_steps**-0.5, rel=1e-3)
    assert config.data.max_tokens * config.data.micro_batches_per_step == pytest.approx(25_000, rel=0.01)
    assert (optimizer.betas, optimizer.eps, optimizer.label_smoothing) == ((0.9, 0.98), 1e-9, 0.1)
    assert (config.evaluation.beam_size, config.evaluation.length_penalty) == (4, 0.6)
    dropout = {"wmt14_en_de_base": 0.1, "wmt14_en_de_big": 0.3, "wmt14_en_fr_big": 0.1}
    assert config.model.dropout == dropout[path.stem]
    assert config.run.max_steps == (100_000 if path.stem.endswith("base") else 300_000)


@pytest.mark.slow
@pytest.mark.parametrize("path", WMT, ids=lambda path: path.stem)
def test_a_wmt_recipe_trains_on_files_in_the_hubs_shape(path: Path, tmp_path: Path) -> None:
    """Local Parquet with the nested `translation` column stands in for the Hub; model and text are small."""
    languages = load(path).data.train[0].languages
    assert languages is not None
    for name, split in (("train", "train"), ("validation", "valid")):
        rows = [
            dict(zip(languages, reversed(pair), strict=True))
            for pair in list(phrasebook.pairs(cast(phrasebook.Split, split)))[:2000]
        ]
        table = pyarrow.table({"translation": rows})
        pyarrow.parquet.write_table(table, tmp_path / f"{name}-00000-of-00001.parquet", row_group_size=500)
    corpus = f"parquet: {tmp_path}/{{}}-*.parquet, languages: [{', '.join(languages)}]"
    changes = [
        f"run.directory={tmp_path / 'run'}",
        f"data.train=[{{{corpus.format('train')}}}]",
        f"data.valid=[{{{corpus.format('validation')}, name: newstest2013}}]",
        *("run.max_steps=2", "tokenizer.vocab_size=500", "data.max_tokens=256", "evaluation.max_sentences=4"),
        *("model.d_model=32", "model.d_ff=64", "model.num_encoder_layers=1", "model.num_decoder_layers=1"),
    ]
    ended = subprocess.run(
        [sys.executable, "-m", "launch", "train", str(path), *changes],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(path.parents[1])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=patience(250),
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    kinds = [record["kind"] for record in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert "valid" in kinds
    assert (tmp_path / "run" / "checkpoints" / "step-00000002").is_dir()
