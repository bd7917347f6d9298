"""Test batch files as people write them: each is read right, or refused with the line and what would be right."""

import json

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from ltx_client.cli import main
from ltx_client.errors import UsageError
from ltx_client.terminal.batch_files.decoding import decode
from ltx_client.terminal.batch_files.jobs import BadLines, prepare_batch
from tests.unit.client.terminal.test_batch_files import defaults

OPTIONS = defaults()
BALL = "a red ball rolls"
TWO = [("a red ball rolls", 7), ("a blue ball rolls", 8)]
BLUE = "a blue ball rolls"


def read(data, name, form=None):
    """Return prompts and seeds, and the remarks."""
    data = data.encode() if isinstance(data, str) else data
    remarks = []
    batch = prepare_batch(data, name, "night", form=form, seeds=[1], options=OPTIONS, remark=remarks.append)
    return [(job.request.prompt, job.request.seed) for job, _ in batch.jobs], remarks


def refusal(data, name, form=None):
    """Return the sentences, with their lines."""
    with pytest.raises(UsageError) as raised:
        read(data, name, form)
    if isinstance(raised.value, BadLines):
        return "\n".join(f"line {line}: {problem}" for line, problem in raised.value.problems)
    return str(raised.value)


ROWS = "prompt,seed\na red ball rolls,7\na blue ball rolls,8\n"
SEMI, TABS, BARS = (ROWS.replace(",", mark) for mark in ";\t|")
OBJECTS = [{"prompt": BALL, "seed": 7}, {"prompt": BLUE, "seed": 8}]
LINES = "\n".join(map(json.dumps, OBJECTS))

