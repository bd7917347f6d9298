"""Faults of a worker's machine: its share unmounted, unknown files in its spool, no file descriptor left."""

import json
import resource
import time

import psutil

STRAYS = (".DS_Store", "notes.txt", "stray-empty", "stray-note", "stray-foreign")
"""What lies in a spool that no worker put there. The audit knows these names."""


def unmount(target):
    """Make the storage an empty folder of the local disk for a while, like an unmounted share.

    Nothing may be put there.
    """
    farm = target.farm
    with farm.storage_lock:
        away = farm.storage.with_name("share")
        farm.storage.rename(away)
        farm.storage.mkdir()
        target.let_go()
        time.sleep(farm.lease * 0.75)
        left = farm.storage.with_name(f"local-{time.monotonic_ns()}")
        farm.storage.rename(left)
        away.rename(farm.storage)
        if found := sorted(path.name for path in left.rglob("*")):
            farm.died.append(f"with the share unmounted, {found} was written to the local disk")


def litter_spool(target):
    spool = target.worker.home / "spool"
    for name in STRAYS:
        if name.startswith("stray"):
            (spool / name).mkdir(exist_ok=True)
        else:
            (spool / name).write_bytes(b"\0\1Bud1")
    (spool / "stray-note" / "delivery.json").touch()
    foreign = {"job_id": "../..", "attempt": -1, "token": None, "result": []}
    (spool / "stray-foreign" / "delivery.json").write_text(json.dumps(foreign))


def take_descriptors(target):
    """Let the worker open nothing more for a while."""
    process = psutil.Process(target.worker.process.pid)
    before = process.rlimit(resource.RLIMIT_NOFILE)
    process.rlimit(resource.RLIMIT_NOFILE, (max(10, process.num_fds() - 2), before[1]))
    try:
        target.let_go()
        time.sleep(target.farm.lease * 0.75)
    finally:
        if process.is_running():
            process.rlimit(resource.RLIMIT_NOFILE, before)
