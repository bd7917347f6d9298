"""Phase 3: a student learns to render in four steps without guidance what its teacher renders in many with it.

Each of the student's steps begins where its own previous steps led, so that it learns to correct its own errors. From
there the teacher takes several guided steps to the next timestep, and the straight line between the two is the velocity
to learn. That is progressive distillation (Salimans & Ho, 2022) of a guided model (Meng et al., 2023) in one stage,
along the student's own paths.
"""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from ltx_models.pocket.train.data import Captions, choose, step_rngs
from ltx_models.pocket.train.dit import batches_of_latents, draw_frame_rate
from ltx_models.pocket.train.models import Denoiser, fused
from ltx_models.pocket.train.optimization.loop import Clock, Objective, Trainer
from ltx_models.pocket.train.optimization.recipe import GUIDANCE, STUDENT_TIMESTEPS, Bucket, Recipe
from ltx_models.pocket.train.sample import Prompts, euler, uniform_timesteps
from ltx_models.pocket.train.vae import autocast

__all__ = ["distil", "student_objective"]


def distil(
    recipe: Recipe,
    teacher: Denoiser,
    captions: Captions,
    folder: Path,
    seconds: float | None,
    clock: Clock,
) -> tuple[Denoiser, bool]:
    """Return the student, and whether it is done. It begins as the teacher, and keeps the teacher's text encoder."""
    student = fused(copy.deepcopy(teacher)).requires_grad_(True).train()
    student.text_encoder.requires_grad_(False)
    trainer = Trainer("student", student, recipe.distil, folder, seconds)
    if not trainer.is_done and not trainer.run(student_objective(student, teacher, captions, recipe), clock):
        return student, False
    return student.eval().requires_grad_(False), True


def student_objective(student: Denoiser, teacher: Denoiser, captions: Captions, recipe: Recipe) -> Objective:
    """Return the objective: at each step, go in a straight line to where the teacher's steps lead."""
    device = captions.empty.device

    def inputs(step: int) -> tuple[Bucket, tuple[torch.Tensor, ...]]:
        rng = step_rngs(recipe.seed, "distil", step)
        bucket, count = batches_of_latents(recipe, recipe.distil, rng)
        numbers = torch.from_numpy(choose(count, recipe.other_share, rng)).to(device)
        return bucket, (numbers, draw_frame_rate(rng, device))

    def loss(bucket: Bucket, numbers: torch.Tensor, frame_rate: torch.Tensor) -> torch.Tensor:
        prompts = Prompts.of(teacher, captions.draw(numbers), captions.empty)
        going = {"size": bucket.latent, "frame_rate": frame_rate}
        x = torch.randn(len(numbers), bucket.tokens, recipe.sizes.latent_channels, device=device)
        losses = []
        for start, end in itertools.pairwise((*STUDENT_TIMESTEPS, 0.0)):
            fine = uniform_timesteps(recipe.teacher_substeps, start, end)
            there = euler(teacher, x, prompts, fine, guidance=GUIDANCE, **going)
            timesteps = torch.full((len(x),), start, device=device)
            with autocast(device):
                velocity = student.velocity(x, timesteps, prompts.embeddings, prompts.ids, **going).float()
            losses.append(F.mse_loss(velocity, (x - there) / (start - end)))
            x = (x - (start - end) * velocity).detach()
        return torch.stack(losses).mean()

    return Objective(inputs, loss)
