"""Run a phase of training: a falling learning rate, averaged weights, and a state to continue from."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file

from ltx_models.pocket.train.optimization.muon import Muon, split_parameters
from ltx_models.pocket.train.optimization.recipe import Phase
from ltx_models.pocket.train.optimization.replay import Replayed

__all__ = ["Clock", "Gradients", "Objective", "Trainer", "TrainingError", "make_optimizers", "save_result"]

LOGGED_EVERY = 20
SAVED_EVERY = 60.0
"""Seconds between two savings of the state."""
FINAL_RATE = 0.01
LONGEST_AVERAGE = 0.999


class TrainingError(Exception):
    """Training has failed."""


class Objective(NamedTuple):
    """The loss that a phase minimizes, and its inputs.

    Attributes:
        inputs: Returns a step's kind of inputs and tensors on the device, by the step's number. Tensors of a kind
            always have the same shapes.
        loss: Returns the loss of a kind and such tensors. It must not wait for a value of a tensor: see `Replayed`.
    """

    inputs: Callable[[int], tuple[Hashable, tuple[torch.Tensor, ...]]]
    loss: Callable[..., torch.Tensor]


class Gradients:
    """The gradients of an objective, in the parameters that are trained."""

    def __init__(self, trained: Sequence[torch.Tensor], objective: Objective) -> None:
        self.objective = objective
        self._of_inputs = Replayed(self._backward)
        self._places = [torch.zeros_like(parameter) for parameter in trained]
        for parameter, place in zip(trained, self._places, strict=True):
            parameter.grad = place

    def compute(self, step: int) -> torch.Tensor:
        """Compute the gradients of a step, by its number, and return its loss."""
        kind, tensors = self.objective.inputs(step)
        loss: torch.Tensor = self._of_inputs(kind, *tensors)
        return loss

    def _backward(self, kind: Hashable, *tensors: torch.Tensor) -> torch.Tensor:
        torch._foreach_zero_(self._places)
        loss = self.objective.loss(kind, *tensors)
        loss.backward()
        return loss.detach()


class Clock:
    """The time that this call may train, in seconds; None for no limit."""

    def __init__(self, limit: float | None = None) -> None:
        self._end = math.inf if limit is None else time.monotonic() + limit

    @property
    def is_up(self) -> bool:
        """Whether it is time to save and exit."""
        return time.monotonic() >= self._end


class Trainer:
    """A module in training, until its phase is done or the clock is up.

    Files in `folder`: NAME.safetensors, the averaged weights in bfloat16, once it is done; before that NAME.state, to
    continue from; NAME.losses.json, a list of [step, seconds, loss].

    `seconds` is the time to train for, in all calls together; None trains for the phase's own number of steps. The
    learning rate falls with the fraction of either that is used up.
    """

    def __init__(self, name: str, module: torch.nn.Module, phase: Phase, folder: Path, seconds: float | None) -> None:
        self.name, self.module, self.phase, self.folder, self.seconds = name, module, phase, folder, seconds
        self.device = next(module.parameters()).device
        self.trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.optimizers = make_optimizers(module, phase)
        self.average = [parameter.detach().clone() for parameter in self.trained]
        self.step, self.used = 0, 0.0
        self.result = folder / f"{name}.safetensors"
        self.state = folder / f"{name}.state"
        self.losses: list[tuple[int, float, float]] = []
        self._resume()

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to train."""
        return self.result.is_file()

    @property
    def fraction(self) -> float:
        """The fraction of the phase that is done."""
        return min(1.0, self.step / self.phase.steps if self.seconds is None else self.used / self.seconds)

    def run(self, objective: Objective, clock: Clock) -> bool:
        """Train, and return whether the phase is done.

        Raises:
            TrainingError: The loss is not a number.
        """
        gradients = Gradients(self.trained, objective)
        saved = before = time.monotonic()
        with _progress() as progress:
            bar = progress.add_task(self.name, total=1.0, note="")
            while self.fraction < 1 and not clock.is_up:
                loss = self._step(gradients)
                if self.step % LOGGED_EVERY == 0 or self.step < 3 or self.step == self.phase.steps:
                    value = loss.item()  # waits for the device, so the time below is that of work done
                    if not math.isfinite(value):
                        raise TrainingError(f"the loss of {self.name} is {value} at step {self.step}")
                    now = time.monotonic()
                    self.used, before = self.used + now - before, now
                    self.losses.append((self.step, round(self.used, 2), value))
                    note = f"step {self.step:,}  loss {value:.4f}  {self.step / max(self.used, 1e-9):.1f} steps/s"
                    progress.update(bar, completed=self.fraction, note=note)
                    if now - saved > SAVED_EVERY:
                        self._save_state()
                        saved = before = time.monotonic()
        if self.fraction < 1:
            self._save_state()
            return False
        self._finish()
        return True

    def _step(self, gradients: Gradients) -> torch.Tensor:
        warm = min(1.0, (self.step + 1) / self.phase.warmup)
        part = warm * (FINAL_RATE + (1 - FINAL_RATE) * (1 + math.cos(math.pi * self.fraction)) / 2)
        loss = gradients.compute(self.step)
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        for optimizer, rate in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * part
            optimizer.step()
        self.step += 1
        decay = min(LONGEST_AVERAGE, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, [parameter.detach() for parameter in self.trained], 1 - decay)
        return loss

    def _resume(self) -> None:
        if self.is_done:
            self.module.load_state_dict(_as_float(load_file(self.result)))
        elif self.state.is_file():
            state: dict[str, Any] = torch.load(self.state, map_location=self.device, weights_only=True)
            self.module.load_state_dict(state["module"])
            for (optimizer, _), saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.average = state["average"]
            self.step, self.used, self.losses = state["step"], state["used"], [tuple(row) for row in state["losses"]]

    def _save_state(self) -> None:
        state = {
            "module": self.module.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer, _ in self.optimizers],
            "average": self.average,
            "step": self.step,
            "used": self.used,
            "losses": [list(row) for row in self.losses],
        }
        partial = self.state.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.state)
        self._write_losses()

    def _finish(self) -> None:
        """Set the module's parameters to those of its file: the averaged weights, rounded to bfloat16."""
        with torch.no_grad():
            for parameter, average in zip(self.trained, self.average, strict=True):
                parameter.copy_(average)
        save_result(self.module, self.result)
        self.module.load_state_dict(_as_float(load_file(self.result)))
        self._write_losses()
        self.state.unlink(missing_ok=True)

    def _write_losses(self) -> None:
        (self.folder / f"{self.name}.losses.json").write_text(json.dumps(self.losses))


def make_optimizers(module: torch.nn.Module, phase: Phase) -> list[tuple[torch.optim.Optimizer, float]]:
    """Return AdamW, and Muon where there are parameters for it, each with its peak rate."""
    matrices, others = split_parameters(module)
    on_gpu = others[0].is_cuda
    adam = torch.optim.AdamW(others, lr=phase.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=on_gpu)
    optimizers: list[tuple[torch.optim.Optimizer, float]] = [(adam, phase.rate)]
    if matrices:
        optimizers.append((Muon(matrices, phase.matrix_rate), phase.matrix_rate))
    return optimizers


def save_result(module: torch.nn.Module, path: Path) -> None:
    """Write a module's tensors in bfloat16, each once, as they are to be published."""
    tensors = {name: value.to(torch.bfloat16).contiguous().cpu().clone() for name, value in module.state_dict().items()}
    partial = path.with_suffix(".partial")
    save_file(tensors, partial)
    partial.replace(path)


def _as_float(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.float() for name, value in tensors.items()}


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description:>7}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
