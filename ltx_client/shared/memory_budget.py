"""Compute how much of a machine's memory renders may use, and whether a worker with that serves anything."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import Field

from ltx_client.protocol.workers import Gigabytes
from ltx_client.shared.setting_errors import Unit
from ltx_client.shared.settings import HomeSettings
from ltx_models.errors import ModelError
from ltx_models.families.variants import VARIANTS, Variant
from ltx_models.memory import GB, USABLE_PART, machine_memory, smallest_class

__all__ = ["BudgetSettings", "ServesNothing", "check_serves", "usable_memory", "why_too_much"]


class ServesNothing(ModelError):
    """A worker's memory does not suffice for its variant's smallest render."""


def usable_memory() -> float:
    """Return how many GB renders may use unless a setting says otherwise."""
    return USABLE_PART * machine_memory() / GB


class BudgetSettings(HomeSettings):
    """The settings of this machine's own worker that a client needs to know."""

    worker_memory_gb: Annotated[Gigabytes, Unit("GB")] = Field(default_factory=usable_memory)


def why_too_much(budget_gb: float) -> str:
    """Return a sentence if renders may use more than the machine has; otherwise ""."""
    there = machine_memory() / GB
    if budget_gb <= there:
        return ""
    return (
        f"LTX_WORKER_MEMORY_GB is {budget_gb:g}, and this machine has {there:.0f} GB: it takes jobs that it cannot"
        f" render; set it to {usable_memory():.0f} or less"
    )


def check_serves(variant: Variant, budget_gb: float) -> None:
    """Check that a render of the variant fits.

    Raises:
        ServesNothing: None fits; the message says what would.
    """
    needed = smallest_class(variant)
    if budget_gb >= needed:
        return
    fitting = [row.name for row in VARIANTS.values() if smallest_class(row) <= budget_gb]
    serves = f"; these fit: {', '.join(fitting)}" if fitting else ""
    if "LTX_WORKER_MEMORY_GB" in os.environ:
        raise ServesNothing(
            f"LTX_WORKER_MEMORY_GB is {budget_gb:g}, and the smallest render of {variant.name} needs {needed} GB;"
            f" set it to {needed} or more{serves}"
        )
    raise ServesNothing(
        f"renders may use {budget_gb:.3g} GB of this machine's memory, and the smallest of {variant.name} needs"
        f" {needed} GB: use a machine with more memory{serves}"
    )
