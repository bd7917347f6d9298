"""The variant table: data only, importable without MLX. A new variant is a new row, and adds no branch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ltx_models.errors import UnknownVariant

__all__ = ["UNLISTED", "VARIANTS", "Variant", "find_variant"]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One model that a worker can hold, with what a request means for it when it does not say.

    checkpoint, text_encoder, tokenizer: paths inside the package.
    ram_gb: what a render of it may use in all, in units of 10**9 bytes.
    num_steps, guidance_scale, negative_prompt, width, height, num_frames, frame_rate (frames a second),
    decode_timestep, decode_noise_scale: the defaults of a request.
    weights_gb, gb_per_megapixel: the memory of its process with all weights at the widest precision, and of
    decoding one million output pixels (width x height x frames); how they were measured: `ltx_models.memory`.
    """

    name: str
    description: str
    checkpoint: str
    text_encoder: str
    tokenizer: str
    ram_gb: int
    num_steps: int
    guidance_scale: float
    negative_prompt: str
    width: int
    height: int
    num_frames: int
    frame_rate: float
    decode_timestep: float
    decode_noise_scale: float
    weights_gb: float
    gb_per_megapixel: float

    def defaults(self) -> dict[str, Any]:
        """The values of a GenerationRequest's fields that this variant fills in."""
        names = (
            "negative_prompt width height num_frames frame_rate num_steps guidance_scale decode_timestep"
            " decode_noise_scale"
        )
        return {name: getattr(self, name) for name in names.split()}


_TABLE = (
    Variant(
        name="pocket",
        description="a small bundled model that draws one moving coloured shape; needs no download",
        checkpoint="pocket/pocket.safetensors",
        text_encoder="pocket/text_encoder",
        tokenizer="pocket/tokenizer/spiece.model",
        ram_gb=1,
        num_steps=8,
        guidance_scale=3.0,
        negative_prompt="",
        width=128,
        height=128,
        num_frames=25,
        frame_rate=12.0,
        decode_timestep=0.05,
        decode_noise_scale=0.025,
        weights_gb=0.15,
        gb_per_megapixel=0.4,
    ),
)

UNLISTED = Variant(
    name="files",
    description="files named by the caller",
    checkpoint="",
    text_encoder="",
    tokenizer="",
    ram_gb=25,
    num_steps=40,
    guidance_scale=3.0,
    negative_prompt="",
    width=768,
    height=512,
    num_frames=97,
    frame_rate=25.0,
    decode_timestep=0.05,
    decode_noise_scale=0.025,
    weights_gb=16.0,
    gb_per_megapixel=0.1,
)
"""LTX-Video's usual values, for a pipeline of files that no row of the table names. Its memory is an estimate from the
file sizes of the 2B model in bfloat16."""

VARIANTS = {row.name: row for row in _TABLE}


def find_variant(name: str) -> Variant:
    """The row of that name. Raises UnknownVariant, which names those that exist."""
    try:
        return VARIANTS[name]
    except KeyError:
        raise UnknownVariant(f"there is no variant {name!r}; the known ones are: {', '.join(VARIANTS)}") from None
