"""The variant table: data only, importable without MLX. A new variant is a new row, and adds no branch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ltx_models.errors import UnknownVariant
from ltx_models.families.architectures import LTX_2B, POCKET, Architecture
from ltx_models.families.stages import LTXV_STAGES, Stage

__all__ = ["DEFAULT_VARIANT", "UNLISTED", "VARIANTS", "Files", "Source", "Variant", "find_variant"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Files of one repository of the hub.

    Attributes:
        repository: OWNER/NAME.
        patterns: The files to fetch, as `fnmatch` patterns; each must match a file.
        path: What to open of them: a file, a folder, or "" for the repository itself.
    """

    repository: str
    patterns: tuple[str, ...]
    path: str


Files = str | tuple[Source, ...]
"""Where a part of a model is: a path (relative to the package), or sources, of which the first that the hub has is
used.
"""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A model that a worker can serve, with the default values of a request.

    The fields from num_steps to decode_noise_scale and from stg_scale to image_noise_scale are the defaults of a
    `GenerationRequest`'s fields of the same names.

    Attributes:
        name: The variant's name.
        description: What lists of variants say of it.
        aliases: Other names that find it.
        is_default: Whether it is used where no variant is named; True in one row.
        introduction: What people who render with it are told about it; "" where its description is enough.
        vocabulary: The set of words that it knows, where those are few (`ltx_client.terminal.notices.vocabulary`).
        needs_gpu: Whether a CPU takes too long for its renders.
        checkpoint: The files of its transformer and VAE.
        text_encoder: The files of its text encoder.
        tokenizer: The file of its tokenizer.
        quantize_transformer: Bits to which the transformer's matrices are quantized while they are loaded
            (`ltx_models.layers.quantization`); None keeps their precision.
        quantize_text_encoder: Bits of the text encoder's matrices, likewise.
        timesteps: The schedule that it was distilled for; () where the checkpoint's own sampler makes one.
        ram_gb: What one of its renders may use in all, in units of 10**9 bytes.
        architecture: The sizes of its models, from which its memory is computed (`ltx_models.memory`).
        checkpoint_bits: Bits of a number in the checkpoint's transformer (8 for fp8).
    """

    name: str
    description: str
    aliases: tuple[str, ...] = ()
    is_default: bool = False
    introduction: str = ""
    vocabulary: Literal["shapes"] | None = None
    needs_gpu: bool = True
    checkpoint: Files
    text_encoder: Files
    tokenizer: Files
    quantize_transformer: int | None = None
    quantize_text_encoder: int | None = None
    timesteps: tuple[float, ...] = ()
    ram_gb: int
    num_steps: int
    guidance_scale: float | tuple[float, ...]
    negative_prompt: str
    width: int
    height: int
    num_frames: int
    frame_rate: float
    decode_timestep: float
    decode_noise_scale: float
    architecture: Architecture
    checkpoint_bits: int = 16
    stg_scale: float | tuple[float, ...] = 0.0
    stg_blocks: tuple[int, ...] | tuple[tuple[int, ...], ...] = ()
    stg_mode: str = "attention_values"
    rescale: float | tuple[float, ...] = 1.0
    guidance_timesteps: tuple[float, ...] = ()
    cfg_star: bool = False
    stochastic: bool = False
    skip_first_steps: int = 0
    skip_last_steps: int = 0
    image_noise_scale: float = 0.15

    def defaults(self) -> dict[str, Any]:
        """Return the default values of a GenerationRequest's fields, by name."""
        names = (
            "negative_prompt width height num_frames frame_rate num_steps guidance_scale decode_timestep"
            " decode_noise_scale stg_scale stg_blocks stg_mode rescale guidance_timesteps cfg_star stochastic"
            " skip_first_steps skip_last_steps image_noise_scale"
        )
        return {name: getattr(self, name) for name in names.split()}

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Return the stages of its renders, in order."""
        return LTXV_STAGES


OFFICIAL = "Lightricks/LTX-Video"
SPLIT_PATTERNS = ("config.json", "transformer.safetensors", "vae_config.json", "vae_decoder.safetensors")
"""The files of a repository that has the transformer and the VAE's decoder in files of their own."""
POCKET_INTRODUCTION = "a small bundled model: it knows one coloured shape that moves on a plain background"
DISTILLED_TIMESTEPS = (1.0, 0.9937, 0.9875, 0.9812, 0.9750, 0.9094, 0.7250)

T5_XXL = (
    # 9.5 GB in float16, half of the official shards, which are float32.
    Source(
        repository="PixArt-alpha/PixArt-XL-2-512x512",
        patterns=("text_encoder/config.json", "text_encoder/*.fp16*.safetensors", "text_encoder/*.index.fp16.json"),
        path="text_encoder",
    ),
    Source(
        repository="PixArt-alpha/PixArt-XL-2-1024-MS",
        patterns=("text_encoder/config.json", "text_encoder/*.safetensors", "text_encoder/*.index.json"),
        path="text_encoder",
    ),
)
T5_TOKENIZER = (
    Source(
        repository="PixArt-alpha/PixArt-XL-2-1024-MS",
        patterns=("tokenizer/spiece.model",),
        path="tokenizer/spiece.model",
    ),
)


