from __future__ import annotations

import os
from pathlib import Path

import pytest

from consumer.demo.output import (
    MARK_NAME,
    PAGE_NAME,
    SHEET_NAME,
    OutputError,
    check_output,
    prepare_output,
)

WRITTEN = (PAGE_NAME, SHEET_NAME, "trace.jsonl", "worker.log", "slots/main/1-0123456789ab.mp4")


def write(directory: Path, *names: str) -> list[Path]:
    paths = [directory / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("content", encoding="utf-8")
    return paths


def made_by_a_demo(directory: Path) -> Path:
    prepare_output(directory)
    write(directory, *WRITTEN)
    return directory


def files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


@pytest.mark.parametrize("name", ["new", "new/and/deep", "empty"])
def test_new_or_empty_directory_is_marked(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    prepare_output(tmp_path / name)
    assert files(tmp_path / name) == {MARK_NAME}


def test_what_an_earlier_demo_wrote_is_removed(tmp_path: Path) -> None:
    output = made_by_a_demo(tmp_path)
    write(output, "slots/main/.1.0123abcd.part.mp4", "slots/.write-check-0123abcd")
    prepare_output(output)
    assert files(output) == {MARK_NAME}


def test_what_a_demo_did_not_write_stays_in_a_marked_directory(tmp_path: Path) -> None:
    output = made_by_a_demo(tmp_path)
    own = write(
        output,
        "notes.txt",
        "slots/holiday.mp4",
        "slots/main/1.mp4",
        "slots/main/best.mp4",
        "other/1.mp4",
    )
    prepare_output(output)
    assert all(path.read_text(encoding="utf-8") == "content" for path in own)
    assert not any((output / name).exists() for name in WRITTEN)


def test_demo_that_failed_early_does_not_stop_the_next_one(tmp_path: Path) -> None:
    prepare_output(tmp_path)
    (tmp_path / "slots").mkdir()
    prepare_output(tmp_path)
    assert files(tmp_path) == {MARK_NAME}


@pytest.mark.parametrize(
    "names", [("notes.txt",), (".hidden",), WRITTEN], ids=["file", "hidden file", "unmarked demo"]
)
def test_directory_that_is_neither_empty_nor_marked_is_refused(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    write(tmp_path, *names)
    before = files(tmp_path)
    for attempt in (check_output, prepare_output):
        with pytest.raises(OutputError, match="holds files that `vortex demo` did not write"):
            attempt(tmp_path)
    assert files(tmp_path) == before


@pytest.mark.parametrize("kind", ["directory", "link"])
def test_only_a_plain_file_is_a_mark(kind: str, tmp_path: Path) -> None:
    if kind == "directory":
        (tmp_path / MARK_NAME).mkdir()
    else:
        (tmp_path / MARK_NAME).symlink_to(write(tmp_path, "notes.txt")[0])
    with pytest.raises(OutputError):
        prepare_output(tmp_path)


def test_current_directory_is_judged_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "notes.txt")
    with pytest.raises(OutputError):
        check_output(Path())


def test_link_to_a_directory_is_judged_by_what_it_leads_to(tmp_path: Path) -> None:
    (own,) = write(tmp_path / "real", "notes.txt")
    link = tmp_path / "link"
    link.symlink_to(own.parent)
    with pytest.raises(OutputError):
        prepare_output(link)
    assert own.exists()


@pytest.mark.parametrize("target", ["link", "nowhere"])
def test_link_that_leads_to_no_directory_is_refused(target: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / target)
    with pytest.raises(OutputError, match="is a link to nowhere"):
        check_output(tmp_path / "link")


@pytest.mark.parametrize("name", [PAGE_NAME, "slots", "slots/main"])
def test_links_in_a_marked_directory_are_removed_and_not_followed(
    name: str, tmp_path: Path
) -> None:
    own = write(tmp_path / "elsewhere", "1.mp4", "main/1.mp4")
    output = tmp_path / "out"
    prepare_output(output)
    (output / name).parent.mkdir(exist_ok=True)
    (output / name).symlink_to(own[0] if name == PAGE_NAME else tmp_path / "elsewhere")
    prepare_output(output)
    assert files(output) == {MARK_NAME}
    assert all(path.exists() for path in own)


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_path_that_is_or_goes_through_a_file_is_refused(name: str, tmp_path: Path) -> None:
    (file,) = write(tmp_path, "file")
    with pytest.raises(OutputError, match=f"^--output {tmp_path / name} "):
        prepare_output(tmp_path / name)
    assert file.read_text(encoding="utf-8") == "content"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("marked", [True, False])
def test_directory_that_cannot_be_written_is_refused_untouched(
    marked: bool, tmp_path: Path
) -> None:
    if marked:
        made_by_a_demo(tmp_path)
    before = files(tmp_path)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            prepare_output(tmp_path)
        assert files(tmp_path) == before
    finally:
        tmp_path.chmod(0o700)


def test_content_of_the_wrong_kind_is_one_line(tmp_path: Path) -> None:
    prepare_output(tmp_path)
    write(tmp_path, f"{PAGE_NAME}/notes.txt")
    with pytest.raises(OutputError, match=r"cannot be written: .*index\.html"):
        prepare_output(tmp_path)
    assert (tmp_path / PAGE_NAME / "notes.txt").exists()


def test_captions_of_an_earlier_demo_are_removed_and_no_others(tmp_path: Path) -> None:
    prepare_output(tmp_path)
    folder = tmp_path / "slots" / "main"
    folder.mkdir(parents=True)
    for name in ("1-0123456789ab.vtt", "1-0123456789ab.mp4", "mine.vtt"):
        (folder / name).touch()
    prepare_output(tmp_path)
    assert [path.name for path in folder.iterdir()] == ["mine.vtt"]
