"""The noise that the decoder of the 0.9.1 layout injects between its convolutions."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import partial

import mlx.core as mx

from ltx_models.sampling.latents import INJECTED_NOISE, draw_noise
from ltx_models.vae.blocks import BlockNoise

__all__ = ["InjectedNoise"]


@dataclass(frozen=True)
class InjectedNoise:
    """A seed's noise for every block, the same whether the video is decoded whole or in pieces.

    Attributes:
        seed: The seed.
        height: Rows of the whole video's latents.
        width: Columns of the whole video's latents.
        window: The part that is decoded, (top, bottom, left, right) in latents; None for all of it.
    """

    seed: int
    height: int
    width: int
    window: tuple[int, int, int, int] | None = None
    _drawn: dict[tuple[int, int, int], mx.array] = field(default_factory=dict, repr=False)

    def within(self, top: int, bottom: int, left: int, right: int) -> InjectedNoise:
        """Return the same noise for a tile."""
        return dataclasses.replace(self, window=(top, bottom, left, right))

    def of_block(self, index: int) -> BlockNoise:
        """Return the noise of the block with this index."""
        return partial(self._draw, index)

    def _draw(self, block: int, convolution: int, height: int) -> mx.array:
        top, bottom, left, right = self.window or (0, self.height, 0, self.width)
        scale = height // (bottom - top)
        key = (block, convolution, scale)
        if key not in self._drawn:
            shape = (self.height * scale, self.width * scale)
            self._drawn[key] = mx.array(draw_noise(self.seed, INJECTED_NOISE, shape, block, convolution))
        return self._drawn[key][top * scale : bottom * scale, left * scale : right * scale]
