"""An engine that renders nothing, a step every few hundredths of a second, and sends resume points."""

import os
import time

from ltx_worker.engine import noop
from ltx_worker.engine.messages import (
    Decoded,
    HandOver,
    StageBegan,
    Stepped,
    Stop,
    Stopped,
    TextEncoded,
    Written,
    receive_command,
    send,
)

STEP = float(os.environ.get("SLOW_ENGINE_STEP", "0.05"))


def _render(command, replies):
    steps = command.request.num_steps or 1
    send(replies, StageBegan(stage="text"))
    send(replies, TextEncoded())
    send(replies, StageBegan(stage="denoise"))
    for step in range(1, steps + 1):
        time.sleep(STEP)
        if noop.commands.poll() and isinstance(receive_command(noop.commands), Stop):
            send(replies, Stopped())
            return
        send(replies, Stepped(step=step, steps=steps, seconds=STEP, resume=b"nothing"))
    send(replies, StageBegan(stage="decode"))
    send(replies, HandOver())
    send(replies, Decoded(frames=0))
    command.output.write_bytes(noop.NOTHING)
    digest = noop.hashlib.sha256(noop.NOTHING).hexdigest()
    send(replies, Written(output=command.output, size=len(noop.NOTHING), sha256=digest, seconds=0.0))


def _serve(commands, replies, serve=noop.serve):
    noop.commands = commands
    serve(commands, replies)


noop._render, noop.serve = _render, _serve

if __name__ == "__main__":
    noop.main()