READ = {
    "commas": (ROWS, "a.csv"),
    "semicolons": (SEMI, "a.csv"),
    "tabs": (TABS, "a.tsv"),
    "tabs called CSV": (TABS, "a.csv"),
    "commas called TSV": (ROWS, "a.tsv"),
    "bars": (BARS, "a.csv"),
    "sep=;": ("sep=;\r\n" + SEMI, "a.csv"),
    "SEP= and a tab": ("SEP=\t\n" + TABS, "a.csv"),
    '"sep=,"': ('"sep=,"\n' + ROWS, "a.csv"),
    "any separator": ("sep=~\n" + ROWS.replace(",", "~"), "a.csv"),
    "called .txt": (ROWS, "a.txt"),
    "semicolons called .txt": (SEMI, "a.TXT"),
    "without a suffix": (TABS, "shots"),
    "from standard input": (TABS, "standard input"),
    "Excel's CSV UTF-8": ("\ufeff" + ROWS.replace("\n", "\r\n"), "a.csv"),
    "Excel's Unicode Text": (TABS.replace("\n", "\r\n").encode("utf-16"), "a.txt"),
    "UTF-16, the other order": (b"\xfe\xff" + ROWS.encode("utf-16-be"), "a.csv"),
    "UTF-32": (ROWS.encode("utf-32"), "a.csv"),
    "two marks": ("\ufeff\ufeff" + ROWS, "a.csv"),
    "CR": (ROWS.replace("\n", "\r"), "a.csv"),
    "CR, prompts": (f"{BALL}\r{BLUE}".replace("\n", "\r"), "a.txt", [(BALL, 1), (BLUE, 1)]),
    "no last line end": (ROWS.rstrip(), "a.csv"),
    "empty lines, rows of commas": ("\n,,\n" + ROWS.replace("\na b", "\n,\n\n,,,\na b"), "a.csv"),
    "an empty last column": ("prompt,seed,\na red ball rolls,7,\na blue ball rolls,8,\n", "a.csv"),
    "more empty cells than columns": (ROWS.replace("7", "7,,,"), "a.csv"),
    "an empty first column": (";prompt;seed\n;a red ball rolls;7\n;a blue ball rolls;8\n", "a.csv"),
    "headers as people write them": (ROWS.replace("prompt,seed", " Prompt , SEED"), "a.csv"),
    "spaces and quotes": ('prompt, seed\n"a red ball rolls", "7"\na blue ball rolls , 8 \n', "a.csv"),
    "whole numbers with a point": (ROWS.replace("7", "7.0").replace("8", "8."), "a.csv"),
    "comments above": ("# ours\n" + ROWS, "a.csv"),
    "comments above, called .txt": ("# ours\n" + ROWS, "a.txt"),
    "a text and a line of names": (f"{BALL}\n{BLUE}\n", "a.txt", [(BALL, 1), (BLUE, 1)]),
    "JSON lines": (LINES, "a.jsonl"),
    "JSON lines called .json": (LINES, "a.json"),
    "JSON lines called .txt": (LINES, "a.txt"),
    "JSON lines called .csv": (LINES, "a.csv"),
    "JSON lines, CR LF and empty lines": (LINES.replace("\n", "\r\n\r\n"), "a.ndjson"),
    "JSON lines, UTF-16": (LINES.encode("utf-16"), "a.jsonl"),
    "an array": (json.dumps(OBJECTS, indent=2), "a.json"),
    "an array in a line": (json.dumps(OBJECTS), "a.txt"),
    "an array called JSON lines": (json.dumps(OBJECTS), "a.jsonl"),
    "an array with a mark": ("\ufeff" + json.dumps(OBJECTS), "a.json"),
    "objects after each other": ("\n".join(json.dumps(one, indent=2) for one in OBJECTS), "a.json"),
    "one object": (json.dumps(OBJECTS[0], indent=1), "a.json", TWO[:1]),
    "an array of prompts": (json.dumps([BALL, BLUE]), "a.json", [(BALL, 1), (BLUE, 1)]),
    "the interface's names": (json.dumps([{"prompt": BALL, "num_steps": 4, "seed": 7}]), "a.json", TWO[:1]),
    "names in camel case": (json.dumps({"prompt": BALL, "negativePrompt": "x", "Seed": 7}), "a.json", TWO[:1]),
    "a whole number with a point": ('{"prompt": "a red ball rolls", "seed": 7.0}', "a.json", TWO[:1]),
    "every digit of a seed": (
        "prompt,seed\na red ball rolls,9007199254740993.0\n",
        "a.csv",
        [(BALL, 9007199254740993)],
    ),
    "a list of sentences": (
        "a cat, a dog, a tree\nseed; a plant grows\n",
        "a.txt",
        [("a cat, a dog, a tree", 1), ("seed; a plant grows", 1)],
    ),
    "brackets that are no JSON": (
        "[wide] a red ball\n{a|b} ball\n",
        "a.txt",
        [("[wide] a red ball", 1), ("{a|b} ball", 1)],
    ),
    "comments in a list": (f"# one\n  # two\n{BALL}\n", "a.txt", [(BALL, 1)]),
    "names, said to be prompts": ("prompt,seed\n", "a.txt", [("prompt,seed", 1)], "text"),
    "a rule, said to be a prompt": ("---", "a.txt", [("---", 1)], "text"),
    "a list with the names of options": (
        "seed, a plant\n2 cats, 3 dogs\nimage, video",
        "a.txt",
        [("seed, a plant", 1), ("2 cats, 3 dogs", 1), ("image, video", 1)],
    ),
    "JSON, said to be prompts": ('{"prompt": 1}', "a.txt", [('{"prompt": 1}', 1)], "text"),
    "prompt alone, said to be a table": ("prompt\na red ball rolls\n", "a.txt", [(BALL, 1)], "csv"),
    "a quoted cell of lines": (
        'prompt,seed\n"a ""red"" ball,\nrolls; on",7\n',
        "a.csv",
        [('a "red" ball,\nrolls; on', 7)],
    ),
}


@pytest.mark.parametrize("kind", READ)
def test_it_is_read(kind):
    data, name, *rest = READ[kind]
    expected, form = rest[0] if rest else TWO, rest[1] if len(rest) > 1 else None
    assert read(data, name, form) == (expected, [])


