"""The numbers of training: sizes, batches, steps, rates. Plain data."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GUIDANCE", "POCKET", "STUDENT_TIMESTEPS", "TINY", "Bucket", "Phase", "Recipe", "Sizes"]

GUIDANCE = 3.0
"""The guidance that pocket is rendered with, and that the distilled model learns to do without."""
STUDENT_TIMESTEPS = (1.0, 0.75, 0.5, 0.25)
"""The only timesteps that the distilled model sees."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of the three models; channels are multiples of 16, for which Metal has a fast 3-D convolution.

    The fields `encoder` and `decoder` are channels of the VAE's levels, from the pixels to the latents, in the decoder
    those before each upsampling divides them by its factor. `encoder_layers` and `decoder_layers` are the residual
    blocks of each level.
    """

    latent_channels: int = 32
    encoder: tuple[int, ...] = (16, 32, 64, 64, 64)
    encoder_layers: tuple[int, ...] = (1, 1, 1, 1, 1)
    decoder: tuple[int, ...] = (64, 64, 64)
    decoder_factors: tuple[int, ...] = (2, 1, 1)
    decoder_layers: tuple[int, ...] = (2, 1, 1, 2)
    heads: int = 3
    head_dim: int = 64
    layers: int = 6
    text_width: int = 128
    text_hidden: int = 256
    text_layers: int = 3
    text_heads: int = 4
    vocabulary: int = 512


@dataclass(frozen=True)
class Bucket:
    """Clips of one size: how many are in the cache of latents, and how often a batch is of them, relative to others."""

    frames: int
    height: int
    width: int
    weight: float = 1.0
    clips: int = 8_000

    @property
    def pixels(self) -> int:
        """The number of pixels of all frames of a clip."""
        return self.frames * self.height * self.width

    @property
    def latent(self) -> tuple[int, int, int]:
        """Frames, rows and columns of a clip's latents."""
        return (self.frames - 1) // 8 + 1, self.height // 32, self.width // 32

    @property
    def tokens(self) -> int:
        """The number of tokens of a clip's latents."""
        frames, rows, columns = self.latent
        return frames * rows * columns


@dataclass(frozen=True)
class Phase:
    """The numbers by which one phase is trained.

    Attributes:
        steps: The number of steps, where no time is given.
        batch: Pixels of a step's clips for the VAE, tokens for the others.
        most: The most clips of a step, however small.
        rate: The peak learning rate of AdamW, reached after `warmup` steps; it falls as a cosine to a hundredth.
        matrix_rate: The peak learning rate of Muon, likewise.
        warmup: Steps until the peak.
        share: The phase's fraction of the time that a run is given.
    """

    steps: int
    batch: int
    most: int
    rate: float
    matrix_rate: float
    warmup: int
    share: float


@dataclass(frozen=True)
class Recipe:
    """A whole training.

    The fields `vae_buckets` and `buckets` are the clips of the VAE, and of the others. `recoloured_share` is the
    fraction of the VAE's clips in any two colours. `latent_noise` is the deviation of noise with which the VAE's
    decoder is trained, and `latent_penalty` the weight of squared latents, which keeps the encoder from drowning that
    noise. Of the captions, `empty_share` are left empty, so that guidance has something to lead away from,
    `other_share` name nothing known, and `groundless_share` leave out the background. `teacher_substeps` are guided
    steps of the teacher for one of the student's.
    """

    sizes: Sizes
    vae_buckets: tuple[Bucket, ...]
    buckets: tuple[Bucket, ...]
    vae: Phase
    dit: Phase
    distil: Phase
    seed: int = 0
    recoloured_share: float = 0.2
    latent_noise: float = 0.1
    latent_penalty: float = 3e-4
    empty_share: float = 0.1
    other_share: float = 0.05
    groundless_share: float = 0.06
    teacher_substeps: int = 4

    def phase(self, name: str) -> Phase:
        """Return the phase with that name."""
        phase: Phase = getattr(self, name)
        return phase


POCKET = Recipe(
    sizes=Sizes(),
    vae_buckets=(
        Bucket(25, 128, 128, 4),
        Bucket(33, 64, 64, 1),
        Bucket(17, 96, 160, 1),
        Bucket(17, 160, 96, 1),
        Bucket(49, 128, 128, 1),
        Bucket(17, 192, 192, 1),
        Bucket(17, 256, 256, 1),
    ),
    buckets=(
        Bucket(25, 128, 128, 8, 24_000),
        Bucket(17, 128, 128, 2, 12_000),
        Bucket(33, 128, 128, 2, 12_000),
        Bucket(49, 128, 128, 2, 12_000),
        Bucket(25, 96, 160, 4, 12_000),
        Bucket(25, 160, 96, 4, 12_000),
        Bucket(9, 64, 64, 1, 8_000),
        Bucket(25, 64, 64, 1, 8_000),
        Bucket(9, 128, 128, 1, 8_000),
        Bucket(33, 96, 96, 1, 8_000),
        Bucket(25, 192, 192, 2, 8_000),
        Bucket(25, 160, 256, 2, 6_000),
        Bucket(25, 256, 160, 2, 6_000),
        Bucket(25, 256, 256, 2, 6_000),
        Bucket(49, 256, 256, 2, 4_000),
    ),
    vae=Phase(steps=9_860, batch=28 * 25 * 128 * 128, most=256, rate=1e-3, matrix_rate=0.02, warmup=200, share=0.58),
    dit=Phase(steps=12_700, batch=512 * 64, most=1024, rate=1e-3, matrix_rate=0.02, warmup=300, share=0.30),
    distil=Phase(steps=660, batch=320 * 64, most=640, rate=3e-4, matrix_rate=0.004, warmup=50, share=0.12),
)

"""The bundled model's recipe: the steps are what one H200 does in 12.8 minutes; the model card has the results.

Sizes that were tried: a decoder of 32 channels at its last two levels, smaller by a megabyte, draws clips at 33.8 dB in
place of 34.6. A transformer that takes twice the batch takes 7,900 steps in the time, and is about as right. Where the
last level of the decoder has 16 channels, small shapes become blots.
"""

TINY = Recipe(
    sizes=Sizes(
        encoder=(16, 32, 32, 32, 64),
        decoder=(16, 32, 32),
        decoder_factors=(1, 2, 1),
        decoder_layers=(1, 1, 1, 1),
        heads=2,
        layers=3,
        text_width=64,
        text_hidden=128,
        text_layers=2,
    ),
    vae_buckets=(Bucket(9, 64, 64),),
    buckets=(Bucket(9, 64, 64, 1, 48),),
    vae=Phase(steps=3, batch=9 * 64 * 64, most=1, rate=1e-3, matrix_rate=0.02, warmup=2, share=0.4),
    dit=Phase(steps=3, batch=4 * 8, most=4, rate=1e-3, matrix_rate=0.02, warmup=2, share=0.4),
    distil=Phase(steps=2, batch=4 * 8, most=4, rate=3e-4, matrix_rate=0.004, warmup=1, share=0.2),
)
"""The recipe of a test of the whole training on a CPU, in seconds; the model learns nothing."""
