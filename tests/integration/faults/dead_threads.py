"""Check whether all threads of a worker are alive, by its record in `ltx workers --json`."""

ALWAYS = frozenset(
    {"consumer", "embeddings", "finisher", "health", "heartbeat", "leases", "orphans", "reaper", "spool", "supervisor"}
    | {"engine-messages", "engine-output", "idle-unload", "watchdog"}
)
"""Those that a worker has whatever it does, while its engine runs."""
SILENT = frozenset({"engine-messages", "engine-output", "consumer"})
"""Those that may wait for as long as nothing happens."""


def dead_threads(worker, silent_for=30.0):
    """Return which threads of a worker's record are missing, fail, or have shown no sign of life lately."""
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
