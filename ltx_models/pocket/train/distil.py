"""Phase 3: a student learns to go in four steps, without guidance, where its teacher goes in many with it.

The student's k-th step begins where its own first k steps led, so that it learns to mend its own errors. From there the
teacher takes several guided steps to the next timestep, and the straight line between the two is the velocity to learn.
That is progressive distillation (Salimans & Ho, 2022) of a guided model (Meng et al., 2023) in one stage, along the
student's own paths.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from ltx_models.pocket.train.data import Captions, choose, step_rngs
from ltx_models.pocket.train.dit import draw_frame_rate
from ltx_models.pocket.train.loop import Clock, Trainer
from ltx_models.pocket.train.models import Denoiser
from ltx_models.pocket.train.recipe import GUIDANCE, STUDENT_TIMESTEPS, Recipe
from ltx_models.pocket.train.sample import Prompts, euler, uniform_timesteps
from ltx_models.pocket.train.vae import autocast, batches

__all__ = ["distil", "student_loss"]

STOPS = (*STUDENT_TIMESTEPS, 0.0)


def distil(
    recipe: Recipe,
    teacher: Denoiser,
    captions: Captions,
    folder: Path,
    seconds: float | None,
    clock: Clock,
) -> tuple[Denoiser, bool]:
    """The student, and whether it is done. It begins as the teacher, and keeps the teacher's text encoder."""
    student = copy.deepcopy(teacher).requires_grad_(True)
    student.text_encoder.requires_grad_(False)
    trainer = Trainer("student", student, recipe.distil, folder, seconds)
    if not trainer.is_done and not trainer.run(student_loss(student, teacher, captions, recipe), clock):
        return student, False
    return student.eval().requires_grad_(False), True


def student_loss(
    student: Denoiser, teacher: Denoiser, captions: Captions, recipe: Recipe
) -> Callable[[int], torch.Tensor]:
    """The loss of a step, by its number."""
    stretches = list(itertools.pairwise(STOPS))

    def loss_of_step(step: int) -> torch.Tensor:
        rng = step_rngs(recipe.seed, "distil", step)
        bucket, count = batches(recipe.buckets, recipe.distil.batch, recipe.distil.most, lambda b: b.tokens, rng)
        device, size, frame_rate = captions.empty.device, bucket.latent, draw_frame_rate(rng)
        numbers = torch.from_numpy(choose(count, recipe.other_share, rng)).to(device)
        prompts = Prompts.of(teacher, captions.draw(numbers), captions.empty)
        reached = int(rng.integers(len(stretches)))
        start, end = stretches[reached]
        noise = torch.randn(count, bucket.tokens, recipe.sizes.latent_channels, device=device)
        x = euler(student, noise, prompts, STOPS[: reached + 1], guidance=1, size=size, frame_rate=frame_rate)
        fine = uniform_timesteps(recipe.teacher_substeps, start, end)
        there = euler(teacher, x, prompts, fine, guidance=GUIDANCE, size=size, frame_rate=frame_rate)
        timesteps = torch.full((count,), start, device=device)
        with autocast(device):
            velocity = student.velocity(x, timesteps, prompts.embeddings, prompts.ids, size, frame_rate)
        return F.mse_loss(velocity.float(), (x - there) / (start - end))

    return loss_of_step
