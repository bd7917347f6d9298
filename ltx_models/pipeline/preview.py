"""Decode preview frames while the steps of a render run."""

from __future__ import annotations

import functools
import logging
import queue
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

import mlx.core as mx
from PIL import Image

from ltx_models.events import Event, Previewed, ResumePoint, Stepped
from ltx_models.request import GenerationRequest
from ltx_models.sampling.latents import LatentShape
from ltx_models.vae import VAE
from ltx_models.vae.tiling import is_out_of_memory

__all__ = ["with_previews"]

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
Steps = Generator[tuple[Stepped, mx.array], None, ResumePoint]


def with_previews(
    steps: Steps, find_vae: Callable[[], VAE | None], request: GenerationRequest, shape: LatentShape, every: int
) -> Generator[Event, None, ResumePoint]:
    """Yield the steps' events, and a Previewed after every `every` steps, but not after the last step.

    One frame is many small pieces of work, which leave a GPU idle most of the time. So a thread with an MLX stream of
    its own decodes it while the next step runs, which costs about half of what it would cost between two steps.

    Args:
        steps: The steps and their predicted videos, as `Denoiser.run` yields them.
        find_vae: Returns the VAE at the first step; None where it does not fit in memory with the transformer, and then
            there are no previews.
        request: The resolved request.
        shape: The shape of the latents.
        every: The interval in steps; 0 for no previews.

    Returns:
        The point after the last step.
    """
    vae = find_vae() if every else None
    begun: tuple[int, Future[Image.Image | None]] | None = None
    while True:
        try:
            stepped, x0 = next(steps)
        except StopIteration as stop:
            end: ResumePoint = stop.value
            return end
        if begun is not None:
            step, image = begun[0], begun[1].result()
            begun = None
            if image is not None:
                yield Previewed(step, image)
        yield stepped
        if vae is not None and stepped.step % every == 0 and stepped.step < stepped.steps:
            latent = _middle_frame(x0, shape)
            mx.eval(latent)  # another thread can only use what has been evaluated
            begun = stepped.step, _thread().submit(_decode, vae, latent, request)


class _Thread:
    """A thread that calls functions one after another, until the process ends.

    There is only one, since MLX keeps a thread's memory after the thread has ended; and it never ends, since MLX would
    then free the rest, which aborts a process that is exiting.
    """

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="preview", daemon=True).start()

    def submit(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue a call, and return its future."""
        future: Future[T] = Future()

        def work() -> None:
            try:
                future.set_result(function(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 — it is raised where the result is asked for
                future.set_exception(error)

        self._work.put(work)
        return future

    def _run(self) -> None:
        while True:
            self._work.get()()


@functools.cache
def _thread() -> _Thread:
    return _Thread()


def _middle_frame(tokens: mx.array, shape: LatentShape) -> mx.array:
    """Return the middle latent frame (1, C, 1, H, W) of tokens (1, F·H·W, C)."""
    _, channels, frames, height, width = shape
    start = frames // 2 * height * width
    frame = tokens[:, start : start + height * width].reshape(1, 1, height, width, channels)
    return frame.transpose(0, 4, 1, 2, 3)


def _decode(vae: VAE, latent: mx.array, request: GenerationRequest) -> Image.Image | None:
    assert request.decode_timestep is not None
    assert request.seed is not None
    try:
        return Image.fromarray(vae.picture(latent, request.decode_timestep, request.seed))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        log.warning("a preview was skipped: %s", error)
        return None
