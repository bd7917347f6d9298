"""Whether all threads of a worker are at work, by what `ltx workers --json` says of it."""

ALWAYS = frozenset(
    {"consumer", "embeddings", "finisher", "health", "heartbeat", "leases", "orphans", "reaper", "spool", "supervisor"}
    | {"engine-messages", "engine-output", "thrift", "watchdog"}
)
"""Those that a worker has whatever it does, while its engine runs."""
SILENT = frozenset({"engine-messages", "engine-output", "consumer"})
"""Those that may wait for as long as nothing happens."""


def dead_threads(worker, silent_for=30.0):
    """Which threads of a worker, an object of that list, are missing, fail, or were not seen at work of late: a line
    each, and none where all is well.
    """
    known = {thread["name"]: thread for thread in worker["threads"]}
    found = [f"{name} is missing" for name in sorted(ALWAYS - known.keys())]
    for name, thread in known.items():
        if thread["failing"]:
            found.append(f"{name} fails: {thread['error']}")
        elif name in ALWAYS and thread["beat_at"] is None:
            found.append(f"{name} has ended")
        elif name in ALWAYS - SILENT and worker["seen_at"] - thread["beat_at"] > silent_for:
            found.append(f"{name} was last seen {worker['seen_at'] - thread['beat_at']:.0f} s ago")
    return found
