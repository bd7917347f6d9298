"""List the subcommands of `ltx`, thin and one a module, in a table that is read without importing any."""

from __future__ import annotations

from ltx_client.shared.console.lazy_group import LazyCommand

__all__ = ["COMMANDS"]

_HERE = "ltx_client.commands"
_FARM = ("ltx_client.farm.farm",)

COMMANDS = {
    "batch": LazyCommand(
        f"{_HERE}.batches.batch:command",
        "Queue a video for each line of FILE (- is standard input) and seed, and print the batch's id.",
        _FARM,
    ),
    "batches": LazyCommand(f"{_HERE}.batches.batches:command", "List the farm's batches, the newest first.", _FARM),
    "bench": LazyCommand(f"{_HERE}.bench:command", "Measure this machine."),
    "cancel": LazyCommand(
        f"{_HERE}.jobs.cancel:command",
        "Cancel jobs: a queued one never runs, a running one stops at its next step.",
        _FARM,
    ),
    "config": LazyCommand(
        f"{_HERE}.farm.config:command",
        "Show and change the configuration: farms by name, and defaults for their options.",
    ),
    "doctor": LazyCommand(
        f"{_HERE}.farm.doctor:command",
        "Check this machine, the broker, the storage and the workers, and say how to fix what is wrong.",
        ("ltx_client.terminal.client_checks",),
    ),
    "download": LazyCommand(
        f"{_HERE}.jobs.download:command", "Download the MP4 of a finished job, check it, and print its path.", _FARM
    ),
    "gc": LazyCommand(
        f"{_HERE}.farm.gc:command",
        "Remove the videos and records of jobs that ended longer ago than AGE, whoever submitted them.",
        _FARM,
    ),
    "jobs": LazyCommand(
        f"{_HERE}.jobs.jobs:command", "List the farm's jobs, the newest first; or a batch's, in its own order.", _FARM
    ),
    "logs": LazyCommand(
        f"{_HERE}.jobs.logs:command",
        "Print a job's events, one a line, with the time by the broker's clock.",
        _FARM,
    ),
    "models": LazyCommand(
        f"{_HERE}.models:command", "List the model variants, and download, check and convert their files."
    ),
    "pause": LazyCommand(
        f"{_HERE}.jobs.pause:command",
        "Pause jobs: a queued one does not begin, a running one stops at its next step.",
        _FARM,
    ),
    "priority": LazyCommand(
        f"{_HERE}.jobs.priority:command", "Change the PRIORITY of waiting jobs: 0 is first, 9 is last.", _FARM
    ),
    "render": LazyCommand(
        f"{_HERE}.jobs.render:command",
        "Render PROMPT, show its progress, and download the MP4; its path is printed last.",
        _FARM,
    ),
    "resume": LazyCommand(
        f"{_HERE}.jobs.resume:command",
        "Resume paused jobs, workers and queues; a job continues from where it was.",
        _FARM,
    ),
    "retry": LazyCommand(
        f"{_HERE}.jobs.retry:command",
        "Queue a new job in place of each one that failed or was cancelled, and print the new ids.",
        _FARM,
    ),
    "show": LazyCommand(
        f"{_HERE}.jobs.show:command", "Show one job: its request, its state, and where its result is.", _FARM
    ),
    "stats": LazyCommand(
        f"{_HERE}.farm.stats:command",
        "Count the jobs of the last days by variant and worker, with their times, as far as they are still known.",
        _FARM,
    ),
    "storage": LazyCommand(
        f"{_HERE}.farm.storage:command",
        "Create the folder or bucket for finished videos, and check it.",
        ("ltx_client.shared.storage.store",),
    ),
    "submit": LazyCommand(f"{_HERE}.jobs.submit:command", "Queue PROMPT and print the job's id.", _FARM),
    "up": LazyCommand(
        f"{_HERE}.farm.up:command", "Keep this machine's farm (a broker and one worker) running until Ctrl-C.", _FARM
    ),
    "watch": LazyCommand(
        f"{_HERE}.jobs.watch:command", "Show jobs until they end: those named, or all that have not ended.", _FARM
    ),
    "workers": LazyCommand(
        f"{_HERE}.farm.workers:command", "List the farm's live workers and what each is doing.", _FARM
    ),
}
