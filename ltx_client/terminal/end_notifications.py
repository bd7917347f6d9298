"""Notify somebody when the jobs that a command waited for have ended."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from ltx_client.farm.jobs.views import JobView
from ltx_client.terminal.notify import check_url, secret, send_webhook, show_on_desktop, summary
from ltx_client.terminal.output import notice

__all__ = ["EndNotifications"]

LONG = 30.0
"""Seconds after which somebody in front of a terminal has probably looked away."""


class EndNotifications:
    """Notifications at the end of jobs, prepared before the command waits for them."""

    def __init__(self, notify: str | None, desktop: bool | None) -> None:
        """Check the webhook's URL. Raise UsageError if it is invalid."""
        self._notify = check_url(notify) if notify else None
        if self._notify:
            secret()
        self._desktop = desktop
        self._began = time.monotonic()

    def tell(self, views: Sequence[JobView]) -> None:
        """Send the notifications. A failure is reported, and changes nothing else."""
        if self._notify is not None and (problem := send_webhook(self._notify, views)):
            notice(f"warning: {problem}")
        long = time.monotonic() - self._began > LONG
        if self._desktop or (self._desktop is None and long and sys.stderr.isatty()):
            show_on_desktop(summary(views))