@pytest.mark.parametrize("end", ["\u2028", "\u2029"])
@pytest.mark.parametrize(("text", "name"), [("a red{}ball", "a.txt"), ('{{"prompt": "a red{}ball"}}', "a.jsonl")])
def test_what_pythons_splitlines_takes_for_a_line_is_part_of_the_prompt(end, text, name):
    assert read(text.format(end), name) == ([(f"a red{end}ball", 1)], [])
    assert read(f"prompt\na red{end}ball\nb\n", "a.csv") == ([(f"a red{end}ball", 1), ("b", 1)], [])


@pytest.mark.parametrize("end", ["\v", "\f", "\x1c", "\x1d", "\x1e", "\x85"])
def test_a_control_in_a_prompt_is_refused_with_its_line_not_cut_there(end):
    words = f"line 2: the prompt holds U+{ord(end):04X}, which is not text; remove it"
    assert refusal(f"x\na red{end}ball", "a.txt") == words
    assert refusal(f"prompt\na red{end}ball", "a.csv") == words
    assert refusal(f'{{"prompt": "x"}}\n{{"prompt": "a red\\u{ord(end):04x}ball"}}', "a.jsonl") == words


REFUSED = {
    "Excel's seed": (
        "prompt,seed\nx,2.57742E+09",
        "a.csv",
        'line 2: seed "2.57742E+09" is not a whole number: its exponent',
    ),
    "a seed of JSON": (
        '{"prompt": "x", "seed": 2.57742E+09}',
        "a.json",
        "line 1: seed 2.57742E+09 is not a whole number: its",
    ),
    "even a short one": ("prompt,steps\nx,1E+1", "a.csv", 'line 2: steps "1E+1" is not a whole number: its exponent'),
    "a decimal comma": ('prompt,fps\nx,"12,5"', "a.csv", "write 12.5 or 125"),
    "thousands": ("prompt;fps\nx;1,000", "a.csv", "its comma may stand for thousands; write 1.000 or 1000"),
    "an underscore": ("prompt,steps\nx,1_0", "a.csv", 'line 2: steps "1_0" is not a whole number'),
    "half a step": ("prompt,steps\nx,1.5", "a.csv", "is not a whole number"),
    "infinity": ("prompt,fps\nx,inf", "a.csv", 'line 2: fps "inf" is not a number'),
    "a word": ("prompt,crop\nx,WAHR", "a.csv", 'line 2: crop "WAHR" is neither true nor false'),
    "NaN": ('[{"prompt": "x"},\n{"prompt": "x", "fps": NaN}]', "a.json", "line 2: NaN is not a number"),
    "1e400": ('{"prompt": "x", "fps": 1e400}', "a.json", "line 1: fps 1e400 is not a number"),
    "a misspelt column": ("prompt,sed\nx,7", "a.csv", 'line 1: "sed" is unknown; is seed meant?'),
    "a misspelt prompt": ("promt,seed\nx,7", "a.csv", 'line 1: "promt" is unknown; is prompt meant?'),
    "another program's column": ("prompt,cfg\nx,7", "a.csv", 'line 1: "cfg" is unknown; is guidance meant?'),
    "a column that is no option": ("prompt,sampler\nx,y", "a.csv", "or a name that begins with _ for a note"),
    "no column is named": (
        "a red ball rolls\nx",
        "a.csv",
        "line 1: no column is called prompt; the first line must name",
    ),
    "another column": ("seed\n7", "a.csv", "line 1: no column is called prompt"),
    "a title above": ("My shots,,\nprompt,seed\nx,7", "a.csv", "line 1: no column is called prompt"),
    "a title above, .txt": (
        "My shots\nprompt,seed\nx,7",
        "a.txt",
        "line 2: this names a table's columns; remove what is",
    ),
    "two of a name": (
        "prompt,steps,num_steps\nx,1,2",
        "a.csv",
        'two columns are called steps: "steps" and "num_steps"',
    ),
    "two of a name, JSON": (
        '{"prompt": "x", "Prompt": "y"}',
        "a.json",
        'prompt is given twice, as "prompt" and "Prompt"',
    ),
    "the same name, JSON": ('{"prompt": "x", "prompt": "y"}', "a.json", 'line 1: "prompt" is given twice'),
    "a cell too many": (
        "prompt,seed\na red ball, rolls,7",
        "a.csv",
        "line 2: it has 3 cells, and 2 columns are named; put",
    ),
    "a cell too many, a tab": ("prompt\tseed\na\tb\t7", "a.tsv", "put a cell that contains a tab in quotes"),
    "a column without a name": (
        "prompt,seed,\nx,7,y",
        "a.csv",
        'line 2: "y" is in column 3, which the first line does not',
    ),
    "names again": ("prompt,_n\nx,7\nprompt,_n", "a.csv", "line 3: this names the columns again; remove it"),
    "the beginning of a name": ("prompt,negativ\nx,y", "a.csv", "is negative_prompt meant?"),
    "an open quote": (
        'prompt,seed\nx,7\n"y,8\nz,9',
        "a.csv",
        'line 3: this is not CSV: a cell that begins with " does not',
    ),
    "a quote inside": (
        'prompt,seed\n"a "red" ball",8',
        "a.csv",
        'line 2: this is not CSV: after a closing " there is more',
    ),
    "sep of two": ("sep=;;\nprompt;seed\nx;7", "a.csv", "line 1: sep=;; is invalid: it does not name a separator"),
    "a spreadsheet's error": ("prompt\n#NAME?", "a.csv", 'line 2: the prompt "#NAME?" is the text of a cell'),
    "pandas' nothing": ("prompt,seed\nnan,1", "a.csv", 'line 2: the prompt "nan" is the text of a cell'),
    "no prompt": ("prompt,seed\n,1", "a.csv", "line 2: it has no prompt"),
    "Markdown": (
        "| prompt | seed |\n|---|---|\n| x | 7 |",
        "a.md",
        "line 1: this is a Markdown table, which is not read",
    ),
    "the word prompt": (
        "prompt\na red ball",
        "a.txt",
        "line 1: this may be a prompt, or name the columns of a table; say",
    ),
    "prompt and notes": ("prompt,notes\na red ball,x", "a.txt", "--format text or --format csv"),
    "options without prompt": ("seed,steps\n7,8", "a.txt", "--format text or --format csv"),
    "a misspelt prompt, .txt": ("promt,seed\nx,7", "a.txt", "--format text or --format csv"),
    "another word for it, .txt": ("Text;Notes;Seed\nx;y;7", "a.txt", "--format text or --format csv"),
    "a list alone": ('{"seeds": [1]}', "a.json", "line 1: it has no prompt"),
    "safetensors": (
        b"\x10\0\0\0\0\0\0\0{}",
        "a.safetensors",
        "line 1, column 2: there is a NUL byte, so this is not text",
    ),
    "JSON below a comment": ('# ours\n{"prompt": "x"}', "a.txt", "line 2: this is JSON in a list of prompts"),
    "a trailing comma": ('[\n{"prompt": "x"},\n]', "a.json", "in JSON, there is no comma before a closing bracket"),
    "and in an object": ('{"prompt": "x",\n}', "a.json", "in JSON, there is no comma before a closing bracket"),
    "a comment": (
        '[\n// ours\n{"prompt": "x"}]',
        "a.json",
        "line 2: this is not JSON: Expecting value (column 1); in JSON, there",
    ),
    "single quotes": ("{'prompt': 'x'}", "a.txt", "text is in double quotes"),
    "curly quotes": ("{“prompt”: “x”}", "a.txt", "quotation marks are straight"),
    "no comma": (
        '[{"prompt": "x"}\n {"prompt": "y"}]',
        "a.json",
        "line 2: this is not JSON: Expecting ',' delimiter (column 2)",
    ),
    "an open array": ('[{"prompt": "x"}', "a.json", "line 1: this is not JSON: Expecting ',' delimiter (column 17)"),
    "more after it": ('[{"prompt": "x"}] y', "a.json", "line 1: this is not JSON: Extra data (column 19)"),
    "one line of many": (LINES + "\n{", "a.json", "line 3: this is not JSON"),
    "commas between lines": (
        '{"prompt": "x"},\n{"prompt": "y"}',
        "a.jsonl",
        "there is no comma between lines, only in an array",
    ),
    "a list in a list": ('{"prompts": ["x", "y"]}', "a.json", 'line 1: "prompts" contains a list; use that list alone'),
    "a wrapped list": (
        '{"shots": [{"prompt": "x"}]}',
        "a.json",
        'line 1: "shots" contains a list; use that list alone',
    ),
    "an array of numbers": ("[{}, 1]", "a.json", "line 1: use an object, such as"),
    "a third of an array": ('[{"prompt": "x"},\n\n{"prompt": 3}]', "a.json", "line 3: prompt 3 is not a text"),
    "text called .json": (BALL, "a.json", "line 1: this is not JSON: Expecting value (column 1)"),
    "YAML": ("- prompt: x\n", "a.yaml", "a.yaml is called YAML, which is not read; use a CSV table, JSON, or a text"),
    "nothing": ("\n#x\n", "a.txt", "it has only empty lines and comments"),
    "an empty array": ("[]", "a.json", "asks for no videos"),
    "only names": ("prompt,seed\n", "a.csv", "asks for no videos"),
    "Excel": (
        b"PK\x03\x04..xl/workbook.xml",
        "a.xlsx",
        "a.xlsx is an Excel workbook, which is not read; export it as CSV",
    ),
    "OpenDocument": (
        b"PK\x03\x04..opendocument.spreadsheet",
        "a.ods",
        "an OpenDocument spreadsheet, which is not read; export",
    ),
    "Numbers": (
        b"PK\x03\x04..Index/Document.iwa",
        "a.numbers",
        "a Numbers or Pages document, which is not read; export it as",
    ),
    "Word": (b"PK\x03\x04..word/document.xml", "a.docx", "a Word document, which is not read; save it as plain text"),
    "Excel called CSV": (b"PK\x03\x04..xl/workbook.xml", "a.csv", "a.csv is an Excel workbook"),
    "old Excel": (
        b"\xd0\xcf\x11\xe0\xa1\xb1",
        "a.xls",
        "an old Excel or Word document, which is not read; export it as CSV",
    ),
    "PDF": (b"%PDF-1.7\n", "a.pdf", "a.pdf is a PDF, which is not read; save it as plain text"),
    "rich text": (b"{\\rtf1\\ansi", "a.txt", "a.txt is rich text, which is not read; save it as plain text"),
    "a web page": (
        b"\xef\xbb\xbf<!DOCTYPE html><table>",
        "a.xls",
        "a web page or XML, which is not read; export it as CSV",
    ),
    "thousands with a point": (
        "prompt;seed\nx;1.000",
        "a.csv",
        'line 2: seed "1.000" is not a whole number: its point may stand for thousands; write 1 or 1000',
    ),
    "a formula": ('prompt;seed\n="a ball";7', "a.csv", "is a formula; write its value"),
    "a line of a Markdown table": (
        "prompt | notes\n--- | ---\nx | y",
        "a.csv",
        "line 2: --- is not a prompt but a line",
    ),
    "front matter": (
        "---\ntitle: x\n---\nx",
        "a.md",
        "line 1: --- is not a prompt but a line that separates others; remove it\nline 3: ",
    ),
    "a table without prompts": ("description,seed\na ball,7", "a.txt", "a.txt, line 1: this may be a prompt, or name"),
    "gzip": (b"\x1f\x8b\x08", "a.csv.gz", "is compressed by gzip, which is not read; unpack it first"),
    "a picture": (b"\x89PNG\r\n\x1a\n", "a.png", "a.png is a picture, which is not read"),
    "a clip": (b"\0\0\0\x18ftypmp42", "a.mp4", "a.mp4 is a clip, which is not read"),
    "a HEIF picture": (b"\0\0\0\x18ftyphevx", "a.heic", "a.heic is a picture, which is not read"),
    "an MP4 whose frames come first": (b"\x7f\0\0\0mdat", "a.mp4", "a.mp4 is a clip, which is not read"),
    "Windows-1252": (
        b"x\r\na \xe4 ball",
        "a.txt",
        "a.txt, line 2, column 3: the byte 0xE4 is not UTF-8 text; save it as UTF-8",
    ),
    "half a UTF-16 character": (b"\xff\xfex\0\0", "a.txt", "is not UTF-16 text; save it as UTF-8"),
    "UTF-16 without a mark": (
        "prompt\nx".encode("utf-16-le"),
        "a.csv",
        "looks like UTF-16 without a byte order mark; save",
    ),
    "NUL": (b"x\ny\0z", "a.txt", "a.txt, line 2, column 2: there is a NUL byte, so this is not text"),
    "NUL, UTF-16": ("x\ny\0z".encode("utf-16"), "a.txt", "line 2, column 2: there is a NUL character; remove it"),
}


