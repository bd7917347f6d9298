"""Test the training of pocket, at the smallest scale, on the CPU: its data, its continuation, its files.

Needs the extra `train`.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from ltx_models.pocket.grammar import parse, split

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from ltx_models.pocket.train import data, dit, vae  # noqa: E402
from ltx_models.pocket.train.__main__ import TIME_IS_UP, main  # noqa: E402
from ltx_models.pocket.train.distil import student_objective  # noqa: E402
from ltx_models.pocket.train.latents import fill_caches  # noqa: E402
from ltx_models.pocket.train.models import build_vae  # noqa: E402
from ltx_models.pocket.train.optimization import loop, recipe  # noqa: E402
from ltx_models.pocket.train.optimization.replay import Replayed  # noqa: E402
from ltx_models.pocket.train.sample import uniform_timesteps  # noqa: E402
from ltx_models.text_encoders.tokenizer import Tokenizer  # noqa: E402

CPU = torch.device("cpu")
RESULTS = ("vae.safetensors", "dit.safetensors", "student.safetensors", "normalization.safetensors")


class StepClock(loop.Clock):
    """A clock that is over after so many steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps

    @property
    def is_up(self) -> bool:
        self.left -= 1
        return self.left < 0


def train(folder: Path, *options: str) -> int:
    arguments = ["--out", str(folder), "--recipe", "tiny", "--captions", "0", "--device", "cpu", *options]
    result = CliRunner().invoke(main, arguments)
    assert not isinstance(result.exception, Exception), result.output
    return result.exit_code


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert train(folder) == 0
    return folder


def test_one_command_leaves_weights_and_a_plot(whole: Path) -> None:
    exported = {path.relative_to(whole / "export").as_posix() for path in (whole / "export").rglob("*.*")}
    assert exported == {
        "pocket.safetensors",
        "pocket-distilled.safetensors",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/spiece.model",
    }
    assert (whole / "losses.png").read_bytes().startswith(b"\x89PNG")
    assert not list(whole.glob("*.state"))
    steps = {name: json.loads((whole / f"{name}.losses.json").read_text())[-1][0] for name in ("vae", "dit", "student")}
    assert steps == {"vae": 3, "dit": 3, "student": 2}


def test_the_same_seed_trains_the_same_weights(whole: Path, tmp_path: Path) -> None:
    assert train(tmp_path) == 0
    for name in RESULTS:
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes(), name


def test_it_goes_on_in_the_middle_of_a_phase(whole: Path, tmp_path: Path) -> None:
    """A step at a time, the VAE's weights equal those of one run."""
    for stops in range(recipe.TINY.vae.steps):
        _, done = vae.train_vae(recipe.TINY, tmp_path, CPU, None, StepClock(1))
        assert done == (stops == recipe.TINY.vae.steps - 1)
    assert (tmp_path / RESULTS[0]).read_bytes() == (whole / RESULTS[0]).read_bytes()


def test_a_call_whose_time_is_up_says_that_it_is_not_done(tmp_path: Path) -> None:
    assert train(tmp_path, "--stop-after", "0.0001") == TIME_IS_UP


def test_a_trained_phase_is_not_trained_again(whole: Path) -> None:
    before = (whole / RESULTS[2]).stat().st_mtime_ns
    assert train(whole) == 0
    assert (whole / RESULTS[2]).stat().st_mtime_ns == before


def test_held_out_combinations_are_never_drawn_nor_named() -> None:
    tokenizer = Tokenizer(data.tokenizer_file())
    captions = data.Captions(recipe.TINY, tokenizer, CPU)
    trained, held_out = split()
    assert captions.known.shape[:2] == (len(trained), data.VARIANTS)
    held_out_ids = {tuple(row) for row in data.token_ids([_plainly(what) for what in held_out], tokenizer).tolist()}
    assert not held_out_ids & {tuple(row) for row in captions.known.flatten(0, 1).tolist()}
    numbers = data.choose(100_000, 0.05, np.random.default_rng(0))
    assert numbers.max() == len(trained) - 1
    assert abs((numbers == data.OTHER).mean() - 0.05) < 0.005


