"""The working folder of a trial: reads lead to the script's folder, what is written is the trial's own."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from raycompress.runtime.folder import system_calls
from raycompress.runtime.folder.workfolder import WorkFolder, tidy
from raycompress.states import TrialState
from tests.support.trials import run

READS = """
import os, pathlib
assert open("data/small.csv").read() == "1,2"
assert len(open("large.bin").read()) == 100000
assert sorted(str(p) for p in pathlib.Path(".").rglob("*.csv")) == ["data/deep/more.csv", "data/small.csv"]
assert [files for _, _, files in os.walk("data")][-1] == ["more.csv"]
assert (pathlib.Path(__file__).resolve().parent / "data" / "small.csv").read_text() == "1,2"
"""
WRITES = {
    "a new file": "open('new.txt', 'w').write('x')",
    "a small file that is there": "open('notes.txt', 'w').write('x')",
    "a large file that is there": "open('large.bin', 'w').write('x')",
    "appending to a small one": "open('notes.txt', 'a').write('x')",
    "appending to a large one": "open('large.bin', 'a').write('x'); assert os.path.getsize('large.bin') == 100001",
    "changing a large one": "open('large.bin', 'r+').write('x'); assert os.path.getsize('large.bin') == 100000",
    "a new file in a folder that is there": (
        "os.makedirs('data/deep', exist_ok=True); pathlib.Path('data/deep/x').write_text('')"
    ),
    "a file beside the script": "(pathlib.Path(__file__).resolve().parent / 'best.pt').write_text('x')",
    "a file that a shell writes": "os.system('echo x > new.txt')",
    "a database": "import sqlite3; c = sqlite3.connect('base.db'); c.execute('create table t (a)'); c.commit()",
    "by a name that is moved in place": "open('tmp', 'w').write('x'); os.replace('tmp', 'large.bin')",
    "in bytes": "open(b'large.bin', 'wb').write(b'x')",
    "below a descriptor": "os.close(os.open('large.bin', os.O_WRONLY | os.O_TRUNC))",
    "through a context that changed the folder": "os.chdir('data'); open('../large.bin', 'a').write('x')",
    "a link": "os.symlink('notes.txt', 'latest')",
}
LIBC = "import ctypes; c = ctypes.CDLL(None); c.fopen.restype = ctypes.c_void_p; "
BY_OTHERS = {
    "a shell": "os.system('echo x > large.bin')",
    "a shell that appends": "os.system('echo x >> notes.txt'); assert open('notes.txt').read() == 'beforex\\n'",
    "cp": "os.system('cp notes.txt large.bin')",
    "cp from below": "os.system('cd data && cp small.csv ../large.bin && cp ../notes.txt deep/more.csv')",
    "sed": "os.system('sed -i s/before/after/ notes.txt')",
    "dd": "os.system('dd if=/dev/zero of=large.bin bs=1 count=1 conv=notrunc 2>/dev/null')",
    "truncate": "os.system('truncate -s 3 large.bin')",
    "tee in a process of a process": "os.system('(echo x | tee notes.txt) > /dev/null & wait')",
    "a library": LIBC + "f = c.fopen(b'large.bin', b'w'); c.fputs(b'x', ctypes.c_void_p(f)); c.fflush(None)",
    "a library, in place": LIBC + "c.write(c.open(b'large.bin', os.O_RDWR), b'x', 1)",
    "a library that makes it": LIBC + "c.write(c.creat(b'notes.txt', 0o644), b'x', 1)",
    "a library, below a descriptor": LIBC + "c.write(c.openat(os.open('data', 0), b'small.csv', 1), b'x', 1)",
    "a library that truncates": LIBC + "assert c.truncate(b'large.bin', 2) == 0",
    "a worker": (
        "import multiprocessing as m\n"
        "p = m.Process(target=os.system, args=('echo x > notes.txt',)); p.start(); p.join()"
    ),
    "a thread": "import threading as t; t.Thread(target=os.system, args=('echo x > notes.txt',)).start()",
    "a daemon": "os.system('(sleep 0.05; echo x > notes.txt) &'); import time; time.sleep(0.02)",
}
"""What Python does not see."""
REMOVES = {
    "a folder": "shutil.rmtree('data'); assert not os.path.exists('data')",
    "a file": "os.remove('large.bin'); assert not os.path.exists('large.bin')",
    "a name": "os.rename('large.bin', 'other.bin')",
}
HEAD = "import os, pathlib, shutil\n"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Fill the script's folder: the test's, in which the trial's folder is as well."""
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "data" / "small.csv").write_text("1,2")
    (tmp_path / "data" / "deep" / "more.csv").write_text("3")
    (tmp_path / "large.bin").write_text("0" * 100_000)
    (tmp_path / "notes.txt").write_text("before")
    return tmp_path