@pytest.mark.parametrize("prompt", ["The wide road", "Set free", "Now skip it", "PK fire", "BZ", "7z", "Rar!"])
def test_a_prompt_that_begins_nearly_as_a_clip_or_an_archive_is_read(prompt):
    assert decode(prompt.encode(), "a.txt") == prompt


@pytest.mark.parametrize("kind", REFUSED)
def test_it_is_refused_with_what_would_be_right(kind):
    data, name, words = REFUSED[kind]
    assert words in refusal(data, name)


def test_a_decimal_comma_is_read_where_columns_are_divided_by_something_else():
    batch = prepare_batch(b"prompt;fps;steps\nx;12,5;4,0", "a.csv", "n", form=None, seeds=[1], options=OPTIONS)
    assert (batch.jobs[0][0].request.frame_rate, batch.jobs[0][0].request.num_steps) == (12.5, 4)


REMARKS = {
    "notes": (
        "prompt,seed,Notes,_cfg,#\nx,7,y,z,1",
        "a.csv",
        "ignored as notes, since they are not names of options: Notes, _cfg, #",
    ),
    "pandas' row numbers": (
        ",prompt\n0,x",
        "a.csv",
        "ignored as notes, since they are not names of options: the first column, wh",
    ),
    "and as it calls them": (
        "Unnamed: 0,prompt\n0,x",
        "a.csv",
        "ignored as notes, since they are not names of options: Unnamed: 0",
    ),
    "notes of JSON": (
        '{"prompt": "x", "seed": 7, "id": 3}',
        "a.json",
        "ignored as notes, since they are not names of options: id",
    ),
    "a list's marks": (
        "- x\n- y",
        "a.txt",
        "line 1 and 1 more: list marks, quotation marks and tabs are read as part of the",
    ),
    "numbers": ("1. x", "a.md", "line 1: list marks"),
    "a phone's marks": ("• x\n● x\n— x\n> x\n01: x", "a.txt", "line 1 and 4 more: list marks"),
    "a phone's quotation marks": ("“x”\n„x“\n«x»\n‘x’\n'x',", "a.txt", "line 1 and 4 more: list marks"),
    "a label": ("Prompt: x", "a.txt", "line 1: list marks"),
    "quotation marks": ('x\n"y"', "a.txt", "line 2: list marks"),
    "a tab": ("x\t7", "a.txt", "line 1: list marks"),
    "a comment in a table": ("prompt\nx\n# y", "a.csv", "line 3: list marks"),
    "a seed of 15 digits": (
        "prompt,seed\nx,1234567890123450000",
        "a.csv",
        "line 2: a spreadsheet keeps 15 digits; check the seed 12",
    ),
}


