"""Decide which networks are in memory: all of a variant's where the budget allows, else one after another."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ltx_models import memory
from ltx_models.errors import InvalidRequest, OutOfMemory
from ltx_models.families.family import Part, named
from ltx_models.families.variants import VARIANTS, Variant
from ltx_models.files.model_files import find_files
from ltx_models.memory import machine_memory
from ltx_models.request import GenerationRequest

__all__ = ["Models", "files_of"]


class Models:
    """A variant's networks, each read from disk when it is first used.

    Using one frees others that do not fit with it in `budget` bytes, so no caller should keep a reference to one while
    using the next. Reading one may raise CheckpointError.
    """

    def __init__(self, variant: Variant, dtype: mx.Dtype) -> None:
        self.variant = variant
        self.dtype = dtype
        self.budget = memory.budget(variant, *_machine())
        self._working: dict[str, int] = {}
        self._loaded: dict[str, nn.Module] = {}
        self._busy: int | None = None
        """Bytes that the network works with that is at work now; None where it has run out of memory."""
        mx.set_cache_limit(memory.cache_limit(self.budget))

    def expect(self, request: GenerationRequest) -> None:
        """Make room for a resolved request. Raise OutOfMemory if it needs more than this machine's budget."""
        if self._is_listed:
            try:
                memory.check_fits(self.variant, request, self.budget)
            except InvalidRequest as error:
                raise OutOfMemory(str(error)) from error
        self._working = memory.phase_working(self.variant, request, self.expected_plans(request))

    def expected_plans(self, request: GenerationRequest) -> dict[str, Any]:
        """Return the plans by which room is made for a resolved request, by name: those that need the least memory."""
        elastic = [each for each in self.variant.family.components if each.plans]
        return {each.name: memory.plans_of(self.variant, request, each)[-1] for each in elastic}

    def load(self, report: Callable[[float, str], None], *, texts: bool = True) -> None:
        """Read what every render uses, as far as it fits together.

        Args:
            report: Called with the fraction done and what is next.
            texts: Include what encodes texts; otherwise it is read for the first text that must be encoded.
        """
        resident = self.variant.family.resident
        *others, last = (each.name for each in resident)
        gone = {*memory.evictions(others, last, self._weights, self._working, self._available)}
        left_out = gone | self._loaded.keys()
        wanted = [each for each in resident if each.name not in left_out and (texts or not each.encodes_texts)]
        if not wanted:
            return
        for each in wanted:
            assert each.loading is not None
            report(each.loading, f"loading {each.title}")
            self.get(each.name)
        report(1.0, "all models are loaded" if not gone else "the models that fit together are loaded")

    def get(self, name: str) -> Any:
        """Return a network, read from disk if it is not in memory."""
        if name not in self._loaded:
            for other in memory.evictions(self._loaded, name, self._weights, self._working, self._available):
                self._loaded.pop(other, None)
            mx.clear_cache()
            self._loaded[name] = self._read(name)
            self.check_loaded()
        return self._loaded[name]

    def get_beside(self, name: str, working: str) -> Any:
        """Return a network for use while another one works; None where the two do not fit together."""
        gone = memory.evictions({*self._loaded, name}, working, self._weights, self._working, self._available)
        if name in gone:
            return None
        for other in gone:
            self._loaded.pop(other, None)
        return self.get(name)

    def get_resident(self, name: str) -> Any:
        """Return a network for use between two parts of what is at work.

        It is None where it is not in memory already, or the budget does not allow both at once.
        """
        if name not in self._loaded or self._busy is None:
            return None
        weights = sum(self._weights[each] for each in self._loaded)
        if weights + self._working.get(name, 0) + self._busy > self._available:
            return None
        return self.get(name)

    def left_for(self, name: str) -> int:
        """Return the bytes that a network may work with beside all that is in memory."""
        resident = {*self._loaded, name}
        return self._available - sum(self._weights[each] for each in resident) - memory.PROCESS_BYTES

    def check_loaded(self) -> None:
        """Raise CheckpointError where two networks that are in memory do not belong together."""

    def clear(self) -> None:
        """Free all networks."""
        self._loaded.clear()
        mx.clear_cache()

    def open(self, part: str) -> Any:
        """Return what networks are loaded from, opened anew: an open checkpoint keeps what was read from it."""
        row = self.variant.family.part(part)
        return named(row.open)(self._files[part]) if row.open else self._files[part]

    def _read(self, name: str) -> nn.Module:
        row = self.variant.family.component(name)
        load, source = named(row.load), self.open(row.part)
        model: nn.Module = (
            load(source, self.dtype, self.variant.bits.get(name)) if row.matrices else load(source, self.dtype)
        )
        return model

    @cached_property
    def _files(self) -> dict[str, Path]:
        return find_files(self.variant)

    @property
    def _is_listed(self) -> bool:
        return self.variant.name in VARIANTS

    @property
    def _available(self) -> int:
        return self.budget - memory.cache_limit(self.budget)

    @cached_property
    def _weights(self) -> dict[str, int]:
        """Bytes of each network's weights, in the order of unloading.

        For files outside of the variant table they are the sizes on disk, an upper bound where nothing is widened; a
        part's are those of the network that is unloaded last of what is read from it.
        """
        if self._is_listed:
            return memory.component_weights(self.variant)
        factor = 2 if self.dtype == mx.float32 else 1
        weights = dict.fromkeys(self.variant.family.unloading, 0)
        for part in self.variant.family.parts:
            used = {each.name for each in self.variant.family.used_by(part)}
            if last := [name for name in weights if name in used][-1:]:
                size = sum(path.stat().st_size for path in files_of(part, self._files[part.name]))
                weights[last[0]] = factor * size
        return weights


def files_of(part: Part, path: Path) -> list[Path]:
    """Return the files that are read of a part that is at `path`. Raise CheckpointError."""
    return list(named(part.files)(path)) if part.files else [path]


def _machine() -> tuple[int, int | None]:
    """Return the bytes of memory that MLX computes in, and of the working set that it recommends, or None."""
    if mx.default_device() == mx.Device(mx.gpu):
        info: Any = mx.device_info()
        total = info.get("memory_size") or info.get("total_memory")
        if total:
            return int(total), info.get("max_recommended_working_set_size")
    return machine_memory(), None