def _either(repository: str, official_file: str) -> tuple[Source, ...]:
    """Return the repository that the farm's specification names, then the official file."""
    return (
        Source(repository=repository, patterns=SPLIT_PATTERNS, path=""),
        Source(repository=OFFICIAL, patterns=(official_file,), path=official_file),
    )


_TABLE = (
    Variant(
        name="pocket",
        description="a small bundled model that draws one moving coloured shape; needs no download",
        is_default=True,
        introduction=POCKET_INTRODUCTION,
        vocabulary="shapes",
        needs_gpu=False,
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
        architecture=POCKET,
    ),
    Variant(
        name="pocket-distilled",
        description="pocket in 4 steps without guidance, bundled too",
        introduction=POCKET_INTRODUCTION,
        vocabulary="shapes",
        needs_gpu=False,
        checkpoint="pocket/pocket-distilled.safetensors",
        text_encoder="pocket/text_encoder",
        tokenizer="pocket/tokenizer/spiece.model",
        timesteps=(1.0, 0.75, 0.5, 0.25),
        ram_gb=1,
        num_steps=4,
        guidance_scale=1.0,
        negative_prompt="",
        width=128,
        height=128,
        num_frames=25,
        frame_rate=12.0,
        decode_timestep=0.05,
        decode_noise_scale=0.025,
        architecture=POCKET,
    ),
    Variant(
        name="distilled-fp8",
        aliases=("distilledFP8",),
        description="LTX-Video 2B 0.9.8 distilled, 8-bit transformer: 7 steps, for Macs of 16 GB",
        checkpoint=_either("Acelogic/ltx-video-2b-distilled-v0.9.7-fp8-mlx", "ltxv-2b-0.9.8-distilled-fp8.safetensors"),
        text_encoder=T5_XXL,
        tokenizer=T5_TOKENIZER,
        quantize_text_encoder=8,
        timesteps=DISTILLED_TIMESTEPS,
        ram_gb=12,
        num_steps=7,
        guidance_scale=1.0,
        negative_prompt="",
        width=768,
        height=512,
        num_frames=97,
        frame_rate=25.0,
        decode_timestep=0.05,
        decode_noise_scale=0.025,
        architecture=LTX_2B,
        checkpoint_bits=8,
    ),
    Variant(
        name="distilled",
        description="LTX-Video 2B 0.9.8 distilled: 7 steps, for Macs of 24 GB",
        checkpoint=_either("Acelogic/ltx-video-2b-distilled-v0.9.7-mlx", "ltxv-2b-0.9.8-distilled.safetensors"),
        text_encoder=T5_XXL,
        tokenizer=T5_TOKENIZER,
        quantize_text_encoder=8,
        timesteps=DISTILLED_TIMESTEPS,
        ram_gb=16,
        num_steps=7,
        guidance_scale=1.0,
        negative_prompt="",
        width=768,
        height=512,
        num_frames=97,
        frame_rate=25.0,
        decode_timestep=0.05,
        decode_noise_scale=0.025,
        architecture=LTX_2B,
    ),
    Variant(
        name="dev",
        description="LTX-Video 2B 0.9.6, not distilled: 40 guided steps, the best pictures, for Macs of 36 GB",
        checkpoint=_either("Acelogic/ltx-video-2b-v0.9.7-mlx", "ltxv-2b-0.9.6-dev-04-25.safetensors"),
        text_encoder=T5_XXL,
        tokenizer=T5_TOKENIZER,
        ram_gb=25,
        num_steps=40,
        guidance_scale=3.0,
        stg_scale=1.0,
        stg_blocks=(19,),
        rescale=0.7,
        negative_prompt="worst quality, inconsistent motion, blurry, jittery, distorted",
        width=768,
        height=512,
        num_frames=97,
        frame_rate=25.0,
        decode_timestep=0.05,
        decode_noise_scale=0.025,
        architecture=LTX_2B,
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
    architecture=LTX_2B,
)
"""LTX-Video's usual values, for a pipeline of files that are not in the table."""

VARIANTS = {row.name: row for row in _TABLE}
DEFAULT_VARIANT = next(row.name for row in _TABLE if row.is_default)


def find_variant(name: str) -> Variant:
    """Return the row with that name or alias. Raise UnknownVariant, which names those that exist."""
    for row in VARIANTS.values():
        if name in (row.name, *row.aliases):
            return row
    raise UnknownVariant(f"there is no variant {name!r}; the known ones are: {', '.join(VARIANTS)}")
