"""Decide which models are in memory: all of a variant's where the budget allows, else one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import mlx.core as mx
import mlx.nn as nn

from ltx_models import memory
from ltx_models.checkpoint import Checkpoint, open_checkpoint, parse_config
from ltx_models.errors import CheckpointError, InvalidRequest, OutOfMemory
from ltx_models.families.variants import VARIANTS
from ltx_models.files.model_files import find_files
from ltx_models.memory import DecodePlan, LatentSize, machine_memory
from ltx_models.request import GenerationRequest
from ltx_models.schedulers import SchedulerConfig
from ltx_models.text_encoders.t5 import T5Encoder, load_text_encoder, text_encoder_config, text_encoder_files
from ltx_models.text_encoders.tokenizer import Tokenizer
from ltx_models.transformers.ltxv import Transformer, TransformerConfig, load_transformer
from ltx_models.vae import VAE, VAEEncoder, load_vae, load_vae_encoder

if TYPE_CHECKING:
    from ltx_models.families.variants import Variant

__all__ = ["Models"]

M = TypeVar("M", bound=nn.Module)
PROGRESS = {"text_encoder": (0.0, "the text encoder"), "transformer": (0.4, "the transformer"), "vae": (0.8, "the VAE")}
"""The fraction of loading that is done when each model that every render uses is next, and the model's name."""


