"""What a script sets before its imports is set before the warm process imports them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raycompress.runtime.client import WarmSpec, connect_or_start
from raycompress.runtime.preload import environment_notes, find_imports, prescript_notes
from tests.support.trials import run

IMPORT = "\nimport wave\n"
SETS = {
    "a key": "import os\nos.environ['X'] = 'v'",
    "a default": "import os\nos.environ.setdefault('X', 'v')",
    "an update": "import os\nos.environ.update({'X': 'v'})",
    "an update by name": "import os\nos.environ.update(X='v')",
    "a union": "import os\nos.environ |= {'X': 'v'}",
    "another name": "from os import environ\nenviron['X'] = 'v'",
    "putenv": "import os\nos.putenv('X', 'v')",
    "a constant": "import os\nV = 'v'\nos.environ['X'] = V",
    "a number": "import os\nos.environ['X'] = str(4)",
    "a loop": "import os\nfor name in ('W', 'X'):\n    os.environ[name] = 'v'",
    "a condition": "import os\nif 'NOT_SET_AT_ALL' not in os.environ:\n    os.environ['X'] = 'v'",
    "a try": "import os\ntry:\n    os.environ['X'] = 'v'\nexcept OSError:\n    pass",
    "a function": "import os\ndef set_up():\n    os.environ['X'] = 'v'\nset_up()",
    "a local module": "import helper",
    "a function of a local module": "import later\nlater.set_up()",
    "a function that is imported": "from later import set_up\nset_up()",
    "a path": "import os\nos.environ['X'] = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'v')",
    "pathlib": "import os\nfrom pathlib import Path\nos.environ['X'] = str(Path(__file__).resolve().parent / 'v')",
    "two at once": "import os\nos.environ['X'] = os.environ['Y'] = 'v'",
}
UNKNOWN = {
    "a call": "import os, json\nos.environ['X'] = json.load(open('x'))",
    "an argument": "import os, sys\nos.environ['X'] = sys.argv[1]",
    "a condition": "import os, random\nif random.random() > 0.5:\n    os.environ['X'] = 'v'",
    "a file of variables": "from dotenv import load_dotenv\nload_dotenv()",
}


def imports(folder: Path, source: str):
    (folder / "helper.py").write_text("import os\nos.environ['X'] = 'v'\n")
    (folder / "later.py").write_text("import os\ndef set_up():\n    os.environ['X'] = 'v'\n")
    (folder / "train.py").write_text(source)
    return find_imports(folder / "train.py", folder)


@pytest.mark.parametrize("how", SETS)
def test_a_variable_is_found_before_the_import_that_follows(tmp_path, how):
    found = imports(tmp_path, SETS[how] + IMPORT)
    names = [item.env[0] if item.env else item.module for item in found]
    assert names.index("X") < names.index("wave")
    values = {item.env[0]: item.env[1] for item in found if item.env}
    assert values["X"] in ("v", "4", str(tmp_path / "v"))
    assert list(environment_notes(found)) == []


@pytest.mark.parametrize("how", UNKNOWN)
def test_what_only_running_tells_leaves_the_imports_after_it_to_the_trial(tmp_path, how):
    found = imports(tmp_path, UNKNOWN[how] + IMPORT)
    assert "wave" not in [item.module for item in found]
    (note,) = environment_notes(found)
    assert "is known only when the script runs" in note
    assert note.startswith("train.py:")


@pytest.mark.parametrize(
    "source",
    [
        "import os, sys, wave\nos.environ['X'] = sys.argv[1]",  # after the last import
        "import os, sys\nos.environ['CUDA_VISIBLE_DEVICES'] = sys.argv[1]" + IMPORT,  # read when it is needed
        "import os\ndef main():\n    os.environ['X'] = input()" + IMPORT + "main()",
    ],
)
def test_what_no_import_reads_leaves_them_in_the_warm_process(tmp_path, source):
    found = imports(tmp_path, source)
    assert "wave" in [item.module for item in found]
    assert list(environment_notes(found)) == []


def test_modules_in_a_folder_that_the_script_adds_are_its_own(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "wave.py").write_text("import colorsys\n")
    source = "import os, sys\nsys.path.insert(0, os.path.join(os.path.dirname(__file__), 'src'))\nimport mine\n"
    (tmp_path / "src" / "mine.py").write_text("import colorsys\n")
    assert [item.module for item in imports(tmp_path, source)] == ["os", "sys", "colorsys"]


def test_libraries_of_a_trial_see_what_the_script_sets(tmp_path, spec):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "early.py").write_text("import os\nSEEN = os.environ.get('X'), os.environ.get('Y')\n")
    source = (
        "import os\nos.environ['X'] = 'v'\nos.environ.pop('Y', None)\nimport early\n"
        "assert early.SEEN == ('v', None), early.SEEN\nassert 'early' in sys.modules\nrc.report(a=1)"
    )
    trial = spec("import sys\n" + source)
    preload = find_imports(tmp_path / "train.py", tmp_path)
    warm = WarmSpec(
        "early", str(tmp_path), preload=preload, sys_path=(str(tmp_path / "lib"),), env={"Y": "given", "X": "given"}
    )
    worker = connect_or_start(warm)
    try:
        assert worker.wait_ready().problems == ()
        _, ending = run(worker, trial)
    finally:
        worker.close()
    assert ending.values == {"a": 1}, ending.log.read_text()
    assert "X" not in os.environ


def test_what_a_prescript_exports_after_the_imports_is_told():
    (note,) = prescript_notes("cd x && export HF_HOME=/a PATH=/b; export CUDA_VISIBLE_DEVICES=1")
    assert "exports HF_HOME when" in note
    assert list(prescript_notes("export PATH=/b; make data")) == []
