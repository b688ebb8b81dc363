"Files are whole or not there, whatever stops the writing; and what the disk refuses is a sentence."
import errno, os, shutil, subprocess, sys, time

import pytest
import torch
import typer

from fesgan.app.cli import app
from fesgan.files import FesganError, Progress, atomic, os_sentence
from runs import fails


def write(path, text="whole"):
    with atomic(path) as tmp: tmp.write_text(text)


def names(folder): return sorted(p.name for p in folder.iterdir())


# ---- kill -9

def test_a_killed_writers_file_goes_with_the_next_write(tmp_path):
    code = f"import os, signal\nfrom fesgan.files import atomic\nwith atomic({str(tmp_path/'a.txt')!r}) as tmp:\n    tmp.write_text('ha')\n    os.kill(os.getpid(), signal.SIGKILL)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert len(names(tmp_path)) == 1 # half of a file, under its temporary name
    write(tmp_path/"b.txt")
    assert len(names(tmp_path)) == 2 # another file's rubbish is not ours
    write(tmp_path/"a.txt")
    assert names(tmp_path) == ["a.txt", "b.txt"]


def test_a_living_writers_file_stays(tmp_path):
    code = f"import sys, time\nfrom fesgan.files import atomic\nwith atomic({str(tmp_path/'a.txt')!r}) as tmp:\n    tmp.write_text('slow')\n    print(flush=True)\n    sys.stdin.readline()"
    slow = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    slow.stdout.readline()
    write(tmp_path/"a.txt", "fast")
    slow.communicate(b"\n")
    assert slow.returncode == 0 and (tmp_path/"a.txt").read_text() == "slow" and names(tmp_path) == ["a.txt"]


# ---- names

@pytest.mark.parametrize("name", ["a"*250, "a"*251+".txt", "ü"*125, "a."+"b"*248, ".hidden", "[a]*?.txt", "a b.txt", "no-suffix"])
def test_legal_names(tmp_path, name):
    for text in ("one", "two"): write(tmp_path/name, text)
    assert names(tmp_path) == [name] and (tmp_path/name).read_text() == "two"


# ---- modes

@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_modes_follow_the_umask(tmp_path, umask, mode):
    from safetensors.torch import save_file
    before = os.umask(umask)
    try:
        write(tmp_path/"a.txt")
        with atomic(tmp_path/"generator.safetensors") as tmp: save_file({"w": torch.zeros(2)}, tmp)
    finally: os.umask(before)
    assert {p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == {mode}


# ---- a disk that is full

FULL = """
import sys
from pathlib import Path
import numpy as np
from fesgan.files import FesganError, atomic
target = Path(sys.argv[1])/"a.bin"
target.write_text("old")
def text(tmp): tmp.write_text("x"*10**6)
def array(tmp):
    with open(tmp, "wb") as f: np.save(f, np.ones(10**6))
def weights(tmp):
    import torch
    from safetensors.torch import save_file
    save_file({"w": torch.ones(10**6)}, tmp)
for way in (text, array, weights):
    try:
        with atomic(target) as tmp: way(tmp)
    except FesganError as e: print(e)
print([p.name for p in target.parent.iterdir()], target.read_text())
"""

def test_a_full_disk(tmp_path):
    "A disk of 100 kB in a name space of our own; a library that hides the reason is understood, too."
    mount = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=100k none "$0" && exec "$@"', str(tmp_path)]
    if not shutil.which("unshare") or subprocess.run([*mount, "true"], capture_output=True).returncode: pytest.skip("needs user name spaces")
    done = subprocess.run([*mount, sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *said, rest = done.stdout.splitlines()
    assert len(said) == 3 and all(f"{tmp_path}/a.bin: no space is left on the disk" in line for line in said)
    assert rest == "['a.bin'] old"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EDQUOT, "Disk quota exceeded")])
def test_a_full_disk_is_a_sentence(tmp_path, error):
    write(tmp_path/"a.txt")
    with pytest.raises(FesganError, match="a.txt: no space is left"):
        with atomic(tmp_path/"a.txt"): raise error
    assert (tmp_path/"a.txt").read_text() == "whole" and names(tmp_path) == ["a.txt"]


def test_other_errors_stay_what_they_are(tmp_path):
    for error in (KeyboardInterrupt(), ValueError("a"), FesganError("b"), OSError("c")):
        with pytest.raises(type(error)) as caught:
            with atomic(tmp_path/"a.txt"): raise error
        assert caught.value is error
    assert names(tmp_path) == []


# ---- the command line

@pytest.mark.parametrize("error, says", [
    (OSError(errno.ENOSPC, "No space left on device", "/data/out.png"), "fesgan: /data/out.png: no space is left on the disk. Free some"),
    (OSError(errno.ENOSPC, "No space left on device"), "fesgan: No space is left on the disk"),
    (PermissionError(errno.EACCES, "Permission denied", "/root/a"), "fesgan: /root/a: you have no right to this"),
    (NotADirectoryError(errno.ENOTDIR, "Not a directory", "a.txt/b"), "fesgan: a.txt/b: a part of this path is a file"),
    (IsADirectoryError(errno.EISDIR, "Is a directory", "."), "fesgan: .: this is a folder, where a file is needed"),
    (OSError(errno.ENAMETOOLONG, "File name too long", "a"), "the name is too long"),
    (OSError(errno.EIO, "Input/output error", "a"), "fesgan: a: Input/output error."),
    (OSError("1000 requested and 12 written"), "fesgan: 1000 requested and 12 written."),
], ids=lambda v: errno.errorcode.get(getattr(v, "errno", None), "") if isinstance(v, OSError) else "")
def test_what_the_system_refuses_is_a_sentence(monkeypatch, error, says):
    def refuse(*_, **__): raise error
    monkeypatch.setattr(typer.main.get_command(app).__class__.__mro__[1], "invoke", refuse)
    fails("systems", says=says)


def test_output_below_a_file(tmp_path):
    (tmp_path/"file").touch()
    fails("prepare", "rendered", "-o", tmp_path/"file"/"faces", "--size", 32, "--crop", "whole", "--limit", 7, says=str(tmp_path/"file"))


def test_a_path_in_bytes(): assert os_sentence(FileNotFoundError(errno.ENOENT, "No such file", b"a")) == "a: this does not exist. Check the name."


# ---- clocks

def test_progress_does_not_look_at_the_clock_on_the_wall(monkeypatch, capsys):
    clock = iter([1e9, 5., 1e9, -1e9, 0., 0., 0.])
    monkeypatch.setattr(time, "time", lambda: next(clock))
    monkeypatch.setenv("FESGAN_HEADLESS", "1")
    with Progress(3, "faces", every=0) as progress:
        for _ in range(3): progress.update()
    said = capsys.readouterr().err
    assert said.count("0 s left") == 3 and "-" not in said
