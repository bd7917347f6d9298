"""Complete words in a shell: jobs and batches of the farm, variants, workers, farms.

`ltx` itself completes its `--farm`, so this module imports what it needs only when a shell asks.
"""

# ruff: noqa: ARG001 - click passes all three

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from ltx_client.farm.farm import Farm

__all__ = ["complete_batches", "complete_farms", "complete_jobs", "complete_variants", "complete_workers"]

OFFERED = 100
WORDS = 60
PLAIN = re.compile(r"[\w.@:+-]+")


def complete_variants(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the names of variants, each with its description."""
    from ltx_models.families.variants import VARIANTS

    return _fitting(incomplete, ((name, row.description) for name, row in VARIANTS.items()))


def complete_farms(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the names of the configuration's farms."""
    with contextlib.suppress(Exception):
        from ltx_client.shared.config import LOCAL, load

        return _fitting(incomplete, ((name, "") for name in (*load().farms, LOCAL)))
    return []


def complete_jobs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the short ids of the newest jobs, each with its state and prompt; none if the farm is out of reach."""
    from ltx_client.farm.outputs.names import short_id

    with contextlib.suppress(Exception), _farm(ctx) as farm:
        return _fitting(
            incomplete,
            ((short_id(view.job.id), f"{view.status}: {view.job.request.prompt}") for view in farm.jobs(OFFERED)),
        )
    return []


def complete_batches(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the short ids of the newest batches, each with its file."""
    from ltx_client.farm.outputs.names import short_id

    with contextlib.suppress(Exception), _farm(ctx) as farm:
        return _fitting(incomplete, ((short_id(batch.id), batch.name) for batch in farm.batches(OFFERED)))
    return []


def complete_workers(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the names of the live workers, each with its chip."""
    with contextlib.suppress(Exception), _farm(ctx) as farm:
        return _fitting(incomplete, ((worker.name, worker.chip) for worker in farm.workers()))
    return []


@contextlib.contextmanager
def _farm(ctx: click.Context) -> Iterator[Farm]:
    """Yield the farm that the typed line names. An embedded one is not started for this."""
    from ltx_client.farm.broker import connect
    from ltx_client.farm.farm import Farm
    from ltx_client.local.members import FarmFolder
    from ltx_client.shared.settings import FarmSettings
    from ltx_client.terminal.arguments.config_changes import use_farm

    with contextlib.ExitStack() as stack:
        if name := ctx.find_root().params.get("farm"):
            stack.enter_context(use_farm(name))
        settings = FarmSettings()
        url, storage = settings.broker_url, settings.storage_url
        if url is None:
            address = FarmFolder(settings.home).address()
            if address is None or not address.answers():
                raise LookupError("the embedded farm does not run")
            url = address.url
        yield Farm.over(stack.enter_context(connect(url)), url, settings.names, storage)


def _fitting(incomplete: str, offers: Any) -> list[CompletionItem]:
    """Return the offers that begin like the word and need no quoting, since they become part of a command."""
    from click.shell_completion import CompletionItem

    from ltx_client.protocol.text import shown

    return [
        CompletionItem(value, help=shown(" ".join(text.split()))[:WORDS])
        for value, text in offers
        if value.startswith(incomplete) and PLAIN.fullmatch(value)
    ]
