"""The variant table: data only, importable without MLX. A new variant is a new row, and adds no branch."""

from __future__ import annotations

import logging
import threading
from collections import UserDict
from collections.abc import Iterable, Iterator

from ltx_models.errors import UnknownVariant
from ltx_models.families.architectures import LTX_2B, POCKET
from ltx_models.families.family import Family
from ltx_models.families.ltxv import LTXV
from ltx_models.families.variant import Files, Source, Variant

__all__ = [
    "DEFAULT_VARIANT",
    "ENTRY_POINTS",
    "UNLISTED",
    "VARIANTS",
    "Files",
    "Source",
    "Variant",
    "find_variant",
    "known_families",
]

log = logging.getLogger(__name__)

ENTRY_POINTS = "ltx_models.families"
"""The group of entry points by which other distributions add variants, and with them their families."""


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
        family=LTXV,
        files={
            "checkpoint": "pocket/pocket.safetensors",
            "text_encoder": "pocket/text_encoder",
            "tokenizer": "pocket/tokenizer/spiece.model",
        },
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
        family=LTXV,
        files={
            "checkpoint": "pocket/pocket-distilled.safetensors",
            "text_encoder": "pocket/text_encoder",
            "tokenizer": "pocket/tokenizer/spiece.model",
        },
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
        family=LTXV,
        files={
            "checkpoint": _either(
                "Acelogic/ltx-video-2b-distilled-v0.9.7-fp8-mlx", "ltxv-2b-0.9.8-distilled-fp8.safetensors"
            ),
            "text_encoder": T5_XXL,
            "tokenizer": T5_TOKENIZER,
        },
        bits={"text_encoder": 8},
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
        family=LTXV,
        files={
            "checkpoint": _either("Acelogic/ltx-video-2b-distilled-v0.9.7-mlx", "ltxv-2b-0.9.8-distilled.safetensors"),
            "text_encoder": T5_XXL,
            "tokenizer": T5_TOKENIZER,
        },
        bits={"text_encoder": 8},
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
        family=LTXV,
        files={
            "checkpoint": _either("Acelogic/ltx-video-2b-v0.9.7-mlx", "ltxv-2b-0.9.6-dev-04-25.safetensors"),
            "text_encoder": T5_XXL,
            "tokenizer": T5_TOKENIZER,
        },
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
    family=LTXV,
    files={"checkpoint": "", "text_encoder": "", "tokenizer": ""},
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


class _Variants(UserDict[str, Variant]):
    """The variants by name: the table's, and those of installed distributions, read when the table does not suffice.

    Reading the metadata of what is installed takes longer than a command's start, which mostly needs the table alone.
    """

    def __init__(self, rows: Iterable[Variant]) -> None:
        super().__init__({row.name: row for row in rows})
        self._complete = self._completing = False
        self._lock = threading.RLock()

    def __contains__(self, name: object) -> bool:
        return name in self.data or name in self.complete()

    def __missing__(self, name: str) -> Variant:
        return self.complete()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.complete())

    def __len__(self) -> int:
        return len(self.complete())

    def complete(self) -> dict[str, Variant]:
        """Add the variants of installed distributions, once, and return all.

        Another thread that needs them waits. One that iterates goes on with the mapping that it has.
        """
        if self._complete:
            return self.data
        with self._lock:
            if not self._complete and not self._completing:  # a distribution's module may ask for variants itself
                self._completing = True
                try:
                    self._complete_now()
                finally:
                    self._completing = False
        return self.data

    def _complete_now(self) -> None:
        data = dict(self.data)
        for row in _installed():
            data.setdefault(row.name, row)
        self.data, self._complete = data, True


def _installed() -> Iterator[Variant]:
    """Yield the variants that entry points name, each a sequence of rows. One that is broken is left out."""
    from importlib.metadata import entry_points

    for entry in entry_points(group=ENTRY_POINTS):
        try:
            rows = tuple(entry.load())
            if wrong := [row for row in rows if not isinstance(row, Variant)]:
                raise TypeError(f"{entry.value} holds {wrong[0]!r}, which is no Variant")
        except Exception as error:  # noqa: BLE001 — whatever somebody else's module raises
            log.warning("the variants of %s (%s) are left out: %s", entry.name, entry.value, error)
        else:
            yield from rows


VARIANTS = _Variants(_TABLE)
DEFAULT_VARIANT = next(row.name for row in _TABLE if row.is_default)


def find_variant(name: str) -> Variant:
    """Return the row with that name or alias. Raise UnknownVariant, which names those that exist."""
    for rows in (VARIANTS.data, VARIANTS):
        for row in rows.values():
            if name in (row.name, *row.aliases):
                return row
    raise UnknownVariant(f"there is no variant {name!r}; the known ones are: {', '.join(VARIANTS)}")


def known_families() -> Iterator[Family]:
    """Yield each family once, those of the table first; others are looked for when they are asked for."""
    seen: list[str] = []
    for rows in (VARIANTS.data, VARIANTS):
        for row in list(rows.values()):
            if row.family.name not in seen:
                seen.append(row.family.name)
                yield row.family
