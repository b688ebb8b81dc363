"""Every file under data/ has a chain of licences; what is not cleared is not used where only cleared parts may be."""
import contextlib, subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fesgan.app.edit import Mover, find_spots, read_photo
from fesgan.data.transfer import to_marks
from fesgan.files import FesganError, shipped
from fesgan.licences import part_of, read_parts, uncleared
from runs import fails, fesgan

ROOT = Path(__file__).parents[1]


def test_every_file_has_one_chain():
    listed = subprocess.run(["git", "ls-files", "data"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    files = listed or [str(p.relative_to(ROOT)) for p in (ROOT/"data").rglob("*") if p.is_file()]
    parts = read_parts()
    used = {part_of(f).name for f in files if not f.startswith("data/rendered/images/")}
    assert len(files) > 100 and {"movement", "photo", "fer", "perceptual"} <= used
    assert all(part.name in used or not any(f.startswith("data/") for f in part.files) for part in parts.values()) # and no part has lost its files
    for part in parts.values(): assert not part.commercial or not uncleared(part.name)


def test_they_are_listed():
    code, said = fesgan("licences")
    assert code == 0 and all(f"{name}: " in said for name in read_parts()) and "iBUG 300-W" in said
    code, said = fesgan("licences", "movement")
    assert code == 0 and "makehuman" in said and "fer2013" not in said
    fails("licences", "nobody", says="choose one of")


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo")/"anna.png"
    person = next(p for p in sorted(shipped("rendered", "images").iterdir()) if p.is_dir())
    Image.open(person/"neutral.jpg").resize((400, 400), Image.BICUBIC).save(path)
    return path


def test_commercial_use(photo, tmp_path, monkeypatch):
    out = tmp_path/"out.png"
    fails("edit", photo, "--commercial", "--method", "network", "-o", out, says="iBUG 300-W")
    fails("edit", photo, "--commercial", "--model", tmp_path, "-o", out, says="is not known here")
    monkeypatch.setattr("fesgan.app.edit.open_points", lambda model: (_ for _ in ()).throw(FesganError("MediaPipe cannot be imported")))
    fails("edit", photo, "--commercial", "-o", out, says="MediaPipe cannot be imported")
    assert not out.exists()

    given = read_photo(photo)
    marks = to_marks(find_spots(given)[0].points)+.5                               # another landmarker's, half a pixel away
    @contextlib.contextmanager
    def pretended(model): yield lambda image: [marks]
    monkeypatch.setattr("fesgan.app.edit.open_points", pretended)
    for name in ("find_spots", "find_faces", "find_landmarks"): monkeypatch.setattr(f"fesgan.app.edit.{name}", None) # dlib is not asked
    assert fesgan("edit", photo, "--commercial", "--to", "happy", "-o", out)[0] == 0
    made = np.asarray(Image.open(out)).astype(int)
    assert np.abs(made-given.pixels).max() > 30 and (made[0] == given.pixels[0]).all()
    assert Mover.label in str(Image.open(out).getxmp())
