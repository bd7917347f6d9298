"""Read the marks that tests and processes leave for each other."""

import errno
import os
import signal
import time
from pathlib import Path

FOLDER = Path(os.environ["LTX_FAULTS"])
LONGEST_HOLD = 60


def _fail(mark):
    """Raise the system error that the mark names, or return values that are not finite, once."""
    try:
        name = mark.read_text()
        mark.unlink()
    except OSError:  # there is none, or no descriptor to read it with
        return
    if name == "NaN":
        from ltx_models.errors import NotFinite

        raise NotFinite("what was computed came out as NaN or infinite values")
    number = getattr(errno, name)
    raise OSError(number, os.strerror(number))


def at(job_id, phase):
    """Do what the marks of a job say for a phase."""
    if (FOLDER / f"{job_id}.{phase}.die").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    _hold(job_id, phase)
    _fail(FOLDER / f"{job_id}.{phase}.fail")


def _hold(job_id, phase):
    gate = FOLDER / f"{job_id}.{phase}.hold"
    if not gate.exists():
        return
    told = FOLDER / f"{job_id}.{phase}.held"
    temporary = told.with_suffix(f".{os.getpid()}")
    temporary.write_text(str(os.getpid()))
    temporary.replace(told)
    deadline = time.monotonic() + LONGEST_HOLD
    while gate.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
