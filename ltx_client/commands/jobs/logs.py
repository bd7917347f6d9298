"""Run `ltx logs`: print a job's events."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from ltx_client.shared.console.stdio import print_json, print_line
from ltx_client.terminal.arguments.options import job_argument

if TYPE_CHECKING:
    from ltx_client.protocol.events import Event

__all__ = ["command"]


@click.command("logs", epilog="Example: ltx logs 3fa85f64a1b2")
@job_argument
@click.option("-f", "--follow", is_flag=True, help="Continue until the job has ended.")
@click.option("--json", "as_json", is_flag=True, help="Print every event as a line of JSON.")
def command(job: str, follow: bool, as_json: bool) -> None:
    """Print a job's events, one a line, with the time by the broker's clock."""
    from ltx_client.farm.farm import Farm
    from ltx_client.local.members import Use

    with Farm.connect(use=Use.READ) as farm:
        job_id = farm.find(job)
        for update in farm.watch(job_id) if follow else farm.log(job_id):
            if update.event is None:
                continue
            if as_json:
                print_json({"seq": update.snapshot.seq, **update.event.model_dump()}, indent=None)
            else:
                moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(update.event.at))
                print_line(f"{moment}  {' '.join(_words(update.event))}")


def _words(event: Event) -> Iterable[str]:
    from ltx_client.protocol import events

    match event:
        case events.Claimed():
            return f"attempt {event.attempt} begins on {event.worker_name}", f"({event.worker})"
        case events.Resumed():
            return f"continues after step {event.step}", f"({event.reason})" if event.reason else ""
        case events.Loading():
            return event.message or "loading", f"{event.fraction:.0%}"
        case events.TextEncoded():
            return ("the prompt is encoded", *(f"({text.sentence})" for text in event.cut))
        case events.Stepped():
            return f"step {event.step}/{event.steps}", f"took {event.seconds:.2f} s"
        case events.Previewed():
            return (f"a preview of step {event.step}",)
        case events.Decoded():
            return (f"{event.frames} frames are decoded",)
        case events.Uploading():
            return (f"the MP4, {event.size:,} bytes, is uploaded to the storage",)
        case events.Delayed():
            return ("the MP4 waits on its worker:", event.reason)
        case events.Done():
            return f"done: {event.result.video}, {event.result.size:,} bytes,", f"SHA-256 {event.result.sha256}"
        case events.Failed():
            return ("failed:", event.error)
        case events.Cancelled():
            return ("cancelled",)
        case events.Released():
            return ("given back:", event.reason)
