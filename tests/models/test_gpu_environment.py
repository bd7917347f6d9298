"""Test that what MLX and macOS read from the environment is set before MLX is imported, in engine and library."""

import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest

from ltx_models.gpu_environment import set_gpu_environment
from ltx_worker.engine import process

WANTED = {"MLX_CONV_WINOGRAD": "0", "AGX_RELAX_CDM_CTXSTORE_TIMEOUT": "1"}
AS_ON_A_MAC = """
    import importlib.abc, os, sys
    sys.platform = "darwin"
    class AtMLX(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name == "mlx":
                print({variable: os.environ.get(variable) for variable in variables}, flush=True)
                os._exit(0)
    sys.meta_path.insert(0, AtMLX())
    _, module, *variables = sys.argv
    importlib.import_module(module)
"""


@pytest.mark.parametrize("module", ["ltx_models.pipeline.text_to_video", "ltx_models.vae"])
def test_they_are_set_when_mlx_is_imported(module, monkeypatch):
    for name in WANTED:
        monkeypatch.delenv(name, raising=False)
    program = [sys.executable, "-c", textwrap.dedent(AS_ON_A_MAC), module, *WANTED]
    done = subprocess.run(program, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == str(WANTED)


def test_the_engine_is_started_with_them(monkeypatch):
    for name in WANTED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "darwin")
    started = []
    monkeypatch.setattr(process.subprocess, "Popen", lambda *_, env, **__: started.append(env) or SimpleNamespace())
    process._start("a_module", "pocket")
    assert WANTED.items() <= started[0].items()


def test_what_the_operator_has_set_stays():
    environment = {"MLX_CONV_WINOGRAD": "1"}
    set_gpu_environment(environment, "darwin")
    assert environment == WANTED | {"MLX_CONV_WINOGRAD": "1"}


def test_elsewhere_nothing_is_set():
    environment = {}
    set_gpu_environment(environment, "linux")
    assert not environment
