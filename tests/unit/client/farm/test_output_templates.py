"""Test names made from a job's data: whatever a prompt contains, one name in the given folder."""

import os
import sys
import unicodedata
from pathlib import Path

import pytest

from ltx_client.errors import UsageError
from ltx_client.farm.jobs.prepare import prepare
from ltx_client.farm.outputs.templates import Template, fields_of
from ltx_models.request import GenerationRequest
from tests.stored_farm import SMALL, VIDEO, StoredFarm

HOSTILE = {
    "../../etc/passwd": "_.._etc_passwd.mp4",
    "/etc/passwd": "_etc_passwd.mp4",
    "..": "_.mp4",
    ". . .": "_.mp4",
    ".ssh": "ssh.mp4",
    "-rf *": "rf _.mp4",
    "~root": "root.mp4",
    'a\\b:c|d<e>f"g?h*i': "a_b_c_d_e_f_g_h_i.mp4",
    "two\nlines\r\tand\0more\x1b[2J": "two lines and more [2J.mp4",
    "\u202egpj.exe": "gpj.exe.mp4",
    "\ud800half": "half.mp4",
    "CON": "CON_.mp4",
    "nul": "nul_.mp4",
    "COM1": "COM1_.mp4",
    "a red ball. ": "a red ball.mp4",
    "{seed}": "{seed}.mp4",
    "%s $HOME `id`": "%s $HOME `id`.mp4",
    "e\u0301te\u0301": "\u00e9t\u00e9.mp4",
    "\U0001f469\u200d\U0001f467 \u26bd": "\U0001f469\u200d\U0001f467 \u26bd.mp4",
    "\u4e2d\u6587": "\u4e2d\u6587.mp4",
    "x" * 4000: "x" * 251 + ".mp4",
    "\u4e2d" * 4000: "\u4e2d" * 83 + ".mp4",
    "\U0001f600" * 1000: "\U0001f600" * 62 + ".mp4",
    "a" * 250 + " b": "a" * 250 + ".mp4",
}


JOB = prepare(GenerationRequest(prompt="a red ball", seed=7, width=64, height=96, num_frames=9, num_steps=2)).job


def name_of(template, prompt="a red ball"):
    return Template.parse(template).path({**fields_of(JOB, 0.0, 3), "prompt": prompt})


@pytest.mark.parametrize("prompt", HOSTILE, ids=lambda prompt: ascii(prompt[:20]))
def test_a_prompt_is_part_of_one_name(prompt, tmp_path):
    path = name_of(f"{tmp_path}/{{prompt}}.mp4", prompt)
    assert path.parent == tmp_path
    assert path.name == HOSTILE[prompt]
    path.write_bytes(b"")
    assert list(tmp_path.iterdir()) == [path]


FILLED = {
    "{prompt:.5}-{seed}.mp4": "a red-7.mp4",
    "{seed:05}.mp4": "00007.mp4",
    "{seed:5d}.mp4": "    7.mp4",
    "{index:03}.m4v": "003.m4v",
    "{variant}-{width}x{height}-{frames}-{fps}-{steps}.mp4": "pocket-64x96-9-12-2.mp4",
    "{{{index}}}.mp4": "{3}.mp4",
    "a/{{b}}/{index}/c{{d.mp4": "a/{b}/3/c{d.mp4",
    "/{index}.mp4": "/3.mp4",
    "../{index}.mp4": "../3.mp4",
    "{prompt}{prompt}.mp4": "a red balla red ball.mp4",
    "{fps:03}-{fps:.1f}.mp4": "012-12.0.mp4",
}


@pytest.mark.parametrize("template", FILLED)
def test_fields_are_filled_in(template):
    assert name_of(template) == Path(FILLED[template])


@pytest.mark.parametrize("field", ["{variant:010}", "{prompt:020}", "{id:016}"])
def test_a_text_is_not_made_longer_by_zeros(field):
    with pytest.raises(UsageError, match="which is invalid for"):
        name_of(f"{field}.mp4")


@pytest.mark.parametrize(("charset", "name"), [("ascii", "a _ b_ll.mp4"), ("latin-1", "a _ b\xe4ll.mp4")])
def test_a_name_is_one_that_the_locale_has(monkeypatch, charset, name):
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: charset)
    assert name_of("{prompt}.mp4", "a \U0001f388 b\xe4ll").name == name


