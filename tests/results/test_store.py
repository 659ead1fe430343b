import pytest

from raycompress.disk import write_whole
from raycompress.errors import StorageError, UsageError
from raycompress.results import store
from raycompress.results.journal.journal import Journal


def experiment(storage, name):
    folder = store.create(storage, name)
    journal = Journal(folder.journal)
    journal.append("experiment", version=1)
    journal.close()
    return folder


def test_names_with_shell_characters_make_plain_folders(tmp_path):
    folder = store.create(tmp_path, "../my $(rm -rf) exp;`x`/é")
    assert folder.root.parent == tmp_path
    assert not set(folder.id) & set(" $();`/")


def test_two_experiments_of_one_second_get_folders_of_their_own(tmp_path):
    folders = {store.create(tmp_path, "same").root for _ in range(3)}
    assert len(folders) == 3


def test_storage_that_is_a_file_is_an_error_with_a_fix(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError) as caught:
        store.create(tmp_path / "file", "x")
    assert "file" in str(caught.value)
    assert "fix" in str(caught.value)


def test_find_takes_the_newest_an_id_a_beginning_and_a_path(tmp_path):
    first, second = experiment(tmp_path, "alpha"), experiment(tmp_path, "beta")
    assert store.find(None, tmp_path) == second
    assert store.find("alpha", tmp_path) == first
    assert store.find(first.id, tmp_path) == first
    assert store.find(str(second.root), tmp_path / "elsewhere") == second
    with pytest.raises(UsageError, match="no experiment") as caught:
        store.find(first.id.replace("alpha", "alhpa"), tmp_path)
    assert first.id in caught.value.problems[0].fix


def test_find_refuses_a_beginning_of_several(tmp_path):
    experiment(tmp_path, "alpha-1")
    experiment(tmp_path, "alpha-2")
    with pytest.raises(UsageError, match="names 2 experiments"):
        store.find("alpha", tmp_path)


def test_an_empty_storage_says_how_to_begin(tmp_path):
    with pytest.raises(UsageError, match="no experiment here yet"):
        store.find(None, tmp_path)


def test_an_experiment_that_never_began_is_left_out(tmp_path):
    begun = experiment(tmp_path, "begun")
    Journal(store.create(tmp_path, "never").journal).close()
    assert store.list_folders(tmp_path) == [begun]


def test_removing_a_candidate_leaves_the_log(tmp_path):
    folder = store.create(tmp_path, "x")
    folder.candidate(3).mkdir(parents=True)
    (folder.candidate(3) / "manifest.json").write_text("{}")
    folder.log(3).write_text("said")
    assert folder.candidates() == [3]
    folder.remove_candidate(3)
    folder.remove_candidate(3)
    assert folder.candidates() == []
    assert folder.log(3).read_text() == "said"


def test_write_whole_replaces_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "best.json"
    write_whole(path, "old")
    write_whole(path, "new")
    assert path.read_text() == "new"
    assert [file.name for file in tmp_path.iterdir()] == ["best.json"]


def test_write_whole_tells_where_it_cannot_write(tmp_path):
    with pytest.raises(StorageError, match="cannot write"):
        write_whole(tmp_path / "missing" / "best.json", "x")
