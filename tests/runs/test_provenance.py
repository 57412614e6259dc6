"""A result says where it comes from, and what is unknown is None."""

import os
import subprocess
from pathlib import Path

import pytest

from nuclei.runs.provenance import provenance


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Give a repository with one commit, as the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("text")
    name = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org"]
    for words in (["init", "-q"], ["add", "file.txt"], [*name, "commit", "-qm", "First"]):
        subprocess.run(["git", *words], check=True)
    return tmp_path


def test_a_repository_gives_its_commit_and_whether_files_differ(repository):
    made = provenance()
    assert len(made["commit"]) == 40
    assert made["dirty"] is False
    (repository / "file.txt").write_text("other text")
    assert provenance()["dirty"] is True


@pytest.mark.usefixtures("repository")
def test_without_git_or_a_repository_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert {key: provenance()[key] for key in ("commit", "dirty")} == {"commit": None, "dirty": None}
    monkeypatch.undo()
    monkeypatch.chdir("/")
    assert {key: provenance()[key] for key in ("commit", "dirty")} == {"commit": None, "dirty": None}


@pytest.mark.parametrize("name", ["new", b"\xff\n\xfe"])
def test_a_file_of_any_name_makes_a_repository_dirty(repository, name):
    subprocess.run(["git", "config", "core.quotepath", "false"], check=True)
    Path(os.fsdecode(name)).touch()
    assert provenance()["dirty"] is True


@pytest.mark.parametrize(
    "answer",
    ["echo 'fatal: detected dubious ownership' >&2; exit 128", "kill -9 $$", "printf '\\377'; exit 3", "exec sleep 60"],
)
def test_a_git_that_refuses_or_breaks_leaves_the_commit_unknown(tmp_path, monkeypatch, answer):
    monkeypatch.setattr("nuclei.runs.provenance.GIT_S", 0.5)
    (tmp_path / "git").write_text(f"#!/bin/sh\n{answer}\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert {key: provenance()[key] for key in ("commit", "dirty")} == {"commit": None, "dirty": None}
    (tmp_path / "git").chmod(0o644)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance()["commit"] is None


def test_versions_of_what_is_missing_are_none(monkeypatch):
    monkeypatch.setattr("nuclei.runs.provenance.PACKAGES", ("numpy", "no-such-package"))
    versions = provenance()["versions"]
    assert versions["numpy"]
    assert versions["no-such-package"] is None
