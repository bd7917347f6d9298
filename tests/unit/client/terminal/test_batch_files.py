"""Test what a batch's file may say, the errors of a wrong line, and that nothing is queued before all is right."""

import dataclasses
import json

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ltx_client.cli import main
from ltx_client.errors import UsageError
from ltx_client.terminal.arguments.options import describing_options
from ltx_client.terminal.batch_files import LineError, parse_seeds, read_batch
from ltx_client.terminal.batch_files.jobs import BadLines, prepare_batch
from ltx_client.terminal.contact_sheet import draw_sheet

BALL = "a red ball rolls to the right"


def defaults(*arguments):
    """Return the options' defaults."""
    import click

    parsed = {}

    @click.command()
    @describing_options
    def command(**options):
        parsed.update(options)

    CliRunner().invoke(command, arguments, catch_exceptions=False)
    return parsed


def prepare(text, name="b.jsonl", *, form=None, seeds=(), arguments=(), batch_id="night"):
    data = text if isinstance(text, bytes) else text.encode()
    return prepare_batch(data, name, batch_id, form=form, seeds=seeds, options=defaults(*arguments))


def problems(text, name="b.jsonl", **options):
    with pytest.raises(BadLines) as raised:
        prepare(text, name, **options)
    return dict(raised.value.problems)


def test_a_prompt_a_line():
    batch = prepare(f"# ours\n{BALL}\n\n  a green square falls  \n", "b.txt", seeds=[3, 4], arguments=["--steps", "5"])
    asked = [(its.item, job.request.prompt, job.request.seed, job.request.num_steps) for job, its in batch.jobs]
    assert asked == [
        (1, BALL, 3, 5),
        (2, BALL, 4, 5),
        (3, "a green square falls", 3, 5),
        (4, "a green square falls", 4, 5),
    ]
    assert len({job.id for job, _ in batch.jobs}) == 4
    assert {relations.batch for _, relations in batch.jobs} == {"night"}


def test_what_a_line_says_goes_over_the_options():
    lines = [
        {"prompt": BALL, "width": 64, "seed": 9, "frames": 9, "priority": 2},
        {"prompt": BALL, "seeds": "1-2", "guidance": 1.5, "negative_prompt": "blue"},
        {"prompt": BALL, "seeds": [7], "seconds": 1, "fps": 16},
    ]
    text = "\n".join(map(json.dumps, lines))
    batch = prepare(text, seeds=[5], arguments=["--width", "96", "--frames", "17"])
    one, two, three, four = (job for job, _ in batch.jobs)
    assert (one.request.width, one.request.seed, one.request.num_frames, one.priority) == (64, 9, 9, 2)
    assert (two.request.seed, three.request.seed, two.request.guidance_scale) == (1, 2, 1.5)
    assert (two.request.width, two.request.negative_prompt, two.request.num_frames) == (96, "blue", 17)
    assert (four.request.seed, four.request.num_frames) == (7, 17)


def test_csv_as_a_spreadsheet_writes_it():
    text = (
        f'\ufeffprompt,steps,fps,blur,seeds\r\n"{BALL}, on\r\na navy background",4,,no,1-2\r\n,,,,\r\na disc,,8.5,,\r\n'
    )
    batch = prepare(text, "b.csv", seeds=[5])
    asked = [(job.request.prompt[-10:], job.request.num_steps, job.request.seed) for job, _ in batch.jobs]
    assert asked == [("background", 4, 1), ("background", 4, 2), ("a disc", 8, 5)]
    assert batch.jobs[2][0].request.frame_rate == 8.5


def test_the_same_id_makes_the_same_jobs_and_another_id_others():
    first, again, other = (prepare(BALL, "b.txt", batch_id=batch_id) for batch_id in ("one", "one", "two"))
    assert first.jobs == again.jobs
    assert first.jobs[0][0].id != other.jobs[0][0].id
    assert first.jobs[0][0].request.seed != other.jobs[0][0].request.seed


