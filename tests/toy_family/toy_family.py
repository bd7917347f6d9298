"""A family of two linear layers with a stage and an output of its own: its row, and its memory. Needs no MLX.

The folder on PYTHONPATH is all that registers it: `toy_family-1.0.dist-info` names `VARIANTS` as an entry point.
"""

from dataclasses import dataclass
from pathlib import Path

from ltx_models.families.family import Component, Family, Limits, Part, Stage
from ltx_models.families.variant import Variant

HERE = Path(__file__).parent
CHANNELS = 4
SIDE = 4
"""Pixels of a latent's column or row."""
CHUNKS = (64, 8, 1)
"""Frames that may be painted at once, by falling need of memory."""


@dataclass(frozen=True)
class Sizes:
    channels: int = CHANNELS
    itemsize: int = 4


def latents_of(request):
    return request.num_frames * (request.height // SIDE) * (request.width // SIDE)


def mixer_weights(variant):
    return variant.architecture.channels**2 * variant.architecture.itemsize


def mixer_working(variant, request, plan):
    return 6 * latents_of(request) * variant.architecture.channels * variant.architecture.itemsize


def painter_weights(variant):
    return 3 * SIDE**2 * variant.architecture.channels * variant.architecture.itemsize


def painter_working(variant, request, plan):
    frames = min(plan or CHUNKS[0], request.num_frames)
    return 3 * request.width * request.height * (4 * frames + request.num_frames)


def painter_plans(variant, request):
    return CHUNKS


TOY = Family(
    name="toy",
    title="the toy family",
    parts=(
        Part(
            name="checkpoint",
            converted="toy.safetensors",
            shown_by="toy.safetensors",
            hashed_as="checkpoint",
            files="",
        ),
    ),
    components=(
        Component(
            name="mixer",
            title="the mixer",
            part="checkpoint",
            load="toy_networks:load_mixer",
            weights="toy_family:mixer_weights",
            working="toy_family:mixer_working",
            loading=0.0,
        ),
        Component(
            name="painter",
            title="the painter",
            part="checkpoint",
            load="toy_networks:load_painter",
            weights="toy_family:painter_weights",
            working="toy_family:painter_working",
            plans="toy_family:painter_plans",
            loading=0.5,
        ),
    ),
    unloading=("painter", "mixer"),
    stages=(
        Stage(name="dream", label="dreaming", counts="step", of=lambda request: request.num_steps),
        Stage(name="polish", label="polishing", counts="frame", of=lambda request: request.num_frames),
        Stage(name="paint", label="painting", counts="frame", of=lambda request: request.num_frames, hands_over=True),
    ),
    limits=Limits(size_stride=SIDE, max_size=1024, frame_stride=1, max_frames=300, text_tokens=64),
    pipeline="toy_networks:ToyPipeline",
    benchmark="toy_networks:ToyBench",
)

VARIANTS = (
    Variant(
        name="toy",
        description="two linear layers",
        needs_gpu=False,
        family=TOY,
        files={"checkpoint": str(HERE / "toy.safetensors")},
        ram_gb=1,
        num_steps=5,
        guidance_scale=1.0,
        negative_prompt="",
        width=20,
        height=12,
        num_frames=6,
        frame_rate=6.0,
        decode_timestep=0.0,
        decode_noise_scale=0.0,
        architecture=Sizes(),
    ),
)
