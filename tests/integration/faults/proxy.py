"""A TCP proxy between a worker and the broker that can stop passing anything, or cut every connection."""

import contextlib
import socket
import threading

CHUNK = 1 << 16


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
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def swallow(self):
        """Accepts and reads as before, but passes nothing on: what is sent is held until `release`."""
        self._passing.clear()

    def release(self):
        self._passing.set()

    def cut(self):
        """Closes every connection; new ones are welcome."""
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
        halves = [threading.Thread(target=self._pump, args=pair, daemon=True) for pair in ((near, far), (far, near))]
        for half in halves:
            half.start()
        for half in halves:
            half.join()
        with self._changing:
            self._sockets -= {near, far}
        near.close()
        far.close()

    def _pump(self, source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                self._passing.wait()
                sink.sendall(data)
        for half in (source, sink):
            with contextlib.suppress(OSError):
                half.shutdown(socket.SHUT_RDWR)
