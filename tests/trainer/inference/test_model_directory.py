"""What is saved comes back the same, from each of the three places a model can be in; what is damaged is reported."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.transformer import Transformer
from tests.trainer.conftest import TinyRun, sentences
from trainer.data.config import TokenizerConfig
from trainer.data.text.tokenizer import train_tokenizer
from trainer.errors import UserError
from trainer.inference.averaging import average
from trainer.inference.model_directory import load, save_model_directory


def same_weights(first: Transformer, second: Transformer) -> bool:
    pairs = zip(first.named_parameters(), second.named_parameters(), strict=True)
    return all(n == m and torch.equal(a, b) for (n, a), (m, b) in pairs)


def saved(run: TinyRun, model: Transformer) -> Path:
    output = run.directory.parent / "models" / "tiny"
    save_model_directory(output, dict(model.named_parameters()), run.config, run.tokenizers)
    return output


def test_a_model_directory_comes_back_as_it_was(tiny_run: TinyRun) -> None:
    model = tiny_run.model(seed=1)
    output = saved(tiny_run, model)
    assert sorted(path.name for path in output.iterdir()) == ["config.yaml", "model.safetensors", "tokenizer.model"]
    assert [path.name for path in output.parent.iterdir()] == ["tiny"]
    loaded = load(output, "cpu")
    assert same_weights(loaded.model, model)
    assert not loaded.model.training
    assert loaded.config == tiny_run.config
    assert loaded.tokenizers.files() == tiny_run.tokenizers.files()


def test_a_model_of_two_vocabularies_comes_back_as_it_was(separate_run: TinyRun) -> None:
    model = separate_run.model(seed=1)
    output = saved(separate_run, model)
    assert sorted(path.name for path in output.iterdir()) == [
        "config.yaml", "model.safetensors", "tokenizer.source.model", "tokenizer.target.model"
    ]  # fmt: skip
    assert {name: table.shape[0] for name, table in model.tables.named_parameters()} == {
        "source.weight": 300, "target.weight": 310
    }  # fmt: skip
    loaded = load(output, "cpu")
    assert same_weights(loaded.model, model)
    assert loaded.tokenizers.files() == separate_run.tokenizers.files()
    assert same_weights(load(separate_run.publish(10, model), "cpu").model, model)
    (output / "tokenizer.target.model").unlink()
    with pytest.raises(UserError, match=r"tokenizer\.target\.model cannot be read"):
        load(output, "cpu")


def test_the_tied_embedding_is_stored_once_and_in_fp32(tiny_run: TinyRun) -> None:
    output = saved(tiny_run, tiny_run.model(seed=1).to(torch.bfloat16))
    weights = load_file(output / "model.safetensors")
    assert sum(weight.shape[0] == tiny_run.tokenizers.target.vocab_size for weight in weights.values()) == 1
    assert {weight.dtype for weight in weights.values()} == {torch.float32}


def test_a_checkpoint_and_a_run_load_like_a_model_directory(tiny_run: TinyRun) -> None:
    first, second = tiny_run.model(seed=1), tiny_run.model(seed=2)
    older, newer = tiny_run.publish(10, first), tiny_run.publish(20, second)
    assert same_weights(load(older, "cpu").model, first)
    assert same_weights(load(newer, "cpu").model, second)
    assert same_weights(load(tiny_run.directory, "cpu").model, second)


def test_a_run_loads_its_best_sound_checkpoint(tiny_run: TinyRun) -> None:
    models = {step: tiny_run.model(seed=step) for step in (10, 20, 30)}
    for step, score in ((10, 21.0), (20, 25.5), (30, 20.0)):
        tiny_run.publish(step, models[step], score)
    assert same_weights(load(tiny_run.directory, "cpu").model, models[20])
    next((tiny_run.directory / "checkpoints" / "step-00000020" / "state").iterdir()).write_bytes(b"torn")
    assert same_weights(load(tiny_run.directory, "cpu").model, models[10])


def test_an_existing_directory_is_not_overwritten(tiny_run: TinyRun) -> None:
    output = saved(tiny_run, tiny_run.model(seed=1))
    with pytest.raises(UserError, match="exists already"):
        saved(tiny_run, tiny_run.model(seed=2))
    assert same_weights(load(output, "cpu").model, tiny_run.model(seed=1))


def test_a_refused_write_leaves_nothing_behind(tiny_run: TinyRun) -> None:
    in_the_way = tiny_run.directory.parent / "file"
    in_the_way.write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        save_model_directory(in_the_way / "model", {}, tiny_run.config, tiny_run.tokenizers)


def test_damaged_and_missing_parts_are_told(tiny_run: TinyRun) -> None:
    output = saved(tiny_run, tiny_run.model(seed=1))
    weights = output / "model.safetensors"
    tensors = load_file(weights)
    name = next(iter(tensors))

    save_file({n: t for n, t in tensors.items() if n != name}, weights)
    with pytest.raises(UserError, match=f"lacks the weight `{name}`"):
        load(output, "cpu")
    save_file(tensors | {name: torch.zeros(7)}, weights)
    with pytest.raises(UserError, match=f"`{name}` .* has 7 numbers instead of"):
        load(output, "cpu")
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors cannot be read"):
        load(output, "cpu")
    (output / "tokenizer.model").unlink()
    with pytest.raises(UserError, match=r"tokenizer\.model cannot be read"):
        load(output, "cpu")


def test_what_is_no_model_is_told(tiny_run: TinyRun) -> None:
    with pytest.raises(UserError, match="is no model: give a model directory"):
        load(tiny_run.directory.parent / "elsewhere", "cpu")
    (tiny_run.directory / "checkpoints").mkdir()
    with pytest.raises(UserError, match="no usable checkpoint"):
        load(tiny_run.directory, "cpu")
    damaged = tiny_run.publish(10, tiny_run.model(seed=1))
    next((damaged / "state").iterdir()).write_bytes(b"torn")
    with pytest.raises(UserError, match=r"step-00000010 is damaged"):
        load(damaged, "cpu")


def test_a_missing_device_is_told(tiny_run: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    output = saved(tiny_run, tiny_run.model(seed=1))
    with pytest.raises(UserError, match="the device is cuda, but torch finds no CUDA device"):
        load(output, "cuda")
    assert load(output, "auto").device == torch.device("cpu")


def test_another_tokenizer_under_the_same_name_is_refused(tiny_run: TinyRun) -> None:
    """Of the same size, so that nothing else would notice."""
    model = tiny_run.model(seed=1)
    output, checkpoint = saved(tiny_run, model), tiny_run.publish(10, model)
    other = train_tokenizer(iter(sentences(200, seed=7)), TokenizerConfig(vocab_size=300)).model_bytes
    assert other != tiny_run.tokenizers.source.model_bytes
    for directory in (output, tiny_run.directory):
        (directory / "tokenizer.model").write_bytes(other)
    with pytest.raises(UserError, match=r"model\.safetensors were trained with another tokenizer"):
        load(output, "cpu")
    for path in (tiny_run.directory, checkpoint):
        with pytest.raises(UserError, match=r"step-00000010 was made with another tokenizer"):
            load(path, "cpu")
    with pytest.raises(UserError, match=r"step-00000010 was made with another tokenizer"):
        average(tiny_run.directory, 1, output.with_name("average"))


def test_a_model_directory_of_before_is_loaded_without_that_check(tiny_run: TinyRun) -> None:
    output = saved(tiny_run, tiny_run.model(seed=1))
    weights = output / "model.safetensors"
    save_file(load_file(weights), weights)
    load(output, "cpu")
