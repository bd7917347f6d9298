"""Provide workers and clients of an older version, from git's history, and of a version of tomorrow, a stand-in."""

import io
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.conftest import PATIENCE

REPOSITORY = Path(__file__).parents[3]
OLD = "fc48d80c4950baff72003f9770667c5c6a2d37a2"
"""The commit before features of jobs had levels."""
PACKAGES = ("ltx_client", "ltx_worker", "ltx_models")
TOMORROW = Path(__file__).parent / "tomorrow"
GO_THERE = "import os, sys; os.chdir(sys.argv[1]); os.execv(sys.argv[2], sys.argv[2:])"


@dataclass(frozen=True)
class Version:
    """The code of one version.

    Attributes:
        name: What the tests call it.
        folder: Where the packages are.
        paths: What is on PYTHONPATH besides.
    """

    name: str
    folder: Path
    paths: tuple[Path, ...] = ()

    def env(self, env):
        """Return an environment in which Python imports this version's packages."""
        return {**env, "PYTHONPATH": os.pathsep.join(map(str, (*self.paths, self.folder)))}

    def start_worker(self, farm, name, **settings):
        """Start a worker that renders nothing, and return when it is up."""
        settings = {"reap_every": 0.5, "lease": 5, "renew_every": 1, **settings}
        before, farm.env = farm.env, self.env(farm.env)
        prefix = (sys.executable, "-c", GO_THERE, str(self.folder))
        try:
            return farm.start_worker(name, "--no-op", prefix=prefix, **settings)
        finally:
            farm.env = before

    def ltx(self, farm, *arguments):
        """Run a command of this version's client to its end."""
        return self.run(farm, "-m", "ltx_client", *map(str, arguments))

    def run(self, farm, *arguments):
        """Run Python to its end."""
        return subprocess.run(
            [sys.executable, *arguments],
            env=self.env(farm.env),
            cwd=self.folder,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=2 * PATIENCE,
            check=False,
        )


@pytest.fixture(scope="session")
def old(tmp_path_factory):
    """Return the version of the commit `OLD`; skip where git, or so much of its history, is not there."""
    if shutil.which("git") is None:
        pytest.skip(f"git is not installed, which has {OLD}, whose workers are tested")
    archive = subprocess.run(
        ["git", "-C", str(REPOSITORY), "archive", OLD, *PACKAGES], capture_output=True, check=False, timeout=PATIENCE
    )
    if archive.returncode:
        pytest.skip(f"git's history here does not have {OLD}, whose workers are tested: {archive.stderr.decode()}")
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as packed:
        packed.extractall(folder, filter="data")
    return Version("old", folder)


@pytest.fixture(scope="session")
def new():
    """Return this version."""
    return Version("new", REPOSITORY)


@pytest.fixture(scope="session")
def tomorrow():
    """Return a version with a field that this one does not know."""
    return Version("tomorrow", REPOSITORY, (TOMORROW,))
