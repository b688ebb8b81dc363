"Action units of a folder of pictures: who reads them, what becomes of pictures without a face, and what reads the table."
import contextlib, importlib.util, os, shutil, sys, types

import numpy as np, pandas as pd, pytest, torch
from PIL import Image

from fesgan.data.openface import COLUMNS_READ
from fesgan.data.units import UNITS
from fesgan.data import landmarker
from fesgan.evaluation import blendshapes as B
from fesgan.evaluation.expression import judge_network, judge_settings
from fesgan.evaluation.unit_reader import UnitReader, save_unit_reader
from fesgan.files import FesganError, shipped, weights
from runs import fails, fesgan


@pytest.fixture(autouse=True)
def apart(monkeypatch, tmp_path):
    monkeypatch.setenv("FESGAN_HEADLESS", "1")
    if "FESGAN_WEIGHTS" not in os.environ: monkeypatch.setenv("FESGAN_WEIGHTS", str(tmp_path/"no-weights"))


@pytest.fixture
def photos(tmp_path):
    "Four faces of two people, and four files that show none."
    root = tmp_path/"photos"
    for e in ("happy", "neutral"):
        (root/e).mkdir(parents=True)
        for who in ("000", "001"): shutil.copy(shipped("rendered", "images", f"person{who}", f"{e}.jpg"), root/e/f"{who}_1.jpg")
    Image.new("RGB", (200, 150), "teal").save(root/"neutral"/"wall_1.png")
    (root/"happy"/"torn_1.jpg").write_bytes(b"no picture")
    (root/"happy"/"gone_1.jpg").symlink_to(tmp_path/"nowhere.jpg")
    twins = [Image.open(shipped("rendered", "images", f"person{who}", "neutral.jpg")) for who in ("000", "001")]
    both = Image.new("RGB", (256, 128))
    for i, face in enumerate(twins): both.paste(face, (128*i, 0))
    both.save(root/"neutral"/"both_1.png")
    (root/"notes.txt").write_text("no picture, and not counted")
    return root


def kept_scores():
    "What MediaPipe said of the rendered faces; 47 pictures of each person, the seventh is the smile."
    with np.load(shipped("units", "readings.npz")) as kept: return kept["scores"].astype(float)


def smile(): # what MediaPipe might say of a face
    return {f"{s}{side}": x for s, x in zip(B.SHAPES, kept_scores()[6]) for side in ("Left", "Right")}


def test_from_pictures_to_prepared_faces(photos, tmp_path):
    "Every picture is read or named, and `fesgan prepare` takes the table as if it were OpenFace's."
    code, out = fesgan("read-aus", photos, "-o", tmp_path/"units.csv")
    assert code == 0 and "Read: 4 of 8 pictures; left out: 2 x unreadable" in out
    for name, why in {"neutral/wall_1.png": "no face", "happy/torn_1.jpg": "unreadable", "happy/gone_1.jpg": "unreadable",
                      "neutral/both_1.png": "several faces"}.items(): assert f"left out: {name} ({why})" in out
    table = pd.read_csv(tmp_path/"units.csv")
    assert list(table) == ["filename", "confidence", "success", *COLUMNS_READ]
    assert table[list(COLUMNS_READ)].stack().between(0, 5).all() and (table.confidence == 1).all()
    corners = table.set_index("filename").AU12_r
    assert corners.filter(like="happy").min() > corners.filter(like="neutral").max()+2
    code, out = fesgan("prepare", "folder", photos, "-o", tmp_path/"faces", "--size", 16, "--aus", tmp_path/"units.csv")
    assert code == 0, out
    kept = pd.read_csv(tmp_path/"faces"/"catalog.csv").set_index("path")
    assert sorted(kept.index) == sorted(table.filename) and np.allclose(kept.AU12[table.filename], table.AU12_r)


def test_a_readers_own_file(photos, tmp_path):
    "A study's reader; what it has not learnt is 0, and that is said."
    settings, means = judge_settings(arch="vgg", width=8, image_size=32), [1.]*17
    for unit in ("AU14", "AU45"): means[UNITS.index(unit)] = None
    torch.manual_seed(0)
    save_unit_reader(UnitReader(judge_network(settings, 17), settings, means), tmp_path/"reader.safetensors")
    code, out = fesgan("read-aus", photos/"happy", "-o", tmp_path/"u.csv", "--with", tmp_path/"reader.safetensors", "--crop", "face")
    assert code == 0 and "AU14, AU45: this reader has not learnt them; they are written as 0." in out
    table = pd.read_csv(tmp_path/"u.csv")
    assert len(table) == 2 and (table[["AU14_r", "AU45_r"]] == 0).all(axis=None)
    assert (table[[c for c in COLUMNS_READ if c[:4] not in ("AU14", "AU45")]] != 0).any(axis=None)


