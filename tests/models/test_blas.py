"""Test which BLAS a computing process is started with, and that a missing or broken one never stops it."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from ltx_client.commands.bench import model
from ltx_client.commands.models import convert
from ltx_client.shared.doctor import deep_checks
from ltx_models import blas
from ltx_worker.engine import process

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="of Linux")
LOADED = "import os; print(open('/proc/self/maps').read())"


@pytest.fixture(autouse=True)
def _no_other(monkeypatch, tmp_path):
    """Preload nothing, as on a machine without OpenBLAS."""
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    monkeypatch.setattr(blas, "DEBIAN", tmp_path / "libblas.so.3")
    blas._folder.cache_clear()
    yield
    blas._folder.cache_clear()


def wheel():
    found = next(blas._files(blas.WHEEL, "ngsolve_openblas/libopenblas*.so*"), None)
    if found is None:
        pytest.skip("no OpenBLAS in a wheel for this processor")
    return found


def loaded_with(variables):
    """Return the libraries of a process that was started with these variables, and the loader's messages about them."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED], env=os.environ | variables, capture_output=True, text=True, check=True
    )
    return done.stdout, done.stderr


def test_the_wheel_serves_where_the_system_has_none():
    """It uses the Fortran library of MLX's wheel, so it needs none of the system's."""
    library = wheel()
    preloaded = Path(blas.blas_environment()["LD_PRELOAD"])
    assert preloaded.resolve() == library.resolve()
    assert preloaded.parent.stat().st_mode & 0o777 == 0o700
    maps, said = loaded_with({"LD_PRELOAD": str(preloaded)})
    loaded = {Path(path).resolve() for path in re.findall(r"/\S*(?:openblas|gfortran|quadmath)\S*", maps)}
    assert loaded == {library.resolve(), *(path.resolve() for path in blas._files("mlx-cpu", "mlx_cpu.libs/lib[gq]*"))}
    assert said == ""


def test_links_that_were_taken_away_are_made_again():
    library = wheel()
    first = blas._linked(library)
    assert blas._linked(library) == first
    shutil.rmtree(first.parent)
    again = blas._linked(library)
    assert again != first
    assert again.resolve() == library.resolve()


def test_the_links_go_with_the_process(tmp_path):
    wheel()
    program = "from ltx_models import blas; blas.DEBIAN = blas.Path('/nowhere'); print(blas.blas_environment())"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert str(tmp_path) in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_debians_comes_first(monkeypatch, tmp_path):
    blas.DEBIAN.write_bytes(b"")
    monkeypatch.setattr(blas, "_works", lambda variables: True)
    assert blas.blas_environment() == {"LD_PRELOAD": str(blas.DEBIAN)}


def test_one_that_is_broken_gives_way_to_the_next():
    library = wheel()
    blas.DEBIAN.write_bytes(b"not a library")
    assert Path(blas.blas_environment()["LD_PRELOAD"]).resolve() == library.resolve()


@pytest.mark.parametrize("content", [b"", b"not a library", b"\x7fELF" + bytes(60)], ids=["empty", "text", "header"])
def test_a_broken_wheel_is_left_alone(monkeypatch, tmp_path, content):
    broken = tmp_path / "libopenblas.so.0"
    broken.write_bytes(content)
    monkeypatch.setattr(blas, "_files", lambda *_: iter([broken]))
    assert blas.blas_environment() == {}


def test_without_its_fortran_library_it_is_left_alone(monkeypatch):
    """Otherwise the system's is used."""
    library = wheel()
    files = blas._files
    monkeypatch.setattr(blas, "_files", lambda name, pattern: files(name, pattern) if name == blas.WHEEL else iter(()))
    variables = blas.blas_environment()
    assert variables == {} or Path(variables["LD_PRELOAD"]).resolve() == library.resolve()


