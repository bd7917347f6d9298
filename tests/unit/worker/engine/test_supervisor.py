"""Test an engine that does not start, or does not load its model: the fault is the machine's, whatever the job."""

import contextlib
import errno
import os
import subprocess
import sys
import textwrap
import threading
import time

import psutil
import pytest

from ltx_models.errors import FaultKind, MachineFault
from ltx_models.request import GenerationRequest
from ltx_worker.engine import exit_reasons, messages, process
from ltx_worker.engine.packing import frames
from ltx_worker.engine.supervisor import Engine, EngineDied

LOADS = """
    import sys, time
    from multiprocessing.connection import Connection
    from ltx_worker.engine import messages as m
    commands, replies = Connection(int(sys.argv[2]), writable=False), Connection(int(sys.argv[3]), readable=False)
    ready = m.Ready(device="none", checkpoint_hash="0", mlx="none", embeds_by="0")
    faulty = m.Faulty(error="the checkpoint is damaged", kind="model", confirmed=True)
    while True:
        command = m.receive_command(commands)
        {answer}
"""
SAYS = "import os, sys, time; os.write(int(sys.argv[3]), {data!r}); {then}"
ENGINES = {
    "no such module": None,
    "ends at once": "raise SystemExit(3)",
    "an import that fails": "import nothing_of_that_name",
    "killed while it loads": "import os; os.kill(os.getpid(), 9)",
    "says what is no message": "import os, sys, time; os.write(int(sys.argv[3]), b'\\0\\0\\0\\4what'); time.sleep(60)",
    "says a frame of too many bytes": SAYS.format(data=b"LTX\1\2\0\0\0\1\0\0\0" + b"\xff" * 8, then="time.sleep(60)"),
    "says a part of a frame": SAYS.format(data=b"LTX\1\2\0\0\0\0\0", then="sys.exit(0)"),
    "says a part of a frame and closes the pipe": SAYS.format(
        data=b"LTX\1\2\0\0\0\0\0", then="os.close(int(sys.argv[3])); time.sleep(60)"
    ),
    "says a frame that is no message": SAYS.format(data=b"LTX\1\2\0\0\0\0\0\0\0{}", then="time.sleep(60)"),
    "a damaged model": textwrap.dedent(LOADS.format(answer="m.send(replies, faulty)")),
}


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """Make an engine whose process runs this program."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    made = []

    def make(program):
        if program is not None:
            (tmp_path / "stand_in_engine.py").write_text(program)
        made.append(Engine("pocket", module="stand_in_engine", stall_limit=30))
        return made[-1]

    yield make
    for each in made:
        each.close()


def open_files():
    return psutil.Process().num_fds()


def render(engine, tmp_path):
    """Return the messages of a render."""
    request = GenerationRequest(prompt="a ball", seed=1)
    command = messages.Render(request=request, checkpoint_every=0, output=tmp_path / "video.mp4")
    return list(engine.render(lambda _: command, lambda: False))


@pytest.mark.parametrize("how", ENGINES)
def test_what_does_not_load_is_a_fault_of_the_machine(engine, tmp_path, how):
    engine = engine(ENGINES[how])
    with contextlib.suppress(MachineFault):
        engine.warm_up()
    try:
        fault = render(engine, tmp_path)[-1].fault
    except MachineFault as error:
        fault = error
    assert fault.confirmed
    assert fault.kind is (FaultKind.MODEL if "model" in how else FaultKind.SOFTWARE), fault
    assert engine.why_it_cannot_load(lambda: False).confirmed


def test_an_engine_that_is_mended_loads(engine, tmp_path):
    engine = engine(ENGINES["ends at once"])
    assert engine.why_it_cannot_load(lambda: False) is not None
    healthy = LOADS.format(answer='m.send(replies, ready if command.type == "load" else m.Decoded(frames=1))')
    (tmp_path / "stand_in_engine.py").write_text(textwrap.dedent(healthy))
    assert engine.why_it_cannot_load(lambda: False) is None
    assert engine.ready is not None
    assert isinstance(render(engine, tmp_path)[-1], messages.Decoded)


def test_a_death_with_a_render_is_not_taken_for_a_load_that_failed(engine, tmp_path):
    dies = LOADS.format(answer='m.send(replies, ready) if command.type == "load" else sys.exit(1)')
    with pytest.raises(EngineDied) as error:
        render(engine(textwrap.dedent(dies)), tmp_path)
    assert error.value.fault is None


LARGE = messages.Render(
    request=GenerationRequest(prompt="a ball", seed=1),
    checkpoint_every=0,
    output="video.mp4",
    resume=bytes(10**7),
)


def test_an_engine_that_reads_no_command_is_ended(engine, monkeypatch):
    monkeypatch.setattr(process, "STUCK_AFTER", 0.5)
    monkeypatch.setattr(exit_reasons, "_killed_for_memory", lambda _: True)  # as a Mac takes any other SIGKILL
    reads_nothing = LOADS.format(answer="m.send(replies, ready); time.sleep(600)")
    with pytest.raises(EngineDied, match="SIGKILL, sent by its worker since it read no command") as error:
        list(engine(textwrap.dedent(reads_nothing)).render(lambda _: LARGE, lambda: False))
    assert error.value.fault is None


def test_an_engine_that_is_ended_by_force_has_not_run_out_of_memory(engine, monkeypatch, tmp_path):
    monkeypatch.setattr(exit_reasons, "_killed_for_memory", lambda _: True)
    monkeypatch.setattr(process, "END_TIMEOUT", 0.1)
    hangs = LOADS.format(answer="m.send(replies, ready); time.sleep(600)")
    engine = engine(textwrap.dedent(hangs))
    assert engine.why_it_cannot_load(lambda: False) is None
    video = engine._process.expect_video(tmp_path / "video.mp4")
    engine.close()
    with pytest.raises(EngineDied, match="sent by its worker since it was to end, and did not") as error:
        video.result(60)
    assert error.value.fault is None


def test_a_render_that_is_too_large_for_the_pipe_is_refused_and_the_engine_goes_on(engine, monkeypatch, tmp_path):
    monkeypatch.setattr(frames, "LARGEST", 10**6)
    healthy = LOADS.format(answer='m.send(replies, ready if command.type == "load" else m.Decoded(frames=1))')
    engine = engine(textwrap.dedent(healthy))
    for _ in range(2):  # one that loads the model first, and one that does not
        *_, last = engine.render(lambda _: LARGE, lambda: False)
        assert isinstance(last, messages.Refused)
        assert "its blobs have 10,000,000 bytes" in last.error
    own = engine._process
    assert not own.is_busy
    assert isinstance(render(engine, tmp_path)[-1], messages.Decoded)
    assert engine._process is own


def test_an_engine_that_reads_no_command_can_be_ended_meanwhile(engine):
    reads_nothing = LOADS.format(answer="m.send(replies, ready); time.sleep(600)")
    engine = engine(textwrap.dedent(reads_nothing))
    assert engine.why_it_cannot_load(lambda: False) is None
    own, found = engine._process, []

    def tell():
        with pytest.raises(EngineDied):
            own.tell(LARGE)
        found.append(own.is_running)

    thread = threading.Thread(target=tell)
    thread.start()
    while not own._telling.locked():
        time.sleep(0.01)
    engine.close()
    thread.join(60)
    assert found == [False]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("EAGAIN", FaultKind.SOFTWARE),
        ("ENOMEM", FaultKind.MEMORY),
        ("ENOENT", FaultKind.SOFTWARE),
        ("ENOEXEC", FaultKind.SOFTWARE),
        ("EACCES", FaultKind.ACCESS),
        ("EMFILE", FaultKind.FILES),
        ("ENFILE", FaultKind.FILES),
    ],
)
@pytest.mark.parametrize("place", ["pipe", "Popen"])
def test_a_process_that_cannot_be_started(monkeypatch, tmp_path, name, kind, place):
    number = getattr(errno, name)
    before = open_files()

    def fail(*_args, **_options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(*((process.os, "pipe") if place == "pipe" else (subprocess, "Popen")), fail)
    engine = Engine("pocket")
    with pytest.raises(MachineFault) as error:
        render(engine, tmp_path)
    assert (error.value.kind, error.value.confirmed) == (kind, True)
    assert os.strerror(number) in str(error.value)
    assert engine.why_it_cannot_load(lambda: False).kind is kind
    assert open_files() == before


def test_there_is_no_python(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(MachineFault, match="cannot be started"):
        Engine("pocket").warm_up()