@pytest.mark.parametrize("words,says", [
    (("photos", "-o", "units.txt"), "let its name end in .csv"),
    (("nowhere", "-o", "units.csv"), "nowhere is no folder"),
    (("photos/notes.txt", "-o", "units.csv"), "notes.txt is no folder"),
    (("empty", "-o", "units.csv"), "empty holds no pictures"),
    (("photos", "-o", "units.csv", "--with", "openface"), "openface reads no action units; choose own, mediapipe, or a file"),
    (("photos", "-o", "units.csv", "--with", "photos/notes.txt"), "notes.txt is not a unit reader"),
    (("photos", "-o", "units.csv", "--crop", "faces"), "crop 'faces' is not known; choose one of: landmarks"),
    (("walls", "-o", "units.csv"), "walls: no action units could be read from any picture"),
])
def test_wrong_input(photos, tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path/"empty").mkdir()
    (tmp_path/"walls").mkdir()
    shutil.copy(photos/"neutral"/"wall_1.png", tmp_path/"walls")
    fails("read-aus", *words, says=says)
    assert not (tmp_path/"units.csv").exists() and not (tmp_path/"units.txt").exists()


# ---- MediaPipe

def pretend(monkeypatch, look):
    "A stand-in for the package: what `open_landmarker` imports and calls."
    class Task:
        @staticmethod
        def create_from_options(options):
            assert options.output_face_blendshapes and options.base_options.model_asset_buffer == b"a network"
            def detect(image):
                named = look(image.data)
                faces = [[types.SimpleNamespace(category_name=k, score=v) for k, v in named.items()]] if named else []
                return types.SimpleNamespace(face_blendshapes=faces)
            return contextlib.nullcontext(types.SimpleNamespace(detect=detect))
    record = lambda **kw: types.SimpleNamespace(**kw)
    package = types.ModuleType("mediapipe")
    package.Image, package.ImageFormat = record, types.SimpleNamespace(SRGB=1)
    tasks, python = types.ModuleType("mediapipe.tasks"), types.ModuleType("mediapipe.tasks.python")
    python.BaseOptions, python.vision = record, types.SimpleNamespace(FaceLandmarker=Task, FaceLandmarkerOptions=record)
    for module in (package, tasks, python): monkeypatch.setitem(sys.modules, module.__name__, module)


def test_mediapipe_at_the_boundary(photos, tmp_path, monkeypatch):
    "What is asked of the package, and what becomes of its answers; a face that it does not see is left out."
    seen = []
    def look(image):
        seen.append((image.shape, image.dtype, image.flags["C_CONTIGUOUS"]))
        return smile() if len(seen) < 4 else {}
    pretend(monkeypatch, look)
    (tmp_path/"net.task").write_bytes(b"a network")
    monkeypatch.setattr(landmarker, "weights", lambda name, path: path)
    code, out = fesgan("read-aus", photos, "-o", tmp_path/"u.csv", "--with", "mediapipe", "--model", tmp_path/"net.task")
    assert code == 0 and "Read: 3 of 8 pictures" in out and "2 x no face" in out
    assert seen == [((384, 384, 3), np.uint8, True)]*4
    expected = B.load_unit_map()(B.both_sides(smile())[None])[0]
    assert np.allclose(pd.read_csv(tmp_path/"u.csv")[list(COLUMNS_READ)], expected, atol=.0051)
    assert expected[UNITS.index("AU12")] > 3


def test_without_the_package(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    fails("read-aus", photos, "-o", tmp_path/"u.csv", "--with", "mediapipe", says="pip install 'fesgan[au]'")


def test_without_its_file(photos, tmp_path, monkeypatch):
    pretend(monkeypatch, lambda image: {})
    ask = ("read-aus", photos, "-o", tmp_path/"u.csv", "--with", "mediapipe", "--model")
    fails(*ask, tmp_path/"face_landmarker.task", says="Download https://storage.googleapis.com")
    (tmp_path/"face_landmarker.task").write_bytes(b"another network")
    fails(*ask, tmp_path/"face_landmarker.task", says="does not start with 64184e22")


def test_mediapipe_reads_what_ships():
    "The readings that ship, and with them the fit, can be had again."
    if importlib.util.find_spec("mediapipe") is None: pytest.skip("needs MediaPipe: pip install 'fesgan[au]'")
    try: file = weights("face-landmarker", download=False)
    except FesganError as e: pytest.skip(f"needs MediaPipe's network: {e}")
    names = [f"person{who:03d}/{e}.jpg" for who in (0, 1, 70) for e in ("happy", "neutral", "surprised")]
    images = [np.array(Image.open(shipped("rendered", "images", n)).convert("RGB").resize((256, 256), Image.BICUBIC)) for n in names]
    order = dict(happy=6, neutral=8, surprised=11)
    rows = [47*who+order[e] for who in (0, 1, 70) for e in ("happy", "neutral", "surprised")]
    with B.open_landmarker(file) as look:
        reader = B.BlendshapeReader(look)
        scores, units = reader.scores(images), pd.DataFrame(reader.read(images), names, UNITS)
        nobody = reader.read(np.zeros((1, 256, 256, 3), np.uint8))
    assert np.abs(scores-kept_scores()[rows]).max() < .05 and np.isnan(nobody).all()
    assert units.AU12.filter(like="happy").min() > 2 and units.AU12.filter(like="neutral").max() < 1
    assert units.AU26.filter(like="surprised").min() > units.AU26.filter(like="neutral").max()
