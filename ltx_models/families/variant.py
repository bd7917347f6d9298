"""A variant: a model that a worker can serve. Plain data: importable without MLX."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from ltx_models.families.family import Family
from ltx_models.families.stages import Stage

__all__ = ["Files", "Source", "Variant"]


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
        family: The family that it belongs to.
        files: The files of each of the family's parts, by the part's name.
        bits: Bits to which the matrices of the family's networks are quantized while they are loaded, by the network's
            name (`ltx_models.layers.quantization`); those of others keep their precision.
        timesteps: The schedule that it was distilled for; () where the checkpoint's own sampler makes one.
        ram_gb: What one of its renders may use in all, in units of 10**9 bytes.
        architecture: The sizes of its networks, a dataclass of the family's, from which its memory is computed
            (`ltx_models.memory`); `itemsize` is bytes of a number in the widest precision in which they are run.
        checkpoint_bits: Bits of a number in the checkpoint's largest network (8 for fp8).
    """

    name: str
    description: str
    aliases: tuple[str, ...] = ()
    is_default: bool = False
    introduction: str = ""
    vocabulary: Literal["shapes"] | None = None
    needs_gpu: bool = True
    family: Family
    files: Mapping[str, Files] = field(hash=False)
    bits: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}), hash=False)
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
    architecture: Any
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

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Return the stages of its renders, in order."""
        return self.family.stages

    def defaults(self) -> dict[str, Any]:
        """Return the default values of a GenerationRequest's fields, by name."""
        names = (
            "negative_prompt width height num_frames frame_rate num_steps guidance_scale decode_timestep"
            " decode_noise_scale stg_scale stg_blocks stg_mode rescale guidance_timesteps cfg_star stochastic"
            " skip_first_steps skip_last_steps image_noise_scale"
        )
        return {name: getattr(self, name) for name in names.split()}
