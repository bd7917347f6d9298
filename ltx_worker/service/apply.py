"""Install a service by its plan, or uninstall it. Both may be repeated: what is right already is not changed."""

from __future__ import annotations

import contextlib
import math
import os
import pwd
import re
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from ltx_client.shared.private_files import replace_file
from ltx_worker.machine.home import final_refusal, last_refusal
from ltx_worker.membership.instance_lock import running_worker
from ltx_worker.service.plan import Command, File, Plan
from ltx_worker.threads.retrying import patiently

__all__ = ["ServiceError", "describe", "install", "uninstall", "unreachable_part"]

START_TIMEOUT = 60.0
"""Seconds from the worker's start by the service manager until it must run."""
STOP_TIMEOUT = 70.0
"""Seconds that the previous service may take to end; launchd loads no other meanwhile."""
COMMAND_TIMEOUT = STOP_TIMEOUT + 30.0
"""Seconds that a command of the system may take; the slowest ones end a service, and wait for it."""
Say = Callable[[str], object]
Run = Callable[[Command], None]
IN_PROGRESS = 37
"""The exit code of launchctl while a service is being loaded (EALREADY)."""
SECRETS = re.compile(r"^(\w*(?:URL|KEY|SECRET|TOKEN|PASSWORD)\w*)=.*$", re.MULTILINE)


class ServiceError(Exception):
    """A step of an installation failed; the message says which, with the system's own message.

    Attributes:
        code: the command's exit code, if any.
    """

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


def describe(plan: Plan) -> Iterator[str]:
    """Yield everything that an installation would do, as lines of commands and files, without secret values."""
    yield from (f"# where there is no user {plan.setup.user}: {shlex.join(command)}" for command in plan.make_user)
    for folder in plan.folders:
        yield f"# folder {folder.path}, mode {folder.mode:04o}, of {folder.owner}"
    for file in plan.files:
        keep = "; kept if it is there" if file.keep else ""
        yield f"# file {file.path}, mode {file.mode:04o}, of {file.owner}{keep}"
        yield SECRETS.sub(r"\1=…", file.text) if file.mode == 0o600 else file.text
    yield from (shlex.join(command) for command in (*plan.enable, *plan.start))


def install(
    plan: Plan,
    say: Say,
    run: Run | None = None,
    root: Path = Path("/"),
    *,
    start: bool = True,
    restart: bool = False,
) -> None:
    """Make the user, the folders and the files, and start the service.

    Args:
        plan: the service.
        say: is called with a sentence on each step.
        run: runs a command, and raises ServiceError if it fails; None for this machine's own.
        root: the folder in which all paths of the plan are made.
        start: whether to start the service; False leaves it running or stopped as it is.
        restart: whether to end a worker that runs, so that it starts again.

    Raises:
        ServiceError: a step failed.
    """
    run = run or _run
    was_there = _under(root, plan.main_file).exists()
    if not _has_user(plan.setup.user):
        for command in plan.make_user:
            run(command)
        say(f"made the user {plan.setup.user}")
    for folder in plan.folders:
        path = _under(root, folder.path)
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(folder.mode)
        _hand_over(path, folder.owner)
        _give(path, folder.owner)
    changed = [_write(root, file, say) for file in plan.files]
    if is_older := start and was_there and not (restart or any(changed)) and _is_older(plan, root):
        say("the worker runs with older settings: it is restarted")
    replaced = start and was_there and (restart or any(changed) or is_older)
    if replaced:
        for command in plan.changed:
            _try(run, command)
    for command in plan.enable:
        run(command)
    for command in plan.start if start else ():
        timeout = STOP_TIMEOUT if replaced else plan.start_timeout
        patiently((ServiceError,), threading.Event(), timeout)(_start, run, command, plan.is_loaded, replaced)


def uninstall(plan: Plan, say: Say, run: Run | None = None, root: Path = Path("/")) -> None:
    """Stop the service and remove its files, except those of the operator, the worker's folders and its user.

    Args:
        plan: the service.
        say: is called with a sentence on each step.
        run: runs a command, and raises ServiceError if it fails; None for this machine's own.
        root: the folder in which all paths of the plan are made.

    Raises:
        ServiceError: the service still runs.
    """
    run = run or _run
    if not _under(root, plan.main_file).exists():
        say("no service is installed")
        return
    for command in plan.unload:
        _try(run, command)
    deadline = time.monotonic() + STOP_TIMEOUT
    while is_still_there := _succeeds(run, plan.is_loaded):  # launchd may answer before a worker has ended
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    for file in plan.files:
        path = _under(root, file.path)
        if not file.keep and path.exists():
            path.unlink()
            say(f"removed {file.path}")
    kept = [str(file.path) for file in plan.files if file.keep] + [str(folder.path) for folder in plan.folders]
    say(f"kept {', '.join(kept)} and the user {plan.setup.user}")
    if is_still_there:
        raise ServiceError(f"its files are removed, and it still runs: `{shlex.join(plan.is_loaded)}` shows it")


