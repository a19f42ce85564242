import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hyperconv import files
from hyperconv.errors import InputError

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"


@pytest.fixture
def started():
    """Starts processes that run a text of Python after importing `files`; ends them after the test."""
    processes = []

    def start(text: str, *args: Path, **environment: str) -> subprocess.Popen:
        # the module alone: the package takes seconds to import
        load = (
            "import sys, time, types; from pathlib import Path\n"
            "package = types.ModuleType('hyperconv'); package.__path__ = [sys.argv[1]]\n"
            "sys.modules['hyperconv'] = package\n"
            "from hyperconv import files; from hyperconv.errors import InputError\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", load + text, str(Path(files.__file__).parent), *map(str, args)],
            stdout=subprocess.PIPE,
            env={**os.environ, **environment},
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_a_file_takes_its_place_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "results.csv"
    files.write_whole(path, "old\r\n")
    with pytest.raises(RuntimeError), files.renamed_into_place(path) as beside:
        beside.write_text("half")
        assert path.read_bytes() == b"old\r\n"
        assert beside.suffix == ".csv"
        raise RuntimeError
    assert path.read_bytes() == b"old\r\n"
    with files.renamed_into_place(path) as beside:
        beside.write_text("new")
    assert path.read_text() == "new"
    assert [each.name for each in path.parent.iterdir()] == ["results.csv"]
    other = tmp_path / "plain"
    other.write_text("")
    assert path.stat().st_mode == other.stat().st_mode


def test_a_folder_takes_its_place_whole_or_not_at_all(tmp_path):
    path = tmp_path / "run"
    with pytest.raises(RuntimeError), files.renamed_into_place(path, folder=True) as beside:
        (beside / "settings.yaml").write_text("")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with files.renamed_into_place(path, folder=True) as beside:
        (beside / "settings.yaml").write_text("a: 1")
    assert (path / "settings.yaml").read_text() == "a: 1"
    with pytest.raises(OSError), files.renamed_into_place(path, folder=True):
        pass
    assert (path / "settings.yaml").read_text() == "a: 1"
    assert [each.name for each in tmp_path.iterdir()] == ["run"]


