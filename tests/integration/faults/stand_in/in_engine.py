"""Inside the engine: let a render do what its job's marks say at each phase."""

from marks import FOLDER, at

from ltx_models import events, video
from ltx_models.pipeline.text_to_video import LTXPipeline
from ltx_worker.engine import messages

_job = None


def _receive(pipe, receive=messages.receive_command):
    global _job
    command = receive(pipe)
    if isinstance(command, messages.Render):
        _job = command.output.parent.name[:36]
    return command


def _load(self, *args, load=LTXPipeline.load_models, **options):
    if _job:
        at(_job, "loading")
    load(self, *args, **options)


def _stream(self, request, *, resume=None, stream=LTXPipeline.stream, **options):
    job = _job
    at(job, "loading")
    at(job, "text")
    step = resume.step if resume else 0
    for event in stream(self, request, resume=resume, **options):
        yield event
        if isinstance(event, events.Stepped):
            step = event.step
        if isinstance(event, events.TextEncoded | events.Stepped):
            if step == _held_step(job):
                at(job, "denoising")
        elif isinstance(event, events.StageBegan) and event.stage == "decode":
            at(job, "decoding")


def _write(frames, path, frame_rate, write=video.write_mp4):
    def held():
        yield from frames
        at(path.parent.name[:36], "writing")

    write(held(), path, frame_rate)


def _held_step(job):
    try:
        return int((FOLDER / f"{job}.step").read_text())
    except FileNotFoundError:
        return None


messages.receive_command = _receive
LTXPipeline.load_models = _load
LTXPipeline.stream = _stream
video.write_mp4 = _write