def await_worker(plan: Plan, say: Say, run: Run | None = None) -> int:
    """Wait until the service's worker runs; return its process id.

    Args:
        plan: the service.
        say: is called with the reason each time that the worker does not start and is tried again.
        run: runs a command, and raises ServiceError if it fails; None for this machine's own.

    Raises:
        ServiceError: the worker has ended and is not started again, or does not run within START_TIMEOUT seconds.
    """
    run = run or _run
    home = plan.setup.home
    deadline = time.monotonic() + START_TIMEOUT
    told = ""
    while not (pid := running_worker(home)):
        has_ended = bool(final_refusal(home)) or (bool(plan.has_failed) and _succeeds(run, plan.has_failed))
        why = last_refusal(home)
        if has_ended or time.monotonic() > deadline:
            what = "does not start" if has_ended else f"has not started within {START_TIMEOUT:g} s"
            raise ServiceError(
                f"the service is installed, and its worker {what}: {why or '`ltx-worker logs` shows why'}"
            )
        if why not in ("", told):
            told = why
            say(f"the worker has not started yet, and is tried again for {START_TIMEOUT:g} s: {why}")
        time.sleep(0.2)
    return pid


def unreachable_part(*paths: Path, user: str = "") -> Path | None:
    """Return the first folder on the way to one of these paths that a user cannot enter, or None.

    A user who does not exist yet has only the rights that everybody has.
    """
    try:
        entry = pwd.getpwnam(user)
        uid, groups = entry.pw_uid, set(os.getgrouplist(user, entry.pw_gid))
    except KeyError:
        uid, groups = -1, set()
    folders = (folder for path in paths for folder in reversed(path.parents))
    return next((folder for folder in folders if not _may_enter(folder.stat(), uid, groups)), None)


def _may_enter(status: os.stat_result, uid: int, groups: set[int]) -> bool:
    if uid in (0, status.st_uid):
        return uid == 0 or bool(status.st_mode & 0o100)
    return bool(status.st_mode & (0o010 if status.st_gid in groups else 0o001))


def _start(run: Run, command: Command, is_loaded: Command, replaced: bool) -> None:
    """Run a command; ignore its failure if the service is loaded already, unless that is the one to be replaced."""
    try:
        run(command)
    except ServiceError as error:
        if replaced and error.code != IN_PROGRESS:
            raise
        try:
            run(is_loaded)
        except ServiceError:
            raise error from None


def _is_older(plan: Plan, root: Path) -> bool:
    """Return whether a worker runs that was started before one of its service's files was written.

    That is so if an installation was interrupted in between.
    """
    try:
        pid = running_worker(_under(root, plan.setup.home))
        started = psutil.Process(pid).create_time() if pid else math.inf
        return any(_under(root, file.path).stat().st_mtime > started for file in plan.files)
    except (OSError, psutil.Error):
        return False


def _write(root: Path, file: File, say: Say) -> bool:
    """Write a file of the service; return whether it was changed."""
    path = _under(root, file.path)
    if path.exists() and file.keep:  # the operator's, perhaps written before the user existed who must read it
        path.chmod(file.mode)
        _give(path, file.owner)
        say(f"{file.path} exists already, and was not changed")
        return False
    if path.exists() and path.read_bytes() == file.text.encode():
        say(f"{file.path} is up to date")
        return False
    if not path.parent.exists():
        path.parent.mkdir(parents=True)
        path.parent.chmod(0o755)  # whatever root's umask: the service reads there
    replace_file(path, file.text, file.mode, lambda new: _give(new, file.owner))
    say(f"wrote {file.path}")
    return True


def _under(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def _has_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _hand_over(folder: Path, owner: str) -> None:
    """Give the previous user's files in a service's folder to the new user.

    Files of other users keep their owner: a hard link in the folder may be of any file.
    """
    before = folder.stat().st_uid
    with contextlib.suppress(KeyError):  # `_give` reports a user who does not exist
        uid = pwd.getpwnam(owner).pw_uid
        if before in (0, uid):
            return
        for _, folders, files, handle in os.fwalk(folder):
            for name in (*folders, *files):
                with contextlib.suppress(FileNotFoundError):
                    if os.stat(name, dir_fd=handle, follow_symlinks=False).st_uid == before:
                        os.chown(name, uid, -1, dir_fd=handle, follow_symlinks=False)


def _give(path: Path, owner: str) -> None:
    try:
        shutil.chown(path, owner)
    except (LookupError, PermissionError) as error:
        raise ServiceError(f"cannot give {path} to the user {owner}: {error}") from error


def _run(command: Command) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, errors="replace", timeout=COMMAND_TIMEOUT)
    except subprocess.TimeoutExpired as error:
        why = f"has not ended within {COMMAND_TIMEOUT:g} s and was killed; restart this machine, and run this again"
        raise ServiceError(f"`{shlex.join(command)}` {why}") from error
    except FileNotFoundError as error:
        raise ServiceError(f"the program {command[0]} is missing on this machine") from error
    except subprocess.CalledProcessError as error:
        output = (error.stderr or error.stdout).strip()
        why = output or f"exit code {error.returncode}"
        raise ServiceError(f"`{shlex.join(command)}` failed: {why}", error.returncode) from error


def _try(run: Run, command: Command) -> None:
    """Run a command whose failure does not matter, such as one that stops a service which does not run."""
    _succeeds(run, command)


def _succeeds(run: Run, command: Command) -> bool:
    try:
        run(command)
    except ServiceError:
        return False
    return True
