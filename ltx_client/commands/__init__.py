"""The subcommands of `ltx`, thin and one a module, and the table of them, which is read without importing any."""

from __future__ import annotations

from ltx_client.shared.console.lazy_group import LazyCommand

__all__ = ["COMMANDS"]

_HERE = "ltx_client.commands"
_FARM = ("ltx_client.farm.farm",)

COMMANDS = {
    "batch": LazyCommand(
        f"{_HERE}.batches.batch:command",
        "Queues a video for each line of FILE (- is standard input) and seed, and prints the batch's id.",
        _FARM,
    ),
    "batches": LazyCommand(f"{_HERE}.batches.batches:command", "Lists the farm's batches, the newest first.", _FARM),
    "bench": LazyCommand(f"{_HERE}.bench:command", "Measures this machine."),
    "cancel": LazyCommand(
        f"{_HERE}.jobs.cancel:command",
        "Cancels jobs: a queued one never runs, a running one stops at its next step.",
        _FARM,
    ),
    "config": LazyCommand(
        f"{_HERE}.farm.config:command",
        "Shows and changes the configuration: farms by name, and defaults for their options.",
    ),
    "doctor": LazyCommand(
        f"{_HERE}.farm.doctor:command",
        "Looks at this machine, the broker, the storage and the workers, and says what is wrong and what mends it.",
        ("ltx_client.terminal.client_checks",),
    ),
    "download": LazyCommand(
        f"{_HERE}.jobs.download:command", "Fetches the MP4 of a finished job, checks it, and prints its path.", _FARM
    ),
    "gc": LazyCommand(
        f"{_HERE}.farm.gc:command",
        "Removes the videos and records of jobs that ended longer ago than AGE, whoever submitted them.",
        _FARM,
    ),
    "jobs": LazyCommand(
        f"{_HERE}.jobs.jobs:command", "Lists the farm's jobs, the newest first; or a batch's, in its own order.", _FARM
    ),
    "logs": LazyCommand(
        f"{_HERE}.jobs.logs:command",
        "Prints everything that happened to a job, a line each, with the time by the broker's clock.",
        _FARM,
    ),
    "models": LazyCommand(
        f"{_HERE}.models:command", "Lists the model variants, and fetches, checks and converts their files."
    ),
    "pause": LazyCommand(
        f"{_HERE}.jobs.pause:command",
        "Pauses jobs: a queued one is not begun, a running one stops at its next step.",
        _FARM,
    ),
    "priority": LazyCommand(
        f"{_HERE}.jobs.priority:command", "Gives jobs that wait another PRIORITY: 0 is first, 9 is last.", _FARM
    ),
    "render": LazyCommand(
        f"{_HERE}.jobs.render:command",
        "Renders PROMPT, shows its progress, and downloads the MP4; its path is printed last.",
        _FARM,
    ),
    "resume": LazyCommand(
        f"{_HERE}.jobs.resume:command",
        "Has paused jobs go on from where they were, and paused workers and queues go on.",
        _FARM,
    ),
    "retry": LazyCommand(
        f"{_HERE}.jobs.retry:command",
        "Queues a new job in place of each one that failed or was cancelled, and prints their ids.",
        _FARM,
    ),
    "show": LazyCommand(
        f"{_HERE}.jobs.show:command", "Shows one job: what was asked, where it stands, and where its result is.", _FARM
    ),
    "stats": LazyCommand(
        f"{_HERE}.farm.stats:command",
        "Counts the jobs of the last days by variant and worker, and what they took, as far as they are still known.",
        _FARM,
    ),
    "storage": LazyCommand(
        f"{_HERE}.farm.storage:command",
        "Makes the folder or bucket where finished videos lie, and checks it.",
        ("ltx_client.shared.storage.store",),
    ),
    "submit": LazyCommand(f"{_HERE}.jobs.submit:command", "Queues PROMPT and prints the job's id.", _FARM),
    "up": LazyCommand(
        f"{_HERE}.farm.up:command", "Keeps this machine's farm (a broker and one worker) running until Ctrl-C.", _FARM
    ),
    "watch": LazyCommand(
        f"{_HERE}.jobs.watch:command", "Shows jobs until they end: those named, or all that have not ended.", _FARM
    ),
    "workers": LazyCommand(
        f"{_HERE}.farm.workers:command", "Lists the farm's live workers and what each is doing.", _FARM
    ),
}