@pytest.mark.parametrize("kind", REMARKS)
def test_what_may_not_be_meant_is_said(kind):
    data, name, words = REMARKS[kind]
    _, said = read(data, name)
    assert [sentence.startswith(words) for sentence in said] == [True], said


def run(tmp_path, monkeypatch, *arguments, **options):
    monkeypatch.setenv("LTX_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LTX_BROKER_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, arguments, **options)
    assert not (tmp_path / "home").exists()
    return done


def test_a_dry_run_on_this_machine_counts_the_videos_of_each_kind(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("prompt;seeds;steps;notes\nx;1-5;4;\ny;;;late\nz;;4;\n")
    done = run(tmp_path, monkeypatch, "batch", "a.csv", "--dry-run")
    assert done.exit_code == 0
    assert [line.split()[-1] for line in done.stdout.splitlines() if line.startswith("videos")] == ["7", "6", "1"]
    assert done.stderr == "warning: a.csv: ignored as notes, since they are not names of options: notes\n"


def test_standard_input_and_a_file_that_never_ends(tmp_path, monkeypatch):
    piped = run(tmp_path, monkeypatch, "batch", "-", "--dry-run", input=TABS)
    assert (piped.exit_code, piped.stdout.split()[:2]) == (0, ["videos", "2"])
    endless = run(tmp_path, monkeypatch, "batch", "/dev/zero", "--dry-run")
    assert (endless.exit_code, endless.stdout) == (2, "")
    assert endless.stderr == "Error: /dev/zero has more than 32 MB, which a batch's file may have; divide it\n"


@pytest.mark.parametrize("command", ["render", "submit"])
def test_a_file_that_is_given_for_a_prompt_is_refused_with_the_command_that_reads_it(tmp_path, monkeypatch, command):
    (tmp_path / "shots.csv").write_text(ROWS)
    done = run(tmp_path, monkeypatch, command, "shots.csv", "--dry-run")
    assert done.exit_code == 2
    assert "shots.csv is a file, not a prompt; `ltx batch shots.csv` renders what is in it" in done.stderr
    assert run(tmp_path, monkeypatch, command, "others.csv", "--dry-run").exit_code == 0


def test_of_a_file_that_is_all_wrong_a_thousand_lines_are_told():
    with pytest.raises(BadLines, match=r"1,000 lines are wrong, of the first 1,000 in a\.csv; nothing was queued"):
        read("prompt,seed\n" + "x,y\n" * 2000, "a.csv")


PIECES = st.sampled_from(
    [
        *"\n\r\t,;|\"'#[]{}:=-. \0\v\f\u2028\x85\ufeff",
        "sep=",
        "prompt",
        "seed",
        "7",
        "1e9",
        "null",
        "NaN",
        "\\u0000",
        "é",
        "- ",
    ]
)


@pytest.mark.lane("unit")
@settings(max_examples=300, deadline=None)
@given(
    st.lists(PIECES, max_size=25).map("".join),
    st.sampled_from(["utf-8", "utf-8", "utf-16", "latin-1"]),
    st.sampled_from(["a.csv", "a.tsv", "a.json", "a.jsonl", "a.txt", "a", "a.xlsx", "a.yaml"]),
)
def test_whatever_people_bring_is_read_or_refused_in_one_line_each(text, encoding, name):
    try:
        data = ("prompt,seed\n" * text.startswith(",") + text).encode(encoding, "replace")
        asked, remarks = read(data, name)
    except BadLines as error:
        assert all(number > 0 and "\n" not in problem for number, problem in error.problems)  # noqa: PT017
    except UsageError as error:
        assert name in str(error)  # noqa: PT017
    else:
        assert asked
        assert all(prompt.strip() and "\0" not in prompt for prompt, _ in asked)
        assert all("\n" not in remark for remark in remarks)
