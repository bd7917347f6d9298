"""The networks of LTX-Video by their names, with the types that the pipeline and the tests use them as."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from ltx_models.checkpoint import parse_config
from ltx_models.errors import CheckpointError
from ltx_models.ltxv.footprint import SMALLEST_PLAN, decode_plans, decode_working
from ltx_models.memory import DecodePlan, LatentSize
from ltx_models.pipeline.residency import Models
from ltx_models.request import GenerationRequest
from ltx_models.schedulers import SchedulerConfig
from ltx_models.text_encoders.t5 import T5Encoder, text_encoder_config
from ltx_models.text_encoders.tokenizer import Tokenizer
from ltx_models.transformers.ltxv import Transformer, TransformerConfig
from ltx_models.vae import VAE, VAEEncoder

__all__ = ["LTXVModels"]


class LTXVModels(Models):
    """LTX-Video's networks. Every attribute may raise CheckpointError."""

    @property
    def text_encoder(self) -> T5Encoder:
        """The T5 encoder."""
        model: T5Encoder = self.get("text_encoder")
        return model

    @property
    def transformer(self) -> Transformer:
        """The diffusion transformer."""
        model: Transformer = self.get("transformer")
        return model

    @property
    def vae(self) -> VAE:
        """The VAE's decoder."""
        model: VAE = self.get("vae")
        return model

    @property
    def vae_encoder(self) -> VAEEncoder:
        """The VAE's encoder."""
        model: VAEEncoder = self.get("vae_encoder")
        return model

    def vae_during_denoise(self) -> VAE | None:
        """Return the VAE for use while the transformer works; None where the two do not fit together."""
        model: VAE | None = self.get_beside("vae", "transformer")
        return model

    def text_encoder_during_decode(self) -> T5Encoder | None:
        """Return the text encoder for use between two parts of a decode.

        It is None where it is not in memory already, or the budget does not allow both at once.
        """
        model: T5Encoder | None = self.get_resident("text_encoder")
        return model

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The text encoder's tokenizer."""
        return Tokenizer(self.open("tokenizer"), text_encoder_config(self.open("text_encoder")).vocab_size)

    @cached_property
    def scheduler(self) -> SchedulerConfig:
        """The checkpoint's config of how timesteps are chosen."""
        file = self.open("checkpoint")
        return parse_config(
            SchedulerConfig, file.section("scheduler"), {}, source=f"the scheduler config of {file.path}"
        )

    @cached_property
    def transformer_config(self) -> TransformerConfig:
        """The transformer's sizes, read without the transformer."""
        file = self.open("checkpoint")
        source = f"the transformer config of {file.path}"
        return parse_config(TransformerConfig, file.section("transformer"), {}, source=source)

    def expected_plans(self, _request: GenerationRequest) -> dict[str, Any]:
        """Return the decode without tiles that needs the least memory."""
        return {"vae": SMALLEST_PLAN}

    def decode_plans(self, size: LatentSize) -> Iterator[DecodePlan]:
        """Yield plans for a decode in the memory that resident models leave."""
        model = self.variant.architecture
        for index, plan in enumerate(decode_plans(model, size, self.left_for("vae"))):
            self._busy = None if index else decode_working(model, size, plan)
            yield plan

    def check_loaded(self) -> None:
        """Raise CheckpointError where the transformer was trained with another text encoder."""
        text_encoder: Any = self._loaded.get("text_encoder")
        expected = self.transformer_config.caption_channels
        if text_encoder and text_encoder.config.d_model != expected:
            self._loaded.clear()
            files = self._files
            raise CheckpointError(
                f"the text encoder {files['text_encoder']} makes embeddings of {text_encoder.config.d_model}"
                f" channels; {files['checkpoint']} was trained with {expected}"
            )
