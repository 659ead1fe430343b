"""The decorator @rc.experiment, through the public name."""

import json
import sys

import pytest

import raycompress as rc
from raycompress.errors import ResultError, UsageError


@pytest.fixture
def seen():
    return []


@pytest.fixture
def main(seen):
    @rc.experiment
    def main(config):
        """Train."""
        seen.append(config)
        return config.get("answer")

    return main


def test_a_mapping_a_path_and_the_command_line(main, seen, tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"compressor": "slim"}))
    main({"compressor": "slim"})
    main(path)
    main(str(path))
    monkeypatch.setattr(sys, "argv", ["train.py", str(path)])
    main()
    monkeypatch.setattr(sys, "argv", ["train.py", "--epochs", "3", str(path)])
    main()
    path.with_suffix(".jsonc").write_text('{"compressor": "slim", /* by hand */}')
    monkeypatch.setattr(sys, "argv", ["train.py", "--epochs", "3", str(path.with_suffix(".jsonc"))])
    main()
    assert [config.compressor for config in seen] == ["slim"] * 6
    assert all(isinstance(config, rc.BasicConfig) for config in seen)
    assert main.__name__ == "main"
    assert main.__doc__ == "Train."


def test_no_configuration_on_the_command_line(main, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/train.py"])
    with pytest.raises(UsageError) as raised:
        main()
    assert "python train.py config.json" in str(raised.value)


def test_what_is_returned_is_reported_unless_the_script_did(main, capsys):
    assert main({"answer": 0.5}) == 0.5
    assert capsys.readouterr().out == "result: 0.5\n"
    main({"answer": None})
    assert capsys.readouterr().out == ""

    @rc.experiment
    def reports(config):
        rc.report(accuracy=0.7)
        return 0.5

    reports({})
    assert capsys.readouterr().out == "accuracy: 0.7\n"
    with pytest.raises(ResultError, match="dict"):
        main({"answer": {"accuracy": 0.5}})
