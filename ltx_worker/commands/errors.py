"""The error of a worker's command for what may be available later."""

from __future__ import annotations

import os
from typing import NoReturn

import click

__all__ = ["Unavailable", "unavailable"]


class Unavailable(click.ClickException):
    """Something is missing that may be available later; the service manager starts the worker again."""

    exit_code = os.EX_UNAVAILABLE


def unavailable(sentence: str) -> NoReturn:
    """Raise Unavailable with a sentence."""
    raise Unavailable(sentence)
