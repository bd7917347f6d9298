"""What `ltx models convert` checks and writes of each part of LTX-Video."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx

from ltx_models.checkpoint import Weights, open_checkpoint, parse_config, read_json
from ltx_models.convert import Conversion, Network
from ltx_models.errors import CheckpointError
from ltx_models.families.ltxv import TEXT_ENCODER_MATRICES
from ltx_models.schedulers import SchedulerConfig
from ltx_models.text_encoders.t5 import check_text_encoder, text_encoder_weights
from ltx_models.text_encoders.tokenizer import Tokenizer
from ltx_models.transformers.ltxv import check_transformer
from ltx_models.vae import check_vae

__all__ = ["checkpoint", "text_encoder", "tokenizer"]


def checkpoint(source: Path, _facts: Mapping[str, Any]) -> Conversion:
    """Return what is written of a checkpoint. Raise CheckpointError unless it is what its config describes."""
    file = open_checkpoint(source)
    channels = check_transformer(file).caption_channels
    check_vae(file)
    if "scheduler" in file.config:
        parse_config(SchedulerConfig, file.section("scheduler"), {}, source=f"the scheduler config of {file.path}")
    return Conversion(
        source=source,
        configs={"config.json": file.config},
        networks={
            section.files[0]: Network(weights=partial(file.weights, section.name), matrices=section.matrices)
            for section in file.layout.sections
        },
        left_out=file.left_out,
        facts={"channels": channels, "checkpoint": file.path},
    )


def text_encoder(source: Path, facts: Mapping[str, Any]) -> Conversion:
    """Return what is written of a Hugging Face T5 folder.

    Raises:
        CheckpointError: It is none, or the transformer was trained with another one.
    """
    config = check_text_encoder(source)
    if config.d_model != facts["channels"]:
        raise CheckpointError(
            f"the text encoder {source} makes embeddings of {config.d_model} channels; {facts['checkpoint']} was"
            f" trained with {facts['channels']}"
        )
    return Conversion(
        source=source,
        configs={"text_encoder/config.json": read_json(source / "config.json")},
        networks={
            "text_encoder/model.safetensors": Network(
                weights=partial(_bfloat16_weights, source), matrices=TEXT_ENCODER_MATRICES
            )
        },
        facts={"vocabulary": config.vocab_size},
    )


def _bfloat16_weights(source: Path) -> Weights:
    """Return the tensors, in bfloat16 where they are in float16, which the text encoder's activations overflow."""
    return {
        name: value.astype(mx.bfloat16) if value.dtype == mx.float16 else value
        for name, value in text_encoder_weights(source).items()
    }


def tokenizer(source: Path, facts: Mapping[str, Any]) -> Conversion:
    """Return what is written of a `spiece.model`. Raise CheckpointError where it is another text encoder's."""
    Tokenizer(source, facts.get("vocabulary"))
    return Conversion(source=source, copies={"tokenizer/spiece.model": source})
