"""An engine that renders nothing: `python -m ltx_worker.engine.noop VARIANT COMMAND_FD MESSAGE_FD`.

`ltx bench farm` uses it to measure what the farm itself costs. It sends the messages that the engine would send, of
the stages of LTX-Video and of each requested step, and writes a few bytes in place of an MP4. It needs no MLX.
"""

from __future__ import annotations

import hashlib
import signal
import sys
from multiprocessing.connection import Connection

from ltx_models.families.stages import DECODE, DENOISE, TEXT
from ltx_worker.engine.messages import (
    Decoded,
    Encode,
    HandOver,
    Load,
    Ready,
    Render,
    StageBegan,
    Stepped,
    Stop,
    StopWriting,
    TextEncoded,
    Written,
    receive_command,
    send,
)

NOTHING = b"no video"
NOBODY = "0" * 64


def serve(commands: Connection, replies: Connection) -> None:
    """Answer commands until the worker is gone."""
    while True:
        try:
            command = receive_command(commands)
        except (EOFError, OSError):
            return
        match command:
            case Load():
                send(replies, Ready(device="none", checkpoint_hash=NOBODY, mlx="none", embeds_by=NOBODY))
            case Render():
                _render(command, replies)
            case Encode() | Stop() | StopWriting():  # every render ends at once anyway
                pass


def _render(command: Render, replies: Connection) -> None:
    steps = command.request.num_steps or 1
    send(replies, StageBegan(stage=TEXT.name))
    send(replies, TextEncoded())
    send(replies, StageBegan(stage=DENOISE.name))
    for step in range(1, steps + 1):
        send(replies, Stepped(step=step, steps=steps, seconds=0.0))
    send(replies, StageBegan(stage=DECODE.name))
    send(replies, HandOver())
    send(replies, Decoded(frames=0))
    command.output.write_bytes(NOTHING)
    digest = hashlib.sha256(NOTHING).hexdigest()
    send(replies, Written(output=command.output, size=len(NOTHING), sha256=digest, seconds=0.0))


def main() -> None:
    """Run the engine until the worker is gone; ignore SIGINT, as the real engine does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _, command_fd, message_fd = sys.argv[1:]
    serve(Connection(int(command_fd), writable=False), Connection(int(message_fd), readable=False))


if __name__ == "__main__":
    main()
