"""Built forms: the new one takes the old one's place at once, and what fails changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from reranker import built_forms
from reranker.built_forms import make_form
from reranker.faults import LoadFailure


def fill(text: str):
    def make(folder: Path) -> None:
        (folder / "model").write_text(text)

    return make


@pytest.fixture
def models(tmp_path) -> Path:
    make_form(tmp_path / "models", tmp_path / "models" / "form", lambda: False, fill("old"))
    return tmp_path / "models"


def names(models: Path) -> set[str]:
    return {path.name for path in models.iterdir()}


def test_while_a_new_form_is_made_the_old_one_stands(models):
    seen = []

    def make(folder: Path) -> None:
        seen.append((models / "form" / "model").read_text())
        fill("new")(folder)

    assert make_form(models, models / "form", lambda: True, make, force=True)
    assert (seen, (models / "form" / "model").read_text()) == (["old"], "new")
    assert names(models) == {".lock", "form"}


def test_at_no_moment_of_the_exchange_is_there_no_form(models, monkeypatch):
    moments = []
    rename = built_forms.os.rename

    def noted(*paths):
        moments.append((models / "form").exists())
        rename(*paths)
        moments.append((models / "form").exists())

    monkeypatch.setattr(built_forms.os, "rename", noted)
    make_form(models, models / "form", lambda: False, fill("new"))
    assert all(moments) and (models / "form" / "model").read_text() == "new"


def test_where_the_file_system_cannot_exchange_the_new_form_comes_all_the_same(models, monkeypatch):
    monkeypatch.setattr(built_forms.ctypes, "CDLL", lambda *args, **options: object())
    make_form(models, models / "form", lambda: False, fill("new"))
    assert (models / "form" / "model").read_text() == "new" and names(models) == {".lock", "form"}


def test_a_form_whose_making_fails_leaves_the_old_one_and_nothing_else(models):
    def fails(folder: Path) -> None:
        fill("half")(folder)
        raise KeyError("stopped")

    with pytest.raises(KeyError):
        make_form(models, models / "form", lambda: False, fails)
    assert (models / "form" / "model").read_text() == "old" and names(models) == {".lock", "form"}


def test_a_good_form_needs_no_folder_that_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    unwritable = tmp_path / "file" / "models"
    assert not make_form(unwritable, unwritable / "form", lambda: True, fill("new"))
    with pytest.raises(LoadFailure, match="no built form can be made in"):
        make_form(unwritable, unwritable / "form", lambda: False, fill("new"))