def _plainly(what: tuple[str, ...]) -> str:
    colour, shape, size, motion, ground = what
    words = {"left": "moves left", "right": "moves right", "up": "moves up", "down": "moves down"}
    words |= {"grow": "grows", "shrink": "shrinks", "still": "stays still", "bounce": "bounces", "spin": "spins"}
    text = f"{size} {colour} {shape} {words.get(motion, 'moves in a circle')}, {ground} background."
    assert parse(text) == what
    return text.strip().capitalize()


def test_a_caption_goes_with_its_clip() -> None:
    captions = data.Captions(recipe.TINY, Tokenizer(data.tokenizer_file()), CPU)
    captions.empty_share = 0.0
    ids = captions.draw(torch.tensor([data.OTHER, 7, 7]))
    assert (ids[0] == captions.other.to(torch.int64)).all(-1).any()
    assert all((row == captions.known[7].to(torch.int64)).all(-1).any() for row in ids[1:])
    captions.empty_share = 1.0
    assert (captions.draw(torch.tensor([3, 4])) == captions.empty).all()


def test_a_loss_that_is_no_number_ends_training(tmp_path: Path) -> None:
    module = torch.nn.Linear(1, 1)
    trainer = loop.Trainer("x", module, dataclasses.replace(recipe.TINY.vae, steps=5), tmp_path, None)
    objective = loop.Objective(lambda _: (None, (torch.tensor([[float("nan")]]),)), lambda _, x: module(x).sum())
    with pytest.raises(loop.TrainingError, match="the loss of x is nan at step 1"):
        trainer.run(objective, loop.Clock())


def test_timesteps_are_those_of_the_uniform_sampler() -> None:
    assert uniform_timesteps(4)[:-1] == [1.0, 0.75, 0.5, 0.25] == list(recipe.STUDENT_TIMESTEPS)
    assert uniform_timesteps(2, 0.5, 0.25) == [0.5, 0.375, 0.25]


@pytest.mark.parametrize("shape", [(2, 8, 24), (1, 48, 16)])
def test_muon_turns_all_directions_alike(shape: tuple[int, int, int]) -> None:
    from ltx_models.pocket.train.optimization.muon import orthogonalized

    torch.manual_seed(0)
    matrices = torch.randn(shape)
    values = torch.linalg.svdvals(orthogonalized(matrices))
    assert values.shape[1] == min(shape[1:])
    assert 0.6 < values.min() <= values.max() < 1.3
    assert torch.linalg.svdvals(matrices).std() > 0.5  # they were not alike before


def test_muon_is_for_matrices_inside_of_blocks() -> None:
    from ltx_models.pocket.train.models import build_denoiser, build_vae
    from ltx_models.pocket.train.optimization.muon import split_parameters

    for module in (build_vae(recipe.TINY.sizes), build_denoiser(recipe.TINY.sizes)):
        matrices, others = split_parameters(module)
        assert len(matrices) + len(others) == len(list(module.parameters()))
        assert {each.ndim for each in matrices} <= {2, 5}
        named = dict(module.named_parameters())
        ends = {
            id(named[name]) for name in named if "scale_shift_table" in name or "proj_out" in name or "conv_in" in name
        }
        assert ends <= {id(each) for each in others}


def test_training_needs_no_mlx() -> None:
    """It runs on machines without MLX."""
    code = "import sys; sys.modules['mlx'] = None; import ltx_models.pocket.train.__main__"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_half_of_what_a_clip_counts_lies_near_its_edges() -> None:
    """That is so for short edges too; an empty picture counts evenly."""
    clips = torch.zeros(3, 3, 2, 64, 64)
    clips[0, :, :, 30:34, 30:34] = 1
    clips[1, :, :, 8:56, 8:56] = 1
    weights = vae.near_edges(clips)
    assert weights.shape == (3, 1, 2, 64, 64)
    assert torch.allclose(weights.mean(dim=(1, 2, 3, 4)), torch.tensor([1.0, 1.0, 0.0]))
    assert weights[0, 0, 0, 32, 32] > 3 * weights[1, 0, 0, 8, 8] > 0
    assert weights[1, 0, 0, 32, 32] == weights[0, 0, 0, 0, 0] == 0


