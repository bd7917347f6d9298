"""One way to make a thread in the worker: none is made that nobody watches over, or that outlives its process."""

import ast
import threading

import pytest

from ltx_worker.threads.background import watched
from ltx_worker.threads.daemon import concurrently, daemon
from ltx_worker.threads.watched import Threads
from tests.unit.house.test_boundaries import MODULES, in_folder

MAKER = "ltx_worker.threads.daemon"
MAKES_THREADS = {"Thread", "Timer", "ThreadPoolExecutor", "start_new_thread", "ThreadPool"}


def called(path):
    """The last words of the names of all that a file calls, or derives a class from."""
    for node in ast.walk(ast.parse(path.read_text())):
        for name in [node.func] if isinstance(node, ast.Call) else node.bases if isinstance(node, ast.ClassDef) else []:
            if isinstance(name, ast.Name | ast.Attribute):
                yield name.id if isinstance(name, ast.Name) else name.attr


def test_one_module_makes_the_threads_of_the_worker():
    makers = {name for name in in_folder("ltx_worker") if MAKES_THREADS & set(called(MODULES[name]))}
    assert makers == {MAKER}


def test_a_thread_keeps_no_process_alive():
    thread = daemon(lambda: None, "one")
    assert (thread.name, thread.daemon) == ("one", True)


def test_a_watched_thread_is_a_loop_while_it_runs():
    threads, go_on, seen = Threads(), threading.Event(), []

    def run(loop):
        seen.append((loop.kind, loop.limit, loop.thread))
        go_on.wait(60)

    thread = watched(run, "events", name="events-1", limit=7, threads=threads)
    assert threads.loops == []
    thread.start()
    while not seen:
        thread.join(0.01)
    assert seen == [("events", 7, thread)]
    assert [loop.thread for loop in threads.loops] == [thread]
    go_on.set()
    thread.join(60)
    assert threads.loops == []


def test_what_is_done_concurrently_is_told_where_it_is_asked_for():
    assert concurrently("one", divmod, 7, 2).result(60) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        concurrently("one", divmod, 7, 0).result(60)
