"""The worker as a service of its machine: a LaunchDaemon on macOS, a systemd unit on Linux.

plan.py       what a service consists of       launchd.py, systemd.py   that of each platform
apply.py      carries a plan out, or undoes it environment.py           the file that holds its secrets
"""
