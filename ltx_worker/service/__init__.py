"""The worker as a service of its machine: a LaunchDaemon on macOS, a systemd unit on Linux.

plan.py       what a service consists of       launchd.py, systemd.py   the plan for each platform
apply.py      installs or removes a plan       environment.py           the file with its settings and secrets
"""