def contents(home: Path) -> dict[str, str]:
    files = [path for path in home.rglob("*") if path.is_file() and "trial" not in path.relative_to(home).parts[0]]
    return {str(path.relative_to(home)): path.read_text() for path in files}


def test_reads_lead_where_they_lead_by_hand(worker, spec, home):
    _, ending = run(worker, spec(READS + "rc.report(a=1)", own_folder=True))
    assert (ending.values, ending.files) == ({"a": 1}, ()), ending.log.read_text()
    assert not (home / "trial" / "files").exists()


@pytest.mark.parametrize("how", [*WRITES, *REMOVES])
def test_what_a_trial_writes_is_its_own(worker, spec, home, how):
    trial = spec(HEAD + {**WRITES, **REMOVES}[how] + "\nrc.report(a=1)", own_folder=True)
    before = contents(home)
    _, ending = run(worker, trial)
    assert ending.values == {"a": 1}, ending.log.read_text()
    assert contents(home) == before
    assert bool(ending.files) == (how in WRITES)
    assert all(os.path.lexists(home / "trial" / "files" / name) for name in ending.files)


@pytest.fixture(scope="module")
def kernel() -> None:
    """Skip where the kernel holds no calls, as in some containers."""
    pid = os.fork()
    if pid == 0:
        try:
            system_calls._install(False)
            os._exit(0)
        except OSError:
            os._exit(1)
    if os.waitpid(pid, 0)[1]:
        pytest.skip("no calls are held here")


@pytest.mark.parametrize("how", BY_OTHERS)
def test_what_another_program_writes_is_the_trials_own(worker, spec, home, kernel, how):
    trial = spec(HEAD + BY_OTHERS[how] + "\nrc.report(a=1)", own_folder=True)
    before = contents(home)
    _, ending = run(worker, trial)
    assert ending.values == {"a": 1}, ending.log.read_text()
    assert contents(home) == before
    assert ending.files, ending.log.read_text()


def test_ten_trials_that_write_one_file_leave_ten(worker, spec, home, kernel):
    (home / "best.pt").write_text("by hand")
    hows = [
        "open('best.pt', 'w').write(N)",
        "open('best.pt', 'a').write(N)",
        "f = open('best.pt', 'r+'); f.truncate(0); f.write(N); f.close()",
        "open('t', 'w').write(N); os.replace('t', 'best.pt')",
        "os.remove('best.pt'); open('best.pt', 'x').write(N)",
        "os.write(os.open('best.pt', os.O_WRONLY | os.O_TRUNC), N.encode())",
        "os.system('printf ' + N + ' > best.pt')",
        "open('t', 'w').write(N); os.system('cp t best.pt')",
        "open('t', 'w').write(N); shutil.copyfile('t', 'best.pt')",
        LIBC + "f = ctypes.c_void_p(c.fopen(b'best.pt', b'w')); c.fputs(N.encode(), f); c.fclose(f)",
    ]
    for number, how in enumerate(hows):
        source = f"{HEAD}N = '{number}'\n{how}\nrc.report(a=1)"
        _, ending = run(worker, spec(source, folder=f"trial{number}", own_folder=True))
        assert "best.pt" in ending.files, (how, ending.log.read_text())
    left = [(home / f"trial{number}" / "files" / "best.pt").read_text() for number in range(10)]
    assert [text.removeprefix("by hand") for text in left] == [str(number) for number in range(10)]
    assert (home / "best.pt").read_text() == "by hand"


@pytest.mark.parametrize(
    ("how", "is_told"),
    [
        ("open('large.bin', 'r+').write('x')", True),
        ("os.system('printf x | dd of=large.bin conv=notrunc 2>/dev/null')", True),
        ("open('large.bin', 'r+').close()", False),
    ],
)
def test_a_file_too_large_for_a_copy_is_told_where_it_was_changed(tmp_path: Path, kernel, how: str, is_told: bool):
    (tmp_path / "large.bin").write_bytes(bytes(1000))
    os.utime(tmp_path / "large.bin", (1, 1))
    folder = WorkFolder(tmp_path / "files", tmp_path)
    folder.make()
    channel, end = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        os.chdir(folder.root)
        system_calls.hand_over(end, folder)
        exec(how)
        os._exit(0)
    end.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("raycompress.runtime.folder.workfolder._MOST_COPIED", 10)
        held = system_calls.receive(channel, folder)
        while held.serve() and os.waitpid(pid, os.WNOHANG) == (0, 0):
            pass
    held.close()
    assert held.shared() == [str(tmp_path / "large.bin")] * is_told


