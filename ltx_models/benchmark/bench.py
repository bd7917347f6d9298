"""Define what is measured of a family: its networks with random weights, and the phases of a render with them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import mlx.core as mx

from ltx_models.benchmark.measure import Measurement, measure
from ltx_models.errors import InvalidRequest
from ltx_models.families.family import named
from ltx_models.families.variants import Variant
from ltx_models.memory import plans_of
from ltx_models.request import GenerationRequest

__all__ = ["Bench", "check_measured", "measure_parts", "open_bench", "plans_beside"]


class Bench(ABC):
    """A variant's networks with random weights, and one request to render with them.

    Attributes:
        phases: The phases of a render in order, each with the name of the network that works in it, "" for none.
        texts: The phase that is left out where a text's embeddings are known; "" for none.
        previewed: The phase that can make previews; "" for none.
        plans: The plans of networks that can work in several ways, by name.
    """

    phases: ClassVar[Mapping[str, str]]
    texts: ClassVar[str] = ""
    previewed: ClassVar[str] = ""

    def __init__(self, variant: Variant, request: GenerationRequest, dtype: mx.Dtype) -> None:
        """Make the networks.

        Args:
            variant: The variant.
            request: A resolved request.
            dtype: The precision.
        """
        self.variant = variant
        self.request = request
        self.build(dtype)
        self.plans = plans_beside(variant, request)

    @abstractmethod
    def build(self, dtype: mx.Dtype) -> None:
        """Make the networks, with random weights of that precision."""

    @abstractmethod
    def parts(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        """Yield the parts of a render that are measured by themselves: a name, and a call."""

    @abstractmethod
    def run(self, phase: str, given: Any = None, *, previews_every: int = 0) -> Any:
        """Run a phase, given what the phase before returned, or None for what it would be; return its result."""

    def compare(self, _runs: int) -> Iterator[Measurement]:
        """Measure the same parts in another library. Raise InvalidRequest where there is none to compare with."""
        raise InvalidRequest(f"{self.variant.family.title} is not compared with another library")

    def release(self) -> None:
        """Free the networks, before another library's are made."""
        mx.clear_cache()


def open_bench(variant: Variant, request: GenerationRequest, dtype: mx.Dtype) -> Bench:
    """Return the bench of a variant's family."""
    check_measured(variant)
    bench: Bench = named(variant.family.benchmark)(variant, request, dtype)
    return bench


def check_measured(variant: Variant) -> None:
    """Raise InvalidRequest where a variant's family has no bench."""
    if not variant.family.benchmark:
        raise InvalidRequest(f"{variant.family.title} has no benchmark; measure a variant of another family")


def plans_beside(variant: Variant, request: GenerationRequest) -> dict[str, Any]:
    """Return the plan of each network that can work in several ways, with all networks resident."""
    left = variant.ram_gb * 10**9 - mx.get_active_memory()
    found = {}
    for component in variant.family.components:
        if component.plans:
            plans = plans_of(variant, request, component)
            needs = (named(component.working)(variant, request, plan) for plan in plans)
            found[component.name] = next(
                (plan for plan, need in zip(plans, needs, strict=True) if need <= left), plans[-1]
            )
    return found


def measure_parts(bench: Bench, runs: int) -> Iterator[Measurement]:
    """Measure each part by itself."""
    for name, run in bench.parts():
        yield measure(name, run, runs)
