"""Run `ltx up`: keep this machine's farm running."""

from __future__ import annotations

import signal
import threading

import click

from ltx_client.errors import UsageError
from ltx_client.shared.console.stdio import notice
from ltx_client.terminal.arguments.completion import complete_variants
from ltx_models.families.variants import DEFAULT_VARIANT, find_variant

__all__ = ["command"]

LOOK_EVERY = 1.0


@click.command(
    "up", epilog='Example: ltx up, and in another terminal: ltx submit "a blue disc rises on a pink background"'
)
@click.option(
    "-v",
    "--variant",
    default=DEFAULT_VARIANT,
    show_default=True,
    shell_complete=complete_variants,
    help="The model variant that it renders.",
)
@click.option("--until-idle", is_flag=True, help="Stop when no job of the variant is queued or running.")
@click.option("--stop", is_flag=True, help="Stop every `ltx up` of this machine.")
def command(variant: str, until_idle: bool, stop: bool) -> None:
    """Keep this machine's farm (a broker and one worker) running until Ctrl-C.

    A running job is then requeued, and the next `ltx up` or `ltx render` continues it.
    """
    from ltx_client.farm.farm import Farm
    from ltx_client.local.join import stop_up
    from ltx_client.local.members import FarmFolder, Use
    from ltx_client.shared.settings import FarmSettings

    settings = FarmSettings()
    if stop:
        count = stop_up(settings.home)
        notice(f"stopped {count}" if count else "no `ltx up` is running here")
        return
    if settings.broker_url is not None:
        raise UsageError("LTX_BROKER_URL names a farm elsewhere; unset it to run one on this machine")
    told_to_stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: told_to_stop.set())
    with Farm.connect(settings, Use.UP, find_variant(variant).name) as farm:
        notice(f"the farm is up; videos go to {farm.storage_url}, its log is {FarmFolder(settings.home).worker_log}")
        while not told_to_stop.wait(LOOK_EVERY):
            farm.check()
            jobs = farm.jobs(limit=1000) if until_idle else []
            if until_idle and all(
                view.ended or view.paused or view.newer for view in jobs if view.job.variant == variant
            ):
                break
    notice("the farm is stopping")
