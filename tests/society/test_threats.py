"""Threats that SECURITY.md names and no other test is about; the names begin with its lines'."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from pathlib import Path

import duckdb
import pytest

from society import cli
from society.config.load import ConfigError
from society.runs.folder import locate_run
from society.terminal.user_state import open_private
from store.ledger import Store
from store.records import Run, utc_now

BASE = Path(__file__).parents[2] / "providers" / "embedded" / "model"
EVIL = """
from pathlib import Path
Path(__file__).with_name("executed").touch()
from transformers import LlamaConfig as Config, LlamaForCausalLM as Model
"""


@pytest.fixture
def society(tmp_path, monkeypatch, capfd):
    """Call the command in this process; gives status and everything that it prints."""

    def call(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["society", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capfd.readouterr()
        return int(end.value.code or 0), out + err

    return call


@pytest.mark.parametrize(
    "command",
    [
        ("sql", "theirs", "FROM accuracy"),
        ("sql", "theirs", "FROM accuracy", "--allow-files"),
        ("status", "theirs"),
        ("export", "theirs"),
    ],
)
def test_f1_a_strangers_run_reads_no_file_by_any_command(society, tmp_path, command):
    secret = tmp_path / "secret.txt"
    secret.write_text("my secret", encoding="utf-8")
    database = tmp_path / "runs" / "theirs" / "run.duckdb"
    database.parent.mkdir(parents=True)
    with Store.open(database) as store:
        store.write(Run("theirs", "{}", "0" * 64, 0, "{}", utc_now(), None))
    with duckdb.connect(str(database)) as connection:
        connection.execute(
            f"CREATE OR REPLACE VIEW accuracy AS SELECT content FROM read_text('{secret}')"
        )
    status, printed = society(*command)
    assert status == 2, printed
    assert "the view accuracy" in printed
    assert "read_text" in printed
    assert "my secret" not in printed
    assert not (tmp_path / "runs" / "theirs" / "export").exists()


def test_f4_a_models_folder_executes_nothing(society, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(BASE, model)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    config["model_type"] = "evil"
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (model / "evil.py").write_text(EVIL, encoding="utf-8")
    (tmp_path / "x.toml").write_text(
        f'model = "local:{model}"\niterations = 0\n[task]\nname = "arithmetic"\n'
        "[evaluation]\nquestions = 1\n",
        encoding="utf-8",
    )
    status, _ = society("run", "x.toml")
    assert status != 0
    assert not list(tmp_path.rglob("executed"))


@pytest.mark.parametrize("name", ["../other", "/etc", "a/b", "..", ".hidden", "a\0b", "a\nb", ""])
def test_f6_a_runs_name_is_no_path(tmp_path, name):
    with pytest.raises(ConfigError, match="is not usable"):
        locate_run(tmp_path, name)


def test_u3_the_history_of_queries_is_the_users_own(tmp_path):
    path = tmp_path / "state" / "sql_history"
    os.close(open_private(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.unlink()
    target = tmp_path / "elsewhere"
    path.symlink_to(target)
    with pytest.raises(OSError, match="symbolic"):
        open_private(path)
    assert not target.exists()
