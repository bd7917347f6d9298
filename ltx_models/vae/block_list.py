"""Check the block lists of a VAE's config before a VAE is built from them."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any

from ltx_models.errors import CheckpointError

__all__ = ["check_blocks"]

MOST_BLOCKS = 100
MOST = {"num_layers": 100, "multiplier": 64, "attention_head_dim": 65_536}
"""The largest values of a block's parameters: many times what any checkpoint has."""
SWITCHES = ("residual", "inject_noise")


def check_blocks(blocks: Sequence[tuple[str, Any]], source: str) -> None:
    """Raise CheckpointError unless a VAE can be built from a list of blocks.

    Args:
        blocks: Pairs of a name and its parameters, or its number of layers.
        source: The config that errors name.
    """
    if len(blocks) > MOST_BLOCKS:
        raise CheckpointError(f"{source} lists {len(blocks):,} blocks; {MOST_BLOCKS} at most are possible")
    for name, given in blocks:
        parameters = given if isinstance(given, dict) else {"num_layers": given}
        for key, value in parameters.items():
            most = MOST.get(key)
            wrong = most is not None and (type(value) is not int or not 1 <= value <= most)
            if wrong or (key in SWITCHES and not isinstance(value, bool)):
                expected = "true or false" if most is None else f"1 to {most:,}"
                raise CheckpointError(
                    f"{source} has a block {reprlib.repr(name)} with {key} = {reprlib.repr(value)}; {expected} is"
                    " possible"
                )
