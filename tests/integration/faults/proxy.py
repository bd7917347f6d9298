"""A TCP proxy between a worker and the broker: it stops passing data, cuts connections, or answers with an error."""

import contextlib
import hashlib
import re
import socket
import threading
from collections import Counter

CHUNK = 1 << 16
MARK = b"answered-by-the-proxy"
ECHO = b"*2\r\n$4\r\nECHO\r\n$%d\r\n%b\r\n" % (len(MARK), MARK)
ECHOED = b"$%d\r\n%b\r\n" % (len(MARK), MARK)
NEVER = frozenset({"HELLO", "AUTH", "CLIENT", "SELECT"})
"""What opens a connection is let through, so that it can be opened."""


def sha_of(script):
    """Return the name by which the server calls a script."""
    return hashlib.sha1(script.encode()).hexdigest()


class _Commands:
    """Splits a client's bytes into commands, each as a list of its words and as its bytes."""

    HEAD = re.compile(rb"\*(\d+)\r\n")
    WORD = re.compile(rb"\$(\d+)\r\n")

    def __init__(self):
        self._data = b""

    def feed(self, data):
        self._data += data
        while (end := self._end()) is not None:
            words, at = end
            whole, self._data = self._data[:at], self._data[at:]
            yield words, whole

    def _end(self):
        head = self.HEAD.match(self._data)
        if head is None:
            return None
        words, at = [], head.end()
        for _ in range(int(head[1])):
            word = self.WORD.match(self._data, at)
            if word is None or len(self._data) < word.end() + int(word[1]) + 2:
                return None
            words.append(self._data[word.end() : word.end() + int(word[1])])
            at = word.end() + int(word[1]) + 2
        return words, at


class Proxy:
    """Listens on a loopback port of its own and forwards to `target`, a port there."""

    def __init__(self, target):
        self._target = target
        self._passing = threading.Event()
        self._passing.set()
        self._sockets = set()
        self.ports = set()
        """From which the target sees its connections come."""
        self._changing = threading.Lock()
        self._answer = None
        self._names = {}
        self.answered = Counter()
        """How often each command, or script by its name, was answered with an error."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def swallow(self):
        """Accept and read as before, but pass nothing on until `release`."""
        self._passing.clear()

    def release(self):
        self._passing.set()

    def answer(self, error, only=None, scripts=None, but=()):
        """Answer commands with this error instead of passing them on, until `pass_all`.

        only: names of commands and of scripts; if None, all commands except those of `but`. scripts: their texts by
        name.
        """
        self._names = {sha_of(text).encode(): name for name, text in (scripts or {}).items()}
        self._answer = (b"-" + error.encode() + b"\r\n", only, but)

    def pass_all(self):
        self._answer = None

    def cut(self):
        """Close every connection, and accept new ones."""
        with self._changing:
            for half in self._sockets:
                with contextlib.suppress(OSError):
                    half.shutdown(socket.SHUT_RDWR)

    def close(self):
        self._listener.close()
        self.release()
        self.cut()

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(near,), daemon=True).start()

    def _connect(self, near):
        self._passing.wait()
        try:
            far = socket.create_connection(("127.0.0.1", self._target), timeout=5)
        except OSError:
            near.close()
            return
        far.settimeout(None)
        self.ports.add(far.getsockname()[1])
        with self._changing:
            self._sockets |= {near, far}
        errors = []
        halves = [
            threading.Thread(target=self._pump, args=(near, far, self._replace(errors)), daemon=True),
            threading.Thread(target=self._pump, args=(far, near, self._put_back(errors)), daemon=True),
        ]
        for half in halves:
            half.start()
        for half in halves:
            half.join()
        with self._changing:
            self._sockets -= {near, far}
        near.close()
        far.close()

    def _replace(self, errors):
        """Replace each command that gets an error by an ECHO."""
        commands, is_plain = _Commands(), None

        def change(data):
            nonlocal is_plain
            if is_plain is None:
                is_plain = data.startswith(b"*")  # else it is TLS
            if not is_plain:
                return data
            return b"".join(self._one(words, whole, errors) for words, whole in commands.feed(data))

        return change

    def _one(self, words, whole, errors):
        answer = self._answer
        name = words[0].decode(errors="replace").upper()
        if answer is None or name in NEVER:
            return whole
        script = self._names.get(words[1]) if name == "EVALSHA" else None
        reply, only, but = answer
        if name in but or (only is not None and name not in only and script not in only):
            return whole
        self.answered[script or name] += 1
        errors.append(reply)
        return ECHO

    def _put_back(self, errors):
        """Replace the echoes, which may arrive in two parts, by the errors."""
        kept = b""

        def change(data):
            nonlocal kept
            data = kept + data
            while ECHOED in data:
                data = data.replace(ECHOED, errors.pop(0), 1)
            tail = next((n for n in range(len(ECHOED) - 1, 0, -1) if data.endswith(ECHOED[:n])), 0) if errors else 0
            data, kept = data[: len(data) - tail], data[len(data) - tail :]
            return data

        return change

    def _pump(self, source, sink, change):
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                self._passing.wait()
                if changed := change(data):
                    sink.sendall(changed)
        for half in (source, sink):
            with contextlib.suppress(OSError):
                half.shutdown(socket.SHUT_RDWR)