def test_threads_that_write_one_file_do_not_mix(tmp_path):
    texts = [letter * 100_000 for letter in "abcd"]
    threads = [threading.Thread(target=files.write_whole, args=(tmp_path / "file", text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "file").read_text() in texts
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


WRITES_FOR_EVER = """
file, folder = map(Path, sys.argv[2:])
with files.renamed_into_place(file) as file, files.renamed_into_place(folder, folder=True) as folder:
    file.write_text("half")
    (folder / "half").write_text("")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_leftovers_of_killed_processes_are_removed_and_no_others(tmp_path, started):
    def children():
        return sorted(path.name.partition("-")[0] for path in tmp_path.rglob("*") if ".partial" in path.name)

    process = started(WRITES_FOR_EVER, tmp_path / "run" / "hyper" / "best.ckpt", tmp_path / "run-2")
    assert process.stdout.readline() == b"writing\n"
    with files.renamed_into_place(tmp_path / "run" / "own.csv") as own:
        assert len(children()) == 3
        files.remove_leftovers(tmp_path)
        assert len(children()) == 3
        process.send_signal(signal.SIGKILL)
        process.wait()
        files.remove_leftovers(tmp_path, deep=False)
        assert len(children()) == 2
        files.remove_leftovers(tmp_path)
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == [own]
        own.write_text("whole")
    assert (tmp_path / "run" / "own.csv").read_text() == "whole"
    files.remove_leftovers(tmp_path / "nowhere")


LOCKS = """
try:
    with files.locked(Path(sys.argv[2])):
        print("locked", flush=True)
        time.sleep(60)
except InputError as error:
    print(error, flush=True)
"""


def test_one_process_at_a_time_uses_a_folder(tmp_path, started):
    first = started(LOCKS, tmp_path)
    assert first.stdout.readline() == b"locked\n"
    second = started(LOCKS, tmp_path)
    assert b"another process is using" in second.stdout.readline()
    with pytest.raises(InputError, match="another process is using"), files.locked(tmp_path):
        pass
    first.send_signal(signal.SIGKILL)
    first.wait()
    with files.locked(tmp_path):
        with pytest.raises(InputError, match="another process is using"), files.locked(tmp_path):
            pass
        assert started(LOCKS, tmp_path).stdout.readline() != b"locked\n"
    assert started(LOCKS, tmp_path).stdout.readline() == b"locked\n"


def test_a_lock_ends_with_an_error_and_lets_errors_through(tmp_path):
    with pytest.raises(FileNotFoundError), files.locked(tmp_path / "nowhere"):
        pass
    with pytest.raises(BlockingIOError, match="mine"), files.locked(tmp_path):
        raise BlockingIOError("mine")
    with files.locked(tmp_path):
        pass


def test_text_is_utf8_whatever_the_locale(tmp_path, started):
    text = """
import locale
path = Path(sys.argv[2])
assert "UTF" not in locale.getpreferredencoding(False).upper()
files.write_whole(path / "results.csv", f"{sys.argv[2]},\\u03bb\\n")
files.write_whole(path / "copy.txt", files.read_yaml(path / "hparams.yaml")["data"])
print(files.read_text(path / "results.csv").endswith(",\\u03bb\\n"))
"""
    folder = tmp_path / "größe-中"
    folder.mkdir()
    (folder / "hparams.yaml").write_text("data: größe\n", encoding="utf-8")
    process = started(text, folder, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert process.stdout.readline() == b"True\n"
    assert (folder / "results.csv").read_bytes() == f"{folder},λ\n".encode()
    assert (folder / "copy.txt").read_bytes() == "größe".encode()


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "metrics.csv").write_bytes(b"\xef\xbb\xbfepoch,step\r\n")
    assert files.read_text(tmp_path / "metrics.csv") == "epoch,step\r\n"


def test_settings_are_read_as_plain_values(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("seed: 3\nhidden: [16, 16]\nname: null\ndata: größe\n", encoding="utf-8")
    assert files.read_yaml(path) == {"seed": 3, "hidden": [16, 16], "name": None, "data": "größe"}


@pytest.mark.parametrize(
    ("content", "message"),
    (
        (None, "there is no such file"),
        (b"", "does not hold values by name"),
        (b"- 1\n- 2\n", "does not hold values by name"),
        (b"1: 2\n", "does not hold values by name"),
        (b"name: caf\xe9\n", "is no UTF-8 text"),
        (b"name: !!python/object/apply:os.getcwd []\n", "no YAML of plain values"),
        (b"a: &a [1]\nb: *a\n", "it has aliases"),
        (b"a: &a {b: *a}\n", "it has aliases"),
        (b"a: [1, 2\n", "no YAML of plain values"),
        (b"a: " + b"[" * 30_000, "no YAML of plain values"),
        (b"a: " + b"9" * 10_000, "no YAML of plain values"),
        (b"a: 2026-99-99\n", "no YAML of plain values"),
        (b"a: 1e999\nb: !!int x\n", "no YAML of plain values"),
        (b"a: \x00\n", "no YAML of plain values"),
        (b"? [a]\n: 1\n", "no YAML of plain values"),
        (b"a: " + b"1:" * 32_000 + b"1\n", None),
        (b"#" * 70_000, "is larger than 65,536 bytes"),
        (POINTER, "is a git-lfs pointer"),
    ),
)
def test_what_are_no_settings_is_said_in_a_line_and_soon(tmp_path, content, message):
    path = tmp_path / "settings.yaml"
    if content is not None:
        path.write_bytes(content)
    started_at = time.process_time()
    if message:
        with pytest.raises(InputError, match=message) as raised:
            files.read_yaml(path)
        assert str(path) in str(raised.value)
        assert len(str(raised.value)) < 500
    else:
        files.read_yaml(path)
    assert time.process_time() - started_at < 5


def test_an_alias_bomb_does_not_hang(tmp_path):
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 40))]
    (tmp_path / "settings.yaml").write_text("\n".join(lines))
    with pytest.raises(InputError, match="it has aliases"):
        files.read_yaml(tmp_path / "settings.yaml")


def test_pointers_of_git_lfs_are_known(tmp_path):
    (tmp_path / "pointer").write_bytes(POINTER)
    (tmp_path / "other").write_bytes(POINTER[:40])
    assert files.is_lfs_pointer(tmp_path / "pointer")
    assert not files.is_lfs_pointer(tmp_path / "other")


def test_a_folder_that_cannot_be_written_to_is_known_before_long_work(tmp_path):
    files.check_writable(tmp_path / "new" / "out")
    assert not list((tmp_path / "new" / "out").iterdir())
    (tmp_path / "file").write_text("here first")
    with pytest.raises(OSError, match="file"):
        files.check_writable(tmp_path / "file")
