"""Model directories: the weights, the configuration and the tokenizer of one trained model.

    model.safetensors (fp32, by parameter name)   config.yaml   tokenizer.model (or one for each language)

It is read without an engine. A run directory or a checkpoint can be loaded in its place.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.transformer import Transformer
from trainer.checkpoints.directory import newest_checkpoint, read_weights, verify
from trainer.checkpoints.retention import best_first
from trainer.checkpoints.trainer_document import TrainerDocument
from trainer.configuration import reading as configuration
from trainer.configuration.sections import Config
from trainer.data.text.tokenizer import TokenizerPair
from trainer.engine.device import choose_device
from trainer.errors import UserError
from trainer.files import publish_folder
from trainer.run_directory.layout import CHECKPOINTS, CONFIG, MANIFEST, WEIGHTS, list_checkpoints

_TOKENIZER = "tokenizer"  # in the header of the weights: the fingerprint of the tokenizers


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode on its device, with what is needed to feed it."""

    model: Transformer
    tokenizers: TokenizerPair
    config: Config
    device: torch.device


def save_model_directory(
    directory: Path, weights: Mapping[str, Tensor], config: Config, tokenizers: TokenizerPair
) -> None:
    """Writes a model directory under a temporary name and publishes it by one rename.

    Raises UserError if `directory` exists already or cannot be written; no incomplete folder stays behind.
    """
    refuse_existing(directory)
    temporary = directory.with_name(f".tmp-{directory.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        fp32 = {name: weight.detach().to("cpu", torch.float32).contiguous() for name, weight in weights.items()}
        save_file(fp32, temporary / WEIGHTS, metadata={"format": "pt", _TOKENIZER: tokenizers.fingerprint})
        (temporary / CONFIG).write_text(configuration.dump(config), encoding="utf-8")
        for name, content in tokenizers.files().items():
            (temporary / name).write_bytes(content)
        publish_folder(temporary, directory)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(f"the model directory {directory} cannot be written: {error}.") from error


def refuse_existing(directory: Path) -> None:
    """Raises UserError if the path of a new model directory exists already."""
    if directory.exists():
        raise UserError(f"{directory} exists already: name another output directory or remove it first.")


def load(path: Path, device: str = "auto") -> LoadedModel:
    """Loads a model directory, a checkpoint, or the best checkpoint of a run directory (without scores: the newest).

    `device` `auto` takes CUDA if there is a GPU. On CUDA a model that was trained in bf16 computes in bf16, which the
    hardware is made for; on the CPU it computes in fp32. Raises UserError if something is missing or damaged.
    """
    home, checkpoint = _locate(path)
    config = configuration.load_resolved(home / CONFIG)
    tokenizers = TokenizerPair.load(home)
    if checkpoint:
        TrainerDocument.read(checkpoint).require_tokenizer(tokenizers.fingerprint, checkpoint)
    else:
        _require_tokenizer(home, tokenizers.fingerprint)
    place = choose_device(device, "the device", index=0)
    bf16 = place.type == "cuda" and config.engine.precision == "bf16"
    model = build_model(config, tokenizers, torch.bfloat16 if bf16 else torch.float32).eval()
    put_weights(model, read_weights(checkpoint) if checkpoint else _read_model_weights(home / WEIGHTS), path)
    return LoadedModel(model.to(place, model.compute_dtype), tokenizers, config, place)


def build_model(config: Config, tokenizers: TokenizerPair, compute_dtype: torch.dtype = torch.float32) -> Transformer:
    """Returns the model in training mode, with fp32 parameters on the CPU drawn from torch's global generator."""
    return Transformer(
        config.model,
        tokenizers.target.vocab_size,
        pad_id=tokenizers.target.pad_id,
        source_vocab_size=tokenizers.source.vocab_size,
        activation_checkpointing=config.engine.activation_checkpointing,
        compute_dtype=compute_dtype,
    )


def put_weights(model: nn.Module, weights: Mapping[str, Tensor], origin: Path | str) -> None:
    """Copies weights by name, of the parameter's shape or flattened, into `model`.

    Raises UserError, which names `origin`, if they are not the weights of such a model.
    """
    parameters = dict(model.named_parameters())
    if different := sorted(parameters.keys() ^ weights.keys()):
        where = "lacks" if different[0] in parameters else "has besides its configuration"
        raise UserError(f"{origin} {where} the weight `{different[0]}`: weights and config.yaml belong to two models.")
    with torch.no_grad():
        for name, parameter in parameters.items():
            if parameter.numel() != weights[name].numel():
                raise UserError(
                    f"the weight `{name}` in {origin} has {weights[name].numel()} numbers instead of "
                    f"{parameter.numel()}: weights and config.yaml belong to two models."
                )
            parameter.copy_(weights[name].view_as(parameter))


def _locate(path: Path) -> tuple[Path, Path | None]:
    """Returns the folder of configuration and tokenizer, and the checkpoint with the weights (None: in the folder)."""
    if (path / WEIGHTS).exists():
        return path, None
    if (path / CHECKPOINTS).is_dir():
        return path, _best_checkpoint(path)
    if (path / MANIFEST).exists():
        if problems := verify(path):
            raise UserError(f"the checkpoint {path} is damaged: {'; '.join(problems)}; use another one of its run.")
        return path.resolve().parent.parent, path
    raise UserError(
        f"{path} is no model: give a model directory (with {WEIGHTS}), a run directory (with {CHECKPOINTS}/) "
        f"or a checkpoint (with {MANIFEST})."
    )


def _best_checkpoint(run_directory: Path) -> Path:
    """Returns the undamaged checkpoint with the highest validation score; if none was scored, the newest."""
    metric = configuration.load_resolved(run_directory / CONFIG).evaluation.metric
    for checkpoint in best_first(list_checkpoints(run_directory), metric):
        if not verify(checkpoint):
            return checkpoint
    return newest_checkpoint(run_directory)


def _require_tokenizer(directory: Path, fingerprint: str) -> None:
    """Raises UserError if the weights were saved with another tokenizer. Older files do not record it."""
    path = directory / WEIGHTS
    try:
        with safe_open(path, framework="pt") as file:
            recorded = (file.metadata() or {}).get(_TOKENIZER)
    except (OSError, SafetensorError):
        return  # reported when the weights are read
    if recorded not in (None, fingerprint):
        raise UserError(
            f"the weights in {path} were trained with another tokenizer than the one next to them: bring that one "
            "back, or export the model again."
        )


def _read_model_weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({error}): the file is damaged, export the model again.") from error
