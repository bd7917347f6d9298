"""How a command of the worker fails for what may be there later."""

from __future__ import annotations

import os
from typing import NoReturn

import click

__all__ = ["Unavailable", "unavailable"]


class Unavailable(click.ClickException):
    """What may be there later: whoever supervises the worker starts it again."""

    exit_code = os.EX_UNAVAILABLE


def unavailable(sentence: str) -> NoReturn:
    """Raise Unavailable."""
    raise Unavailable(sentence)