def test_a_folder_of_many_files_is_changed_by_no_other_program(worker, spec, home, kernel, monkeypatch):
    for number in range(4100):
        (home / "data" / f"{number}.txt").touch()
    do = "echo x > data/small.csv; rm data/7.txt; mv data/8.txt data/eight.txt; mkdir data/new; rm -r data/deep"
    before = {path.name: path.stat().st_size for path in (home / "data").iterdir()}
    _, ending = run(worker, spec(HEAD + f"os.system({do!r})\nrc.report(a=len(os.listdir('data')))", own_folder=True))
    assert ending.values == {"a": 4101}, ending.log.read_text()  # two folders, one file less
    assert {path.name: path.stat().st_size for path in (home / "data").iterdir()} == before
    assert ending.files == ("data/small.csv",)


def test_each_trial_leaves_a_file_of_its_own(worker, spec, home):
    for number in range(3):
        source = f"open('best.pt', 'w').write('{number}')\nrc.report(a=float(open('best.pt').read()))"
        _, ending = run(worker, spec(source, folder=f"trial{number}", own_folder=True))
        assert (ending.values, ending.files) == ({"a": number}, ("best.pt",))
    assert [(home / f"trial{n}" / "files" / "best.pt").read_text() for n in range(3)] == ["0", "1", "2"]


def test_inspection_and_trials_without_the_key_run_in_the_scripts_folder(worker, spec, home):
    for number, more in enumerate([{"mode": "inspect", "own_folder": True}, {}]):
        _, ending = run(worker, spec(f"open('made{number}', 'w').write('x')", **more))
        assert ending.files == ()
        assert (home / f"made{number}").exists()


def test_a_killed_trial_leaves_what_it_wrote(worker, spec, home):
    source = "import time\nopen('best.pt', 'w').write('x')\ntime.sleep(60)"
    _, ending = run(worker, spec(source, own_folder=True, timeout_s=0.5))
    assert (ending.state, ending.files) == (TrialState.TIMED_OUT, ("best.pt",))
    assert [path.name for path in (home / "trial" / "files").iterdir()] == ["best.pt"]


def test_an_absolute_path_that_trials_share_is_told(worker, spec, home):
    path = home / "best.pt"
    source = f"open({str(path)!r}, 'w').write('1')\nrc.report(a=float(open({str(path)!r}).read()))"
    _, ending = run(worker, spec(source, own_folder=True))
    assert ending.left["shared"] == [str(path)]


def test_torch_saves_through_no_link(worker, spec, home):
    source = "import torch\ntorch.save({'a': torch.ones(1)}, 'large.bin')\nrc.report(a=torch.load('large.bin')['a'])"
    before = contents(home)
    _, ending = run(worker, spec("import torch\n" + source, own_folder=True))
    assert (ending.values, ending.files) == ({"a": 1.0}, ("large.bin",)), ending.log.read_text()
    assert {**contents(home), "train.py": ""} == {**before, "train.py": ""}


def test_a_folder_of_many_files_is_one_link_until_it_is_written(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("raycompress.runtime.folder.workfolder._MOST_ENTRIES", 5)
    source = tmp_path / "home"
    (source / "images").mkdir(parents=True)
    for number in range(10):
        (source / "images" / f"{number}.png").write_text(str(number))
    folder = WorkFolder(tmp_path / "files", source)
    folder.make()
    images = tmp_path / "files" / "images"
    assert images.is_symlink()
    folder.own(images / "new.png")
    (images / "new.png").write_text("x")
    assert (images / "3.png").read_text() == "3"
    assert not (source / "images" / "new.png").exists()
    assert tidy(tmp_path / "files", source) == ("images/new.png",)
    assert len(list((source / "images").iterdir())) == 10


def test_the_results_of_the_running_search_are_none_of_the_scripts_files(tmp_path: Path) -> None:
    (tmp_path / "raycompress_results" / "old").mkdir(parents=True)
    running = tmp_path / "raycompress_results" / "now"
    running.mkdir()
    (running / "journal.jsonl").write_text("")
    root = running / "trials" / "0001" / "files"
    WorkFolder(root, tmp_path).make()
    assert [path.name for path in (root / "raycompress_results").iterdir()] == ["old"]
    assert tidy(root, tmp_path) == ()


def test_the_folder_of_another_search_is_one_link(tmp_path: Path) -> None:
    other = tmp_path / "raycompress_results" / "other"
    (other / "trials").mkdir(parents=True)
    (other / "journal.jsonl").touch()
    folder = WorkFolder(tmp_path / "raycompress_results" / "this" / "trials" / "0001" / "work", tmp_path)
    folder.make()
    assert (folder.root / "raycompress_results" / "other").is_symlink()
