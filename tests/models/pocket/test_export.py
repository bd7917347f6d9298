"""Test that exported models equal the trained ones, with random weights, in MLX and in PyTorch, on the CPU.

Needs the extra `train`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
import pytest

from ltx_models.errors import CheckpointError
from ltx_models.events import Finished
from ltx_models.files.safetensors_header import read_header
from ltx_models.pipeline.text_to_video import LTXPipeline
from ltx_models.pocket.train.optimization.recipe import POCKET, TINY
from ltx_models.request import GenerationRequest
from tests.models.conftest import relative_error

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

BOUND = 5e-5
PROMPT = "a small red ball bounces on a navy background"
SIZE = (3, 2, 4)
REQUEST = GenerationRequest(
    prompt=PROMPT, negative_prompt="", width=128, height=64, num_frames=17, frame_rate=16.0, num_steps=3, seed=0
)


class Exported(NamedTuple):
    folder: Path
    vae: Any
    denoiser: Any
    student: Any

    def pipeline(self, name: str) -> LTXPipeline:
        return LTXPipeline.from_files(
            checkpoint=self.folder / name,
            text_encoder=self.folder / "text_encoder",
            tokenizer=self.folder / "tokenizer" / "spiece.model",
            dtype=mx.float32,
        )


@pytest.fixture(scope="module", params=["pocket", "tiny"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Return random models, as their files contain them."""
    from ltx_models.pocket.train.export import DISTILLED, export, load
    from ltx_models.pocket.train.models import Denoiser, build_vae

    sizes = {"pocket": POCKET, "tiny": TINY}[request.param].sizes
    torch.manual_seed(0)
    vae, denoiser, student = build_vae(sizes), Denoiser(sizes), Denoiser(sizes)
    student.text_encoder.load_state_dict(denoiser.text_encoder.state_dict())
    vae.latents_mean.normal_()
    vae.latents_std.uniform_(0.5, 1.5)
    folder = tmp_path_factory.mktemp("exported")
    export(folder, vae, denoiser, student)
    vae, denoiser = load(folder, sizes)
    return Exported(folder, vae, denoiser, load(folder, sizes, DISTILLED)[1])


def latents_in_mlx(pipeline: LTXPipeline, noise: np.ndarray, guidance: float) -> np.ndarray:
    request = GenerationRequest(**{**vars(REQUEST), "guidance_scale": guidance})
    *_, last = pipeline.stream(request, noise=noise)
    assert isinstance(last, Finished)
    return last.result.latents


def latents_in_torch(exported: Exported, denoiser: Any, noise: np.ndarray, guidance: float) -> np.ndarray:
    from ltx_models.pocket.train.data import token_ids
    from ltx_models.pocket.train.sample import Prompts, euler, uniform_timesteps
    from ltx_models.text_encoders.tokenizer import Tokenizer

    tokenizer = Tokenizer(exported.folder / "tokenizer" / "spiece.model")
    prompts = Prompts.of(denoiser, token_ids([PROMPT], tokenizer), token_ids([""], tokenizer))
    tokens = torch.from_numpy(noise).flatten(2).transpose(1, 2)
    steps = uniform_timesteps(3)
    end = euler(denoiser, tokens, prompts, steps, guidance=guidance, size=SIZE, frame_rate=16.0)
    return np.asarray(end.transpose(1, 2).unflatten(2, SIZE))


@pytest.mark.parametrize(("name", "guidance"), [("pocket", 3.0), ("pocket-distilled", 1.0)])
def test_latents(exported: Exported, name: str, guidance: float) -> None:
    """Test captions, text encoder, transformer, schedule, guidance and frame rate together."""
    noise = np.random.default_rng(1).standard_normal((1, 32, *SIZE), dtype=np.float32)
    denoiser = exported.denoiser if name == "pocket" else exported.student
    theirs = latents_in_torch(exported, denoiser, noise, guidance)
    ours = latents_in_mlx(exported.pipeline(f"{name}.safetensors"), noise, guidance)
    assert relative_error(theirs, noise) > 0.1
    assert relative_error(ours, theirs) < BOUND


def test_text_encoder(exported: Exported) -> None:
    pipeline = exported.pipeline("pocket.safetensors")
    ids = torch.tensor([pipeline.models.tokenizer.encode(PROMPT)])
    theirs = exported.denoiser.embed(ids).detach().numpy()
    assert relative_error(pipeline.embed(PROMPT).prompt, theirs) < BOUND


@pytest.mark.parametrize("name", ["pocket", "pocket-distilled"])
def test_vae(exported: Exported, name: str) -> None:
    """The distilled model's VAE is the other's."""
    pipeline = exported.pipeline(f"{name}.safetensors")
    latents = np.random.default_rng(2).standard_normal((1, 32, *SIZE), dtype=np.float32)
    mean, std = exported.vae.latents_mean, exported.vae.latents_std
    unnormalized = torch.from_numpy(latents) * std.view(1, -1, 1, 1, 1) + mean.view(1, -1, 1, 1, 1)
    theirs = (exported.vae.decode(unnormalized).sample[0].detach().permute(1, 2, 3, 0).numpy() + 1) / 2
    assert relative_error(pipeline.decode(latents, timestep=0.0), np.clip(theirs, 0, 1)) < BOUND

    frames = np.random.default_rng(3).integers(0, 256, (17, 64, 128, 3), np.uint8)
    clips = torch.from_numpy(frames.astype(np.float32) / 255 * 2 - 1).permute(3, 0, 1, 2)[None]
    encoded = exported.vae.encode(clips).latent_dist.mean.detach()
    normalized = ((encoded - mean.view(1, -1, 1, 1, 1)) / std.view(1, -1, 1, 1, 1)).numpy()
    assert relative_error(pipeline.encode(frames), normalized) < BOUND


def test_everything_is_small_enough(exported: Exported) -> None:
    """Both models together, with all that they need, are small."""
    assert sum(path.stat().st_size for path in exported.folder.rglob("*") if path.is_file()) < 26_000_000


def test_channels_are_multiples_of_16(exported: Exported) -> None:
    """Except for what the layout sets: the log variance's one, and a convolution's own before it is folded."""
    tensors = read_header(exported.folder / "pocket.safetensors").tensors
    convolutions = {name: shape for name, (_, shape) in tensors.items() if len(shape) == 5}
    assert len(convolutions) > 25
    assert {name for name, shape in convolutions.items() if shape[1] % 16} == set()


def test_without_the_file_of_the_vae_it_says_which(exported: Exported, tmp_path: Path) -> None:
    alone = tmp_path / "pocket-distilled.safetensors"
    alone.write_bytes((exported.folder / alone.name).read_bytes())
    with pytest.raises(CheckpointError, match=r"there is no file .*pocket\.safetensors"):
        LTXPipeline.from_files(
            checkpoint=alone,
            text_encoder=exported.folder / "text_encoder",
            tokenizer=exported.folder / "tokenizer" / "spiece.model",
        ).load_models()