def test_pictures_are_looked_for_where_the_file_is(tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    text = json.dumps({"prompt": BALL, "image": "a.png@last:0.5", "seeds": "1-3"})
    batch = prepare(text, str(tmp_path / "b.jsonl"))
    assert len(batch.inputs) == 1
    assert [job.request.conditioning[0].frame for job, _ in batch.jobs] == [24] * 3
    assert "cannot read" in problems(json.dumps({"prompt": BALL, "image": ["b.png"]}), str(tmp_path / "b.jsonl"))[1]


BAD_JSON = {
    "[1]": "use an object",
    "{": "this is not JSON: Expecting property name",
    '{"prompt": 3}': "prompt 3 is not a text",
    "{}": "it has no prompt",
    '{"prompt": " "}': "the prompt is empty",
    '{"prompt": "x", "stpes": 3}': '"stpes" is unknown; is steps meant?',
    '{"prompt": "x", "zzz": 3}': '"zzz" is unknown; use one of prompt, variant, width',
    '{"prompt": "x", "steps": 2.5}': "steps 2.5 is not a whole number",
    '{"prompt": "x", "steps": true}': "steps true is not a whole number",
    '{"prompt": "x", "steps": 1e400}': "steps 1e400 is not a whole number",
    '{"prompt": "x", "width": 100}': "96 or 128 would be",
    '{"prompt": "x", "variant": "huge"}': "huge",
    '{"prompt": "x", "seed": -1}': "seed",
    '{"prompt": "x", "seeds": []}': "names no seeds",
    '{"prompt": "x", "seeds": "8-1"}': "does not name 1 to",
    '{"prompt": "x", "seed": 1, "seeds": "1-2"}': "seed and seeds were both given",
    '{"prompt": "x", "priority": 11}': "priority 11 is invalid",
    '{"prompt": "x", "blur": "perhaps"}': "neither true nor false",
    '{"prompt": "x", "image": [1]}': "is not a file's name",
    '{"prompt": "x", "frames": 9, "seconds": 1}': "both given",
    '{"prompt": "x", "steps": ' + "9" * 5000 + "}": "a number is too long",
    "[" * 100_000: "nested too deeply",
}


def test_every_bad_line_is_reported_with_its_number():
    text = "\n".join([json.dumps({"prompt": BALL}), *BAD_JSON, json.dumps({"prompt": BALL})])
    found = problems(text)
    assert list(found) == list(range(2, 2 + len(BAD_JSON)))
    for (line, words), said in zip(BAD_JSON.items(), found.values(), strict=True):
        assert words in said, line[:60]
        assert "\n" not in said


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("prompt,stpes\nx,3\n", 1, "is steps meant?"),
        ("prompt,words\nx,y\n", 1, "is unknown"),
        ("steps\n3\n", 1, "no column is called prompt"),
        ("prompt\nx\nx,3\n", 3, "2 cells, and 1 column is named"),
        ('prompt\n"x\n', 2, "this is not CSV"),
        ("prompt,steps\nx,3\ny,many\n", 3, 'steps "many" is not a whole number'),
    ],
)
def test_a_bad_table(text, line, words):
    assert words in problems(text, "b.csv")[line]


def test_files_that_cannot_be_batches():
    for text, words in (
        (b"", "only empty lines"),
        (b"a\n\xff\n", "line 2, column 1: the byte 0xFF is not UTF-8"),
        (b"#\n\n", "only empty lines"),
    ):
        with pytest.raises(UsageError, match=words):
            prepare(text, "b.txt")
    with pytest.raises(UsageError, match="more than 10,000 videos, by line 11"):
        prepare("\n".join([BALL] * 20), "b.txt", seeds=range(1000))
    with pytest.raises(UsageError, match="the id 'a b' is invalid"):
        prepare(BALL, "b.txt", batch_id="a b")


@pytest.mark.parametrize(("text", "seeds"), [("3", [3]), ("1-3", [1, 2, 3]), ("5, 1-2,2", [5, 1, 2])])
def test_seeds(text, seeds):
    assert parse_seeds(text) == seeds


@given(st.one_of(st.text(), st.text("0123456789-, ٣")))
def test_no_seeds_hang_or_break(text):
    try:
        assert 1 <= len(parse_seeds(text)) <= 1000
    except ValueError as error:
        assert "seeds" in str(error)  # noqa: PT017


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(["prompt", "width", "height", "frames", "steps", "seed", "seeds", "fps", "image", "blur", "x"])
objects = st.dictionaries(names, values, max_size=5).map(json.dumps)


@pytest.mark.lane("unit")
@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.lists(objects, max_size=4).map(lambda lines: "\n".join(lines).encode())))
def test_whatever_a_file_holds_it_is_read_or_refused(data):
    for form in ("jsonl", "csv", "text"):
        try:
            lines = list(read_batch(data, "b", form))
        except UsageError:
            continue
        assert all(isinstance(line.values, LineError) or "prompt" in line.values for line in lines)
        try:
            prepare(data, form=form)
        except UsageError as error:
            assert "b" in str(error)  # noqa: PT017


def test_nothing_is_queued_when_a_line_of_a_later_file_is_wrong(tmp_path, monkeypatch):
    monkeypatch.setenv("LTX_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LTX_BROKER_URL", raising=False)
    (tmp_path / "a.txt").write_text(BALL)
    (tmp_path / "b.jsonl").write_text('{"prompt": "x"}\n{"prompt": ""}\n')
    refused = CliRunner().invoke(main, ["batch", str(tmp_path / "a.txt"), "--then", str(tmp_path / "b.jsonl")])
    assert refused.exit_code == 2
    assert "b.jsonl, line 2: the prompt is empty" in refused.stderr
    assert refused.stderr.endswith("1 line is wrong, of 2 in " + str(tmp_path / "b.jsonl") + "; nothing was queued\n")
    assert not (tmp_path / "home").exists()


def test_a_sheet_without_pillow_and_of_what_is_no_video(tmp_path, monkeypatch):
    from ltx_client.errors import FarmError

    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(FarmError, match="is not a video"):
        draw_sheet([(tmp_path / "a.mp4", "1\nx")], tmp_path / "s.png")
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(UsageError, match="needs Pillow"):
        draw_sheet([], tmp_path / "s.png")


def test_a_batchs_jobs_are_those_that_the_options_would_make():
    one = prepare(BALL, "b.txt", arguments=["--steps", "5"], seeds=[1]).jobs[0][0]
    from ltx_client.terminal.arguments.options import job_from_options

    same = job_from_options(prompt=BALL, seed=1, job_id=one.id, **defaults("--steps", "5")).job
    assert dataclasses.asdict(one.request) == dataclasses.asdict(same.request)
    assert one == same
