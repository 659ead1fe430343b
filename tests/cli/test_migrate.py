from __future__ import annotations

import json
import re
import stat
from pathlib import Path

import pytest

from tests.support.launching import raycompress

OLD = """{
  "name": "old",
  "script": "mnist.py",
  "resource": "node",
  "compression": {
    "framework": "torch",
    "type": "pruning",
    "compressor": "l1_filter",
    "config_list": [{"sparsity": {"range": [0.1, 0.9], "type": "float"}, "op_types": ["Conv2d"]}]
  },
  "resource_args": {"save_model": true, "async_run": true},
  "proposer": "bohb",
  "n_parallel": 4,
  "n_samples": 5
}
"""
SLIPS = OLD.replace('"save_model": true', "'save_model': True").replace('"bohb",', '"bohb"')
FURTHER = """
not quite what it was:
  line 12   proposer "bohb": n_samples trials, on budgets that grow by eta up to
            max_iter; needs pip install 'raycompress[bohb]'
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "exp.json").write_text(OLD)
    return tmp_path


def test_it_says_what_became_of_the_keys_and_writes_nothing(folder: Path) -> None:
    done = raycompress(folder, "migrate", "exp.json")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("exp.json: runs as it is; --write brings it into today's form\n")
    changed = done.out.partition("--write changes, with the same meaning:\n")[2].partition("\n\n")[0]
    assert changed == (
        '  line 4    the resource "node" becomes "cpu": which machine runs a trial is for\n'
        "            Ray to say\n"
        '  line 11   "resource_args.async_run" goes: Ray does what it was for'
    )
    assert FURTHER in done.out
    assert '-> "n_samples": 143' in done.out
    assert "absent    random_seed" in done.out
    assert "as it was:  name, script, resource_args.save_model" not in done.out  # in the order of the file
    assert "as it was:  name, script, compression.framework" in done.out
    assert max(map(len, done.out.splitlines())) <= 80
    assert [file.name for file in folder.iterdir()] == ["exp.json"]


def test_write_keeps_what_it_was_beside_it(folder: Path) -> None:
    (folder / "exp.json").chmod(0o600)
    done = raycompress(folder, "migrate", "exp.json", "--write")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("exp.json: written in today's form; the old one is exp.json.orig\n")
    assert "\nchanged (lines of exp.json.orig):\n" in done.out
    assert (folder / "exp.json.orig").read_text() == OLD
    new = OLD.replace('"node"', '"cpu"').replace(', "async_run": true', "")
    assert (folder / "exp.json").read_text() == new
    assert sorted(file.name for file in folder.iterdir()) == ["exp.json", "exp.json.orig"]
    assert stat.S_IMODE((folder / "exp.json").stat().st_mode) == 0o600

    again = raycompress(folder, "migrate", "exp.json", "--write")
    assert again.out.startswith("exp.json: runs as it is, and is in today's form\n")
    assert (folder / "exp.json").read_text() == new


def test_an_orig_is_never_overwritten(folder: Path) -> None:
    (folder / "exp.json.orig").write_text("mine")
    done = raycompress(folder, "migrate", "exp.json", "--write")
    assert done.code == 2
    assert done.err.splitlines()[0] == "error: exp.json.orig is there already, and is not overwritten"
    assert "fix: move it away" in done.err
    assert (folder / "exp.json.orig").read_text() == "mine"
    assert (folder / "exp.json").read_text() == OLD


def test_the_file_behind_a_link_is_written(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "link.json").symlink_to("../exp.json")
    assert raycompress(folder, "migrate", "sub/link.json", "--write").code == 0
    assert (folder / "sub" / "link.json").is_symlink()
    assert '"cpu"' in (folder / "exp.json").read_text()
    assert (folder / "exp.json.orig").read_text() == OLD


def test_slips_are_told_and_with_write_mended(folder: Path) -> None:
    file = folder / "exp.json"
    file.write_bytes(b"\xef\xbb\xbf" + SLIPS.replace("\n", "\r\n").encode())
    told = raycompress(folder, "migrate", "exp.json")
    assert told.code == 2
    assert told.out.startswith("exp.json: no JSON as it is; --write mends it\n")
    slips = [
        '  line 11   text in single quotes; write "save_model"',
        "  line 11   True is no JSON; write true",
        '  line 12   no comma after "proposer": "bohb"; write "," there',
    ]
    assert told.out.partition("--write mends, as it is no JSON:\n")[2].split("\n\n")[0].splitlines() == slips
    before = file.read_bytes()
    assert raycompress(folder, "migrate", "exp.json", "--write").code == 0
    assert (folder / "exp.json.orig").read_bytes() == before
    assert json.loads(file.read_text())["resource_args"] == {"save_model": True}


@pytest.mark.parametrize("as_json", [False, True])
def test_mistakes_are_told_as_validate_tells_them(as_json: bool, folder: Path) -> None:
    (folder / "mnist.py").write_text("")
    text = SLIPS.replace("l1_filter", "l1_fliter")
    (folder / "exp.json").write_text(text)
    words = ("exp.json", *(["--json"] if as_json else []))
    migrated, validated = (raycompress(folder, verb, *words) for verb in ("migrate", "validate"))
    assert (migrated.code, migrated.out, migrated.err) == (2, validated.out, validated.err)
    written = raycompress(folder, "migrate", *words, "--write")
    assert (written.code, written.out, written.err) == (2, validated.out, validated.err)
    assert (folder / "exp.json").read_text() == text


def test_the_same_as_data(folder: Path) -> None:
    before = json.loads(raycompress(folder, "migrate", "exp.json", "--json").out)
    assert (before["file"], before["written"], before["original"], before["slips"]) == ("exp.json", False, None, [])
    assert [(one["line"], one["path"]) for one in before["changes"]] == [
        (4, "resource"),
        (11, "resource_args.async_run"),
    ]
    assert {one["path"] for one in before["advice"] if one["line"] is None} == {
        "compression.slice",
        "random_seed",
        "job_failure",
    }
    assert before["remarks"][0]["path"] == "proposer"
    assert "script" in before["kept"]
    after = json.loads(raycompress(folder, "migrate", "exp.json", "--json", "--write").out)
    assert after["written"] is True
    assert after["original"].endswith("/exp.json.orig")
    assert (folder / "exp.json").read_text() == after["text"] == before["text"]


def test_after_writing_what_is_left_to_do_is_told_by_the_lines_of_the_new_file(folder: Path) -> None:
    text = OLD.replace('  "resource": "node",\n', '  "min_budget": 1,\n  "max_budget": 9,\n')
    (folder / "exp.json").write_text(text)
    done = raycompress(folder, "migrate", "exp.json", "--write")
    lines = (folder / "exp.json").read_text().splitlines()
    for line, key in re.findall(r"line (\d+) +(n_samples|proposer)", done.out):
        assert f'"{key}"' in lines[int(line) - 1]


def test_it_loads_nothing_heavy(folder: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys\n"
        "from raycompress.cli.main import cli\n"
        "cli.main(['migrate', 'exp.json', '--write'], standalone_mode=False)\n"
        "heavy = {'ray', 'torch', 'tensorflow', 'nni', 'numpy', 'rich', 'optuna', 'hyperopt', 'boto3'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