def test_one_that_does_not_compute_here_is_left_alone(monkeypatch):
    """One that was built for another processor ends its caller by a signal."""
    wheel()
    monkeypatch.setattr(blas, "TRIAL", "import os; os.kill(os.getpid(), 4)")
    assert blas.blas_environment() == {}


def test_a_library_that_is_no_openblas_is_left_alone(monkeypatch):
    other = next(blas._files("mlx-cpu", "mlx_cpu.libs/libblas*"))
    monkeypatch.setattr(blas, "_files", lambda *_: iter([other]))
    assert blas.blas_environment() == {}


def test_without_the_wheel_there_is_nothing(monkeypatch):
    monkeypatch.setattr(blas, "WHEEL", "no-such-distribution")
    assert blas.blas_environment() == {}


def test_a_wheel_whose_files_are_gone(monkeypatch, tmp_path):
    monkeypatch.setattr(metadata, "distribution", lambda _: SimpleNamespace(locate_file=lambda name: tmp_path / name))
    assert blas.blas_environment() == {}


def test_no_room_for_links(monkeypatch, tmp_path):
    wheel()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    assert blas.blas_environment() == {}


@pytest.mark.parametrize("error", [OSError(11, "no more processes"), subprocess.TimeoutExpired("python", 20.0)])
def test_a_trial_that_cannot_be_made(monkeypatch, error):
    def run(*_, **__):
        raise error

    monkeypatch.setattr(blas.subprocess, "run", run)
    blas.DEBIAN.write_bytes(b"")
    assert blas.blas_environment() == {}


def test_what_the_operator_preloads_stays(monkeypatch):
    monkeypatch.setenv("LD_PRELOAD", "/opt/liballoc.so")
    assert blas._preloading(blas.DEBIAN) == {"LD_PRELOAD": f"{blas.DEBIAN}:/opt/liballoc.so"}
    monkeypatch.setenv("LD_PRELOAD", f"/opt/liballoc.so:{blas.DEBIAN}")
    assert blas._preloading(blas.DEBIAN) == {"LD_PRELOAD": f"{blas.DEBIAN}:/opt/liballoc.so"}


def test_its_threads_leave_room_for_others(monkeypatch):
    wheel()
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert blas.blas_environment()["OPENBLAS_NUM_THREADS"] == "4"
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert blas.blas_environment()["OPENBLAS_NUM_THREADS"] == "1"
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    assert blas.blas_environment()["OPENBLAS_NUM_THREADS"] == "3"


def test_not_on_a_mac(monkeypatch):
    blas.DEBIAN.write_bytes(b"")
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(blas, "_works", lambda variables: True)
    assert blas.blas_environment() == {}


def test_all_that_computes_is_started_with_it(monkeypatch, tmp_path):
    """That is a worker's engine, `ltx bench model`, `ltx models convert` and the deep checks of both doctors."""
    fast = {"LD_PRELOAD": "a-fast-blas"}
    started = []
    for module in (process, deep_checks, blas):  # commands import it from there when they run
        monkeypatch.setattr(module, "blas_environment", lambda: fast)

    def popen(command, *, env, **_):
        started.append((command[2], env["LD_PRELOAD"]))
        raise OSError(2, "enough is known")

    monkeypatch.setattr(subprocess, "Popen", popen)
    with pytest.raises(OSError, match="enough"):
        process._start(process.ENGINE, "pocket")
    for command, arguments in (
        (model.command, ["--runs", "1"]),
        (convert.command, ["pocket", str(tmp_path / "converted")]),
    ):
        with pytest.raises(OSError, match="enough"):
            command.main(arguments, standalone_mode=False)
    for check in ("computing", "peaks"):
        with pytest.raises(OSError, match="enough"):
            list(getattr(deep_checks.DeepChecks("pocket", tmp_path / "report.json"), check)())
    modules = ["ltx_worker.engine", "ltx_models.benchmark", "ltx_models.convert"]
    modules += ["ltx_models.self_test", "ltx_models.benchmark"]
    assert started == [(module, "a-fast-blas") for module in modules]