def test_a_date_is_a_date_whatever_the_broker_says(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    for at, said in ((1.8e9, "2027-01-15_08-00-00"), (float("nan"), "1970-"), (-1e300, "1970-"), (1e300, "5138-")):
        fields = fields_of(JOB, at)
        assert str(Template.parse("{date}_{time}.mp4").path(fields)).startswith(said)


def test_only_the_prompt_gives_way():
    path = name_of("{prompt}-" + "y" * 200 + "-{seed:020d}.mp4", "x" * 300)
    assert path.name == "x" * 29 + "-" + "y" * 200 + "-" + "0" * 19 + "7.mp4"
    both = name_of("{prompt}+{prompt}.mp4", "\u4e2d" * 300)
    assert both.name == "\u4e2d" * 41 + "+" + "\u4e2d" * 41 + ".mp4"
    assert len(os.fsencode(name_of("{prompt}" + "y" * 300 + ".mp4").name)) == 304, "which is refused as too long"


@pytest.fixture
def farm(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return StoredFarm(tmp_path / "storage").installed(monkeypatch)


def batch(farm, prompts, *words):
    Path("list.txt").write_text("".join(f"{prompt}\n" for prompt in prompts), encoding="utf-8")
    return farm.ltx("batch", "list.txt", *SMALL, *words)


def written(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def test_videos_of_a_batch_get_names_of_a_template(farm):
    done = batch(farm, ["a red ball", "a blue disc"], "--seeds", "1-2", "-o", "shots/{index:02}/{prompt:.5}-{seed}.mp4")
    assert done.exit_code == 0, done.output
    names = ["01/a red-1.mp4", "02/a red-2.mp4", "03/a blu-1.mp4", "04/a blu-2.mp4"]
    assert written("shots") == [*names, "index.json"]
    assert all(Path("shots", name).read_bytes() == VIDEO for name in names)
    assert all(f'"file": "{name}"' in Path("shots/index.json").read_text() for name in names)
    batch_id = done.stdout.splitlines()[-1]
    again = farm.ltx("download", "--batch", batch_id, "-o", "again/{id}.mp4")
    assert again.exit_code == 0, again.output
    assert written("again") == sorted(["index.json", *(f"{job[-12:]}.mp4" for job in farm.sent)])


def test_a_second_batch_goes_into_a_folder_of_the_first_ones(farm):
    Path("more.txt").write_text("a green square\n")
    done = batch(farm, ["a red ball"], "--then", "more.txt", "-o", "shots/{prompt}.mp4")
    assert done.exit_code == 0, done.output
    second = done.stdout.splitlines()[-1][-12:]
    names = ["a red ball.mp4", "index.json", f"{second}/a green square.mp4", f"{second}/index.json"]
    assert written("shots") == sorted(names)


SAME = {
    "equal": (["a ball", "a ball"], "{prompt}.mp4", "videos 1 and 2 would both be a ball.mp4"),
    "cut": (["a ball", "a disc"], "o/{prompt:.2}.mp4", "videos 1 and 2 would both be o/a.mp4"),
    "case": (["a ball", "x", "A Ball"], "{prompt}.mp4", "videos 1 and 3 would both be A Ball.mp4"),
    "accents": (["\u00e9", unicodedata.normalize("NFD", "\u00c9")], "{prompt}.mp4", "videos 1 and 2"),
    "made safe": (["a/b", "a:b"], "{prompt}.mp4", "videos 1 and 2 would both be a_b.mp4"),
    "dots": (["a", "b"], "o/{index}/../x.mp4", "videos 1 and 2 would both be o/2/../x.mp4"),
    "no field of the job": (["a", "b"], "{variant}.mp4", "add {index}, {seed} or {id}"),
    "a file where a folder is": (["a", "b"], "list.txt/{index}.mp4", "list.txt is not a folder"),
    "an invalid folder": (["a"], "list.txt", "list.txt is not a folder"),
    "below a file": (["a"], "list.txt/x", "Not a directory"),
    "standard output": (["a"], "-", "standard output takes one"),
    "too long": (["a"], "x" * 256, "File name too long"),
    "a template too long": (["a"], "{index}" + "x" * 255 + ".mp4", "File name too long"),
    "a GIF": (["a"], "{index}.gif", "end it with .mp4"),
}


@pytest.mark.parametrize("case", SAME)
def test_a_batch_whose_videos_cannot_be_written_is_refused_before_it_is_queued(farm, case):
    prompts, output, sentence = SAME[case]
    done = batch(farm, prompts, "-o", output)
    (line,) = done.stderr.splitlines()
    assert (done.exit_code, done.stdout) == (2, "")
    assert sentence in line
    assert farm.sent == []
    assert [path.name for path in Path().iterdir()] in (["list.txt", "storage"], ["storage", "list.txt"])


def test_what_is_in_a_batch_folder_already_is_followed_and_not_replaced(farm, tmp_path):
    Path("shots").mkdir()
    Path("index").write_text("[]")
    Path("shots/index.json").symlink_to(tmp_path / "index")
    assert batch(farm, ["a red ball"], "-o", "shots").exit_code == 0
    assert '"prompt": "a red ball"' in Path("index").read_text()
    assert Path("shots/index.json").is_symlink()
    Path("shots/index.json").unlink()
    Path("shots/index.json").mkdir()
    done = batch(farm, ["a red ball"], "-o", "shots")
    assert done.exit_code == 2
    assert "cannot write shots/index.json: Is a directory" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("text", ['{"name": "somebody\'s"}', '[{"job": "another"}]', "[1]", "no JSON", "\udcff"])
def test_an_index_that_is_not_the_batch_s_stays(farm, text):
    theirs = text.encode("utf-8", "surrogateescape")
    Path("index.json").write_bytes(theirs)
    done = batch(farm, ["a red ball"], "-o", "{index}.mp4")
    assert done.exit_code == 0, done.output
    assert Path("index.json").read_bytes() == theirs
    short = done.stdout.splitlines()[-1][-12:]
    assert '"prompt": "a red ball"' in Path(f"index-{short}.json").read_text()
    assert (
        f"index.json belongs to something else, and is kept; the videos are described in index-{short}.json"
        in done.stderr
    )


def test_the_index_of_a_batch_is_written_anew(farm):
    first = batch(farm, ["a red ball", "a disc"], "-o", "shots")
    before = Path("shots/index.json").read_text()
    Path("shots/index.json").write_text(before.replace('"done"', '"queued"'))
    again = farm.ltx("download", "--batch", first.stdout.splitlines()[-1], "-o", "shots")
    assert again.exit_code == 0, again.output
    assert Path("shots/index.json").read_text() == before
    assert len(written("shots")) == 3


def test_a_batch_of_a_hostile_id_gets_a_folder_here(farm, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = set(tmp_path.iterdir())
    farm.client.zadd(farm.names.batches(), {"x-/../../evil1234": 1.0})
    done = farm.ltx("download", "--batch", "evil1234")
    assert done.exit_code == 0, done.output
    assert written(".") == ["ltx-_.._.._evil1234/index.json"]
    assert set(tmp_path.iterdir()) == before


def test_ctrl_c_in_a_batch_says_its_id_and_how_it_is_fetched(farm, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("ltx_client.terminal.watching.following.follow", interrupted)
    done = batch(farm, ["a red ball"], "-o", "shots", "--id", "one-3fa85f64a1b2")
    assert (done.exit_code, done.stdout) == (130, "one-3fa85f64a1b2\n")
    assert "ltx download --batch 3fa85f64a1b2 -o FOLDER downloads the videos" in done.stderr.splitlines()[-1]


def test_a_batch_after_one_that_failed_is_fetched_too(farm, monkeypatch):
    Path("more.txt").write_text("a green square\n")
    finish = farm.finish
    monkeypatch.setattr(farm, "finish", lambda job_id: finish(job_id) if farm.sent else farm.sent.append(job_id))
    monkeypatch.setattr("ltx_client.terminal.watching.following.follow", lambda *_: None)
    done = batch(farm, ["a red ball"], "--then", "more.txt", "-o", "shots/{prompt}.mp4", "--id", "one-3fa85f64a1b2")
    assert done.exit_code == 1, done.output
    assert "1 of 1 videos of batch one-3fa85f64a1b2 are not done" in done.stderr
    assert [Path(name).name for name in written("shots") if name.endswith(".mp4")] == ["a green square.mp4"]
    assert done.stdout.splitlines()[-2] == "one-3fa85f64a1b2"