def test_an_error_in_a_small_shape_counts_as_much_as_in_a_large_one() -> None:
    def cost(side: int) -> float:
        clip = torch.zeros(1, 3, 1, 128, 128)
        clip[..., 64 - side // 2 : 64 + side // 2, 64 - side // 2 : 64 + side // 2] = 1
        return float(vae.reconstruction_loss(torch.zeros_like(clip), clip))

    assert cost(64) < 2.5 * cost(16)  # it has 16 times the area


def test_recoloured_scenes_keep_all_but_their_colours() -> None:
    scenes = data.training_scenes(data.choose(400, 0.0, np.random.default_rng(0)), np.random.default_rng(1))
    others = data.recoloured(scenes, 0.25, np.random.default_rng(2))
    changed = (others.colour != scenes.colour).any(axis=1)
    assert 0.2 < changed.mean() < 0.3
    assert ((others.top != scenes.top).any(axis=1) == changed).all()
    assert (others.top == others.bottom).all()
    assert others.colour.dtype == scenes.colour.dtype
    for name in ("shape", "motion", "radius", "place"):
        assert getattr(others, name) is getattr(scenes, name)


def test_batches_are_multiples_where_that_is_asked() -> None:
    rng = np.random.default_rng(0)
    buckets = recipe.POCKET.buckets
    counts = [vae.batches(buckets, 1024 * 64, 2048, lambda b: b.tokens, rng, multiple=16)[1] for _ in range(50)]
    assert len(set(counts)) > 5
    assert all(count % 16 == 0 for count in counts)
    assert vae.batches(buckets[:1], 5 * buckets[0].tokens, 2048, lambda b: b.tokens, rng, multiple=16)[1] == 5


class WaitsForNothing(TorchDispatchMode):
    """Refuses what makes a GPU's host wait, or cannot be recorded: reading a value, or a tensor from Python."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert not any(word in str(func) for word in ("local_scalar_dense", "lift_fresh", "nonzero")), func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("phase", ["vae", "dit", "student"])
def test_a_loss_can_be_recorded(phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is recorded as a CUDA graph; transformers reads a mask's values, but not while it is recorded."""
    monkeypatch.setattr("transformers.masking_utils.is_tracing", lambda *_: True)
    tiny = recipe.TINY
    captions = data.Captions(tiny, Tokenizer(data.tokenizer_file()), CPU)
    denoiser, autoencoder = dit.new_denoiser(tiny, CPU), build_vae(tiny.sizes)
    objective = {
        "vae": lambda: vae.vae_objective(autoencoder, tiny, CPU),
        "dit": lambda: dit.denoiser_objective(denoiser, fill_caches(autoencoder, tiny, CPU), captions, tiny),
        "student": lambda: student_objective(dit.new_denoiser(tiny, CPU), denoiser, captions, tiny),
    }[phase]()
    kind, tensors = objective.inputs(0)
    with WaitsForNothing():
        objective.loss(kind, *tensors).backward()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_what_is_replayed_is_what_would_be_computed() -> None:
    device = torch.device("cuda")
    weight = torch.randn(8, 8, device=device)
    replayed = Replayed(lambda kind, x: (x @ weight).sum() * kind + torch.rand((), device=device))
    for seed, kind in enumerate((1, 2, 1, 2)):
        x = torch.randn(4, 8, device=device)
        torch.manual_seed(seed)
        expected = (x @ weight).sum() * kind + torch.rand((), device=device)
        torch.manual_seed(seed)
        torch.testing.assert_close(replayed(kind, x).clone(), expected)


def test_on_a_cpu_a_function_is_called_as_it_is() -> None:
    called = []
    replayed = Replayed(lambda kind, x: called.append(kind) or x + 1)
    assert replayed("a", torch.ones(1)) == 2
    assert replayed("a", torch.ones(1)) == 2
    assert called == ["a", "a"]