class Models:
    """A variant's models, each read from disk when it is first used.

    Using one frees others that do not fit with it in `budget` bytes, so no caller should keep a reference to one while
    using the next. Every attribute may raise CheckpointError.
    """

    def __init__(self, variant: Variant, dtype: mx.Dtype) -> None:
        self.variant = variant
        self.dtype = dtype
        self.budget = memory.budget(variant, *_machine())
        self._working: dict[str, int] = {}
        self._loaded: dict[str, nn.Module] = {}
        self._decoding: int | None = None
        """Bytes that the current decode works with; None where it has run out of memory."""
        mx.set_cache_limit(memory.cache_limit(self.budget))

    def expect(self, request: GenerationRequest) -> None:
        """Make room for a resolved request. Raise OutOfMemory if it needs more than this machine's budget."""
        if self._is_listed:
            try:
                memory.check_fits(self.variant, request, self.budget)
            except InvalidRequest as error:
                raise OutOfMemory(str(error)) from error
        self._working = memory.phase_working(self.variant, request, memory.SMALLEST_PLAN)

    def load(self, report: Callable[[float, str], None], *, text_encoder: bool = True) -> None:
        """Read what every render uses, as far as it fits together.

        Args:
            report: Called with the fraction done and what is next.
            text_encoder: Include the text encoder; otherwise it is read for the first text that must be encoded.
        """
        *others, last = PROGRESS
        gone = {*memory.evictions(others, last, self._weights, self._working, self._available)}
        left_out = gone | self._loaded.keys() | (set() if text_encoder else {"text_encoder"})
        wanted = [name for name in PROGRESS if name not in left_out]
        if not wanted:
            return
        for name in wanted:
            fraction, title = PROGRESS[name]
            report(fraction, f"loading {title}")
            getattr(self, name)
        report(1.0, "all models are loaded" if not gone else "the models that fit together are loaded")

    def vae_during_denoise(self) -> VAE | None:
        """Return the VAE for use while the transformer works; None where the two do not fit together."""
        gone = memory.evictions({*self._loaded, "vae"}, "transformer", self._weights, self._working, self._available)
        if "vae" in gone:
            return None
        for name in gone:
            self._loaded.pop(name, None)
        return self.vae

    def text_encoder_during_decode(self) -> T5Encoder | None:
        """Return the text encoder for use between two parts of a decode.

        It is None where it is not in memory already, or the budget does not allow both at once.
        """
        if "text_encoder" not in self._loaded or self._decoding is None:
            return None
        weights = sum(self._weights[name] for name in self._loaded)
        if weights + self._working.get("text_encoder", 0) + self._decoding > self._available:
            return None
        return self.text_encoder

    def clear(self) -> None:
        """Free all models."""
        self._loaded.clear()
        mx.clear_cache()

    @property
    def text_encoder(self) -> T5Encoder:
        """The T5 encoder."""
        quantize = self.variant.quantize_text_encoder
        return self._get("text_encoder", lambda: load_text_encoder(self._files.text_encoder, self.dtype, quantize))

    @property
    def transformer(self) -> Transformer:
        """The diffusion transformer."""
        return self._get(
            "transformer",
            lambda: load_transformer(self._checkpoint(), self.dtype, self.variant.quantize_transformer),
        )

    @property
    def vae(self) -> VAE:
        """The VAE's decoder."""
        return self._get("vae", lambda: load_vae(self._checkpoint(), self.dtype))

    @property
    def vae_encoder(self) -> VAEEncoder:
        """The VAE's encoder."""
        return self._get("vae_encoder", lambda: load_vae_encoder(self._checkpoint(), self.dtype))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The text encoder's tokenizer."""
        return Tokenizer(self._files.tokenizer, text_encoder_config(self._files.text_encoder).vocab_size)

    @cached_property
    def scheduler(self) -> SchedulerConfig:
        """The checkpoint's config of how timesteps are chosen."""
        file = self._checkpoint()
        return parse_config(
            SchedulerConfig, file.section("scheduler"), {}, source=f"the scheduler config of {file.path}"
        )

    @cached_property
    def transformer_config(self) -> TransformerConfig:
        """The transformer's sizes, read without the transformer."""
        file = self._checkpoint()
        source = f"the transformer config of {file.path}"
        return parse_config(TransformerConfig, file.section("transformer"), {}, source=source)

    def decode_plans(self, size: LatentSize) -> Iterator[DecodePlan]:
        """Yield plans for a decode in the memory that resident models leave."""
        resident = {*self._loaded, "vae"}
        left = self._available - sum(self._weights[name] for name in resident) - memory.PROCESS_BYTES
        model = self.variant.architecture
        for index, plan in enumerate(memory.decode_plans(model, size, left)):
            self._decoding = None if index else memory.decode_working(model, size, plan)
            yield plan

    def _get(self, name: str, load: Callable[[], M]) -> M:
        if name not in self._loaded:
            for other in memory.evictions(self._loaded, name, self._weights, self._working, self._available):
                self._loaded.pop(other, None)
            mx.clear_cache()
            self._loaded[name] = load()
            self._check_captions()
        model: Any = self._loaded[name]
        return model

    def _check_captions(self) -> None:
        text_encoder: Any = self._loaded.get("text_encoder")
        expected = self.transformer_config.caption_channels
        if text_encoder and text_encoder.config.d_model != expected:
            self._loaded.clear()
            raise CheckpointError(
                f"the text encoder {self._files.text_encoder} makes embeddings of {text_encoder.config.d_model}"
                f" channels; {self._files.checkpoint} was trained with {expected}"
            )

    def _checkpoint(self) -> Checkpoint:
        """Return the checkpoint, opened anew: an open one keeps what was read from it."""
        return open_checkpoint(self._files.checkpoint)

    @cached_property
    def _files(self) -> Any:
        return find_files(self.variant)

    @property
    def _is_listed(self) -> bool:
        return self.variant.name in VARIANTS

    @property
    def _available(self) -> int:
        return self.budget - memory.cache_limit(self.budget)

    @cached_property
    def _weights(self) -> dict[str, int]:
        """Bytes of each model's weights.

        For files outside of the variant table they are the sizes on disk, an upper bound where nothing is widened.
        """
        if self._is_listed:
            return memory.component_weights(self.variant)
        factor = 2 if self.dtype == mx.float32 else 1
        text = sum(path.stat().st_size for path in text_encoder_files(self._files.text_encoder))
        checkpoint = sum(path.stat().st_size for path in self._checkpoint().files)
        return {
            "text_encoder": factor * text,
            "vae_encoder": 0,
            "vae": 0,
            "transformer": factor * checkpoint,
        }


def _machine() -> tuple[int, int | None]:
    """Return the bytes of memory that MLX computes in, and of the working set that it recommends, or None."""
    if mx.default_device() == mx.Device(mx.gpu):
        info: Any = mx.device_info()
        total = info.get("memory_size") or info.get("total_memory")
        if total:
            return int(total), info.get("max_recommended_working_set_size")
    return machine_memory(), None
