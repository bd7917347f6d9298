"""Test that an event is its class: a new one costs at most four files, from the pipeline to what people read."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
PACKAGES = ("ltx_client", "ltx_models", "ltx_worker")
EDITS = {
    "ltx_models/events.py": (
        "@dataclass(frozen=True, eq=False)\nclass StageBegan(Report):",
        "@dataclass(frozen=True, eq=False)\nclass Sang(Report):\n    verses: int\n\n\n{}",
    ),
    "ltx_models/pipeline/text_to_video.py": (
        "        yield StageBegan(DECODE.name)\n",
        "        from ltx_models.events import Sang\n        yield Sang(3)\n{}",
    ),
    "ltx_client/protocol/events.py": (
        "class StageBegan(Reported):",
        'class Sang(Reported):\n    type: Literal["sang"] = "sang"\n    verses: Count\n\n'
        '    @property\n    def words(self):\n        return (f"sang {{self.verses}} verses",)\n\n\n{}',
    ),
    "ltx_client/protocol/state.py": (
        "        case events.StageBegan():\n",
        '        case events.Sang():\n            return {{"message": "singing"}}\n{}',
    ),
}
"""What each file has, and what stands in its place, {} included, once there is the event."""
SING = """
from multiprocessing import Pipe
from ltx_client.protocol.events import parse_event
from ltx_client.protocol.state import Snapshot, apply
from ltx_models.events import Sang
from ltx_worker.engine import messages

engine, worker = Pipe()
messages.send(engine, messages.report(Sang(3)))
event = messages.event_of(messages.receive_message(worker))
read = parse_event(event.model_dump_json())
assert read == event
print(*read.words, apply(Snapshot(), read).message)
"""


def test_a_new_event_costs_four_files(tmp_path):
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if path.suffix in (".py", ".lua"):
                copy = tmp_path / path.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, copy)
    for name, (place, edited) in EDITS.items():
        text = (tmp_path / name).read_text()
        assert text.count(place) == 1, name
        (tmp_path / name).write_text(text.replace(place, edited.format(place)))
    events = tmp_path / "ltx_client/protocol/events.py"
    events.write_text(events.read_text().replace("    | StageBegan\n", "    | StageBegan\n    | Sang\n"))
    run = subprocess.run([sys.executable, "-c", SING], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (run.stdout, run.stderr) == ("sang 3 verses singing\n", "")
    assert len(EDITS) <= 4


def test_the_engine_sends_every_report_of_a_pipeline_and_the_worker_translates_none():
    host = (ROOT / "ltx_worker/engine/host.py").read_text()
    assert "case events.Report():" in host
    assert "_translate" not in (ROOT / "ltx_worker/attempt/attempt.py").read_text()


def test_nobody_asks_whether_a_step_is_the_last_one():
    """What follows from that, as the hand-over of the GPU, has an event of its own; the training renders none."""
    compared = re.compile(r"\bsteps?\b\s*(==|~=|!=)\s*[\w.]*\bsteps?\b")
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix in (".py", ".lua") and "train" not in path.parts
        for line in path.read_text().splitlines()
        if compared.search(line)
    ]
    assert found == []
