"""What a person with a photo does, right and wrong."""
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from fesgan.app.edit import Editor, Mover, additive, edit, find_spots, read_photo
from fesgan.data.batches import one_hot
from fesgan.data.change import put_back
from fesgan.data.faceset import to_float
from fesgan.data.faces import warp
from fesgan.data.units import UNITS
from fesgan.files import shipped
from fesgan.models.cascade import Cascade
from fesgan.models.ganimation import GANimation
from fesgan.models.generator import Generator, Pieces, difference, save_generator
from fesgan.training.shipped import card_text, list_shipped, shipped_card
from runs import fails, fesgan, untrained_reader


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    "Two people beside each other, large; a wall; no picture."
    folder = tmp_path_factory.mktemp("photos")
    a, b = (Image.open(p/"neutral.jpg").resize((500, 500), Image.BICUBIC) for p in sorted(shipped("rendered", "images").iterdir())[:2])
    both = Image.new("RGB", (1000, 500))
    both.paste(a, (0, 0)); both.paste(b, (500, 0))
    both.save(folder/"both.png")
    a.save(folder/"one.jpg", quality=95)
    Image.new("RGB", (400, 300), "beige").save(folder/"wall.jpg")
    (folder/"broken.jpg").write_bytes(b"no picture at all")
    return folder


def pixels(path): return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_one_command(photos, tmp_path):
    out = tmp_path/"out.png"
    code, said = fesgan("edit", photos/"one.jpg", "--to", "happy", "--strength", "0.6", "-o", out)
    assert code == 0 and f"Written: {out}" in said.replace("\n", "")
    before, after = pixels(photos/"one.jpg"), pixels(out)
    assert before.shape == after.shape and 0 < (before != after).any(2).mean() < .95
    assert (before[:5] == after[:5]).all()                                     # the border is the photo's own
    assert "compositeWithTrainedAlgorithmicMedia" in str(Image.open(out).getxmp())
    assert (np.asarray(edit(photos/"one.jpg", "happy", .6)) == after).all()    # the library does the same


def test_strength_grows_and_faces_can_be_chosen(photos, tmp_path):
    def changed(*words):
        assert fesgan("edit", photos/"both.png", "-o", tmp_path/"x.png", *words)[0] == 0
        return np.abs(pixels(tmp_path/"x.png")-pixels(photos/"both.png"))
    weak, strong = (changed("--strength", s).sum() for s in (.3, 1.2))
    assert 0 < 2*weak < strong
    second = changed("--face", 2)
    assert second[:, :480].sum() == 0 < second[:, 520:].sum()
    both = changed()
    assert both[:, :480].sum() > 0 < both[:, 520:].sum()
    assert changed("--to", "happy:0.5,surprised:0.5").sum() > 0


def test_sheet_sweep_and_folder(photos, tmp_path):
    assert fesgan("edit", photos/"one.jpg", "--all", "-o", tmp_path/"sheet.png")[0] == 0
    assert Image.open(tmp_path/"sheet.png").size == (1280, 640)
    assert fesgan("edit", photos/"one.jpg", "--gif", "-o", tmp_path/"sweep.gif")[0] == 0
    assert Image.open(tmp_path/"sweep.gif").n_frames > 10
    assert fesgan("edit", photos/"both.png", "--all", "--face", 2, "-o", tmp_path/"second.png")[0] == 0
    assert fesgan("edit", photos/"both.png", "--all", "--face", 1, "-o", tmp_path/"first.png")[0] == 0
    assert np.abs(pixels(tmp_path/"first.png")-pixels(tmp_path/"second.png")).mean() > 5
    code, said = fesgan("edit", photos, "-o", tmp_path/"edited")
    assert code == 0 and "2 photos in" in said and said.count("left out:") == 2
    assert {p.name for p in (tmp_path/"edited").iterdir()} == {"both.png", "one.jpg"}


def test_what_cannot_be_edited_is_said_in_one_sentence(photos, tmp_path, monkeypatch):
    out = tmp_path/"out.png"
    fails("edit", photos/"wall.jpg", "-o", out, says="No face was found in")
    fails("edit", photos/"broken.jpg", "-o", out, says="its content is no known format")
    fails("edit", tmp_path/"none.jpg", "-o", out, says="there is no such picture")
    fails("edit", photos/"one.jpg", "--to", "bored", "-o", out, says="choose one of")
    fails("edit", photos/"one.jpg", "--strength", "2", "-o", out, says="between 0 (nothing) and 1.5")
    fails("edit", photos/"one.jpg", "--model", "best", "-o", out, says="choose one of")
    fails("edit", photos/"one.jpg", "--face", "2", "-o", out, says="shows 1 face; there is no face 2")
    fails("edit", photos/"one.jpg", "-o", tmp_path/"out.psd", says="must end in .png")
    fails("edit", photos/"one.jpg", "-o", photos/"one.jpg", says="one.jpg itself, which must stay")
    fails("edit", photos/"one.jpg", "--all", "--gif", says="ask for one of them")
    fails("edit", photos, "-o", out, says="must name a folder")
    monkeypatch.setattr("fesgan.app.edit.MAX_PIXELS", 10)
    monkeypatch.setattr("fesgan.app.edit.read_photo.__defaults__", (10,))
    fails("edit", photos/"one.jpg", "-o", out, says="at most 10 are read")
    assert not list(tmp_path.iterdir())


def test_methods(photos, tmp_path):
    "Who asks for an expression gets the transfer, with a model the network; words in any case."
    def made(*words):
        out = tmp_path/f"{len(list(tmp_path.iterdir()))}.png"
        assert fesgan("edit", photos/"one.jpg", *words, "-o", out)[0] == 0
        return np.asarray(Image.open(out)).tolist()
    moved, network = made("--to", "happy", "--method", "transfer"), made("--to", "happy", "--method", "network")
    assert moved != network and made("--to", "Smile") == moved and made("--to", "happy", "--model", "photo") == moved
    assert made("--to", "neutral") == made("--to", "calm", "--method", "transfer") != made("--to", "calm", "--method", "network")
    assert "expression transfer" in str(Image.open(tmp_path/"0.png").getxmp())
    fails("edit", photos/"one.jpg", "--method", "magic", "-o", tmp_path/"x.png", says="choose one of: auto, transfer, network")
    assert made("--au", "AU12=4") == made("--au", "AU12=4", "--method", "transfer") != moved                       # a unit needs no network
    fails("edit", photos/"one.jpg", "--au", "AU45=5", "-o", tmp_path/"x.png", says="cannot do AU45")
    fails("edit", photos/"one.jpg", "--au", "AU12=4", "--method", "network", "-o", tmp_path/"x.png", says="is steered by expressions, not by action units")


def test_photo_of_a_phone(photos, tmp_path, monkeypatch):
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(Image.open(photos/"one.jpg")).save(tmp_path/"phone.heic", quality=90)
    out = tmp_path/"out.jpg"
    assert fesgan("edit", tmp_path/"phone.heic", "-o", out)[0] == 0 and Image.open(out).size == (500, 500)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)                      # as if it were not installed
    monkeypatch.setattr("PIL.Image.OPEN", {k: v for k, v in Image.OPEN.items() if k != "HEIF"})
    fails("edit", tmp_path/"phone.heic", "-o", tmp_path/"x.jpg", says="pip install 'fesgan[heic]'")


def test_models_are_listed_and_verified():
    code, said = fesgan("models")
    assert code == 0 and said.count("file verified") == len(list_shipped()) >= 3
    for name in list_shipped():
        code, card = fesgan("models", name)
        assert code == 0 and all(f"## {part}" in card for part in ("Data", "Schedule", "Measured", "For whom it works", "Limits", "Use and misuse", "Licence"))
        assert (shipped("models", f"{name}.md")).read_text() == card_text(name, shipped_card(name))
    fails("models", "best", says="choose one of")


@pytest.fixture(scope="module")
def covering(tmp_path_factory):
    "A run folder with a generator that moves and covers; it has learnt nothing, and says a lot."
    torch.manual_seed(0)
    G = Generator(width=4, moves=True, covers=True)
    with torch.no_grad(): G.decode[-1].weight.mul_(4)
    folder = tmp_path_factory.mktemp("covering")
    save_generator(G, folder/"generator.safetensors")
    facts = dict(system="usgan-paired", label="covering", image_size=64, crop="rigid")
    (folder/"params.yaml").write_text(yaml.safe_dump(facts))
    return folder


@pytest.mark.parametrize("pieces", ["of the network that ships", "with a cover"])
def test_network_for_other_programs(photos, tmp_path, covering, pieces):
    "What it tells of an edit is all that is needed to put the edit into a photo, as `fesgan edit` does."
    runtime = pytest.importorskip("onnxruntime")
    model = [covering] if pieces == "with a cover" else []
    code, said = fesgan("export", tmp_path/"net.onnx", *([] if not model else ["--model", *model]))
    assert code == 0 and "from PyTorch" in said
    session = runtime.InferenceSession(str(tmp_path/"net.onnx"))
    editor = Editor(*model)
    photo = read_photo(photos/"one.jpg")
    spot, = find_spots(photo)
    face = to_float(torch.from_numpy(warp(photo.pixels, spot.matrix(editor.crop)*editor.size, editor.size))).permute(2, 0, 1)[None]
    edited, *parts = map(torch.from_numpy, session.run(None, dict(face=face.numpy(), expression=one_hot(torch.tensor([3])).numpy())))
    made = Pieces(*parts) if parts else Pieces(edited-face)
    assert len(parts) == 3 or not model
    assert (face+difference(face, made)-edited).abs().max() < 1e-4
    inside = spot.mask(editor.crop, editor.size) == 1
    assert (additive(face, edited, made)[0]-editor.change(photo.pixels, spot, "happy"))[:, inside].abs().max() < 127.5e-4
    fails("export", tmp_path/"net.pb", says="must end in .onnx")


def test_a_cover_hides_what_was_there(photos, covering):
    "Where the mask is open a photo shows the cover, whatever it showed before; half of an edit covers half as much."
    editor, photo = Editor(covering), read_photo(photos/"one.jpg")
    spot, = find_spots(photo)
    change = editor.face(photo.pixels, spot).change("happy")
    assert change.cover.shape == (4, 64, 64) and 0 < change.cover[3].max() <= 1
    inside = spot.mask(editor.crop, editor.size) == 1
    halves = editor.face(photo.pixels, spot).change("happy", .5).cover
    assert torch.allclose(halves[3], change.cover[3]/2) and torch.allclose(halves[:3, inside], change.cover[:3, inside], atol=1e-2)
    change.cover[:] = torch.tensor([200., 100., 50., 1.])[:, None, None]
    change.added = torch.zeros(3, 64, 64)
    matrix = spot.matrix(editor.crop)
    for before in (photo.pixels, 255-photo.pixels):
        middle = warp(put_back(before, change, matrix), matrix*64, 64)[32, 32]
        assert np.abs(middle-[200., 100., 50.]).max() < 2
    assert (editor.edit(photo, "happy", 0) == photo.pixels).all()


@pytest.fixture(scope="module")
def steered(tmp_path_factory):
    "Run folders of generators that are steered by units, in a study that trained a reader; none has learnt anything."
    work = tmp_path_factory.mktemp("work")
    torch.manual_seed(0)
    for name, G in (("ganimation", GANimation(width=4, blocks=1)), ("cascade", Cascade(width=4, blocks=0, focuses=False))):
        folder = work/"trained"/name/"seed0"
        folder.mkdir(parents=True)
        G.condition = type(G).condition
        save_generator(G, folder/"generator.safetensors")
        facts = dict(system=name, label=name, image_size=64, crop="whole", condition=G.condition)
        (folder/"params.yaml").write_text(yaml.safe_dump(facts))
    untrained_reader(work/"judges"/"reader.safetensors", epochs=1, image_size=32)
    return work


def test_units_are_asked_for_one_by_one(photos, steered, tmp_path):
    run = steered/"trained"/"ganimation"/"seed0"
    def changed(*words, model=run):
        assert fesgan("edit", photos/"one.jpg", "--model", model, "-o", tmp_path/"x.png", *words)[0] == 0
        return pixels(tmp_path/"x.png")
    smile = changed("--au", "AU12=4", "--au", "AU6=2")
    assert (smile != pixels(photos/"one.jpg")).any() and (smile != changed("--au", "AU12=1")).any()
    assert (smile != changed("--to", "happy")).any()
    changed("--au", "AU12=4")
    assert b"AU12 4" in (tmp_path/"x.png").read_bytes()                        # the mark says what was asked for
    assert (changed("--au", "AU12=4", model=steered/"trained"/"cascade"/"seed0") != smile).any()


def test_a_face_takes_on_anothers_units(photos, steered, tmp_path):
    run, out = steered/"trained"/"ganimation"/"seed0", tmp_path/"x.png"
    assert fesgan("edit", photos/"one.jpg", "--model", run, "--from-aus", photos/"both.png", "-o", out)[0] == 0
    editor = Editor(run)
    read = editor.units_of(read_photo(photos/"both.png"))
    assert read == {u: pytest.approx(1., abs=1e-3) for u in UNITS}             # what this reader says of every face
    assert (pixels(out) == editor.edit(read_photo(photos/"one.jpg"), read)).all()


def test_a_face_takes_on_what_another_shows(photos, tmp_path):
    rendered, out = shipped("rendered", "images"), tmp_path/"x.png"
    calm, model = rendered/"person000"/"neutral.jpg", rendered/"person074"/"surprised.jpg"
    code, said = fesgan("edit", calm, "--like", model, "-o", out)
    assert code == 0 and "surprised.jpg shows" in said and "surprised " in said
    assert b"the expression of surprised.jpg" in out.read_bytes()              # the mark says what was asked for
    mover = Mover()
    assert (pixels(out) == mover.edit(read_photo(calm), mover.shown(read_photo(model)))).all()
    fails("edit", calm, "--like", model, "--to", "sad", "-o", tmp_path/"y.png", says="--to and --like ask for different edits")
    fails("edit", calm, "--like", tmp_path/"none.jpg", "-o", tmp_path/"y.png", says="none.jpg")
    assert not (tmp_path/"y.png").exists()


def test_each_face_has_a_way_of_its_own(photos, tmp_path):
    both, out, mean = photos/"both.png", tmp_path/"x.png", tmp_path/"mean.png"
    assert fesgan("edit", both, "--variation", 3, "-o", out)[0] == fesgan("edit", both, "-o", mean)[0] == 0
    assert b"expression transfer, variation 3" in out.read_bytes()
    photo = read_photo(both)
    left, right = find_spots(photo)
    second = Mover(4).edit(photo, "happy", spots=[replace(right, number=1)])   # the next face has the next number
    half = photo.pixels.shape[1]//2
    assert (pixels(out)[:, half:] == second[:, half:]).all()
    assert all((pixels(out) != pixels(mean))[:, part].any() for part in (slice(half), slice(half, None)))
    alone = tmp_path/"alone.png"
    assert fesgan("edit", both, "--variation", 3, "--face", 2, "-o", alone)[0] == 0
    assert (pixels(alone) == second).all()                                     # also where it is edited alone
    fails("edit", both, "--variation", 3, "--model", "usgan", "-o", tmp_path/"y.png", says="drawn for expression transfer")
    fails("edit", both, "--variation", -1, "-o", tmp_path/"y.png", says="greater than or equal to 0")
    assert not (tmp_path/"y.png").exists()


def test_wrong_units_are_explained(photos, steered, tmp_path):
    run, one, out = steered/"trained"/"ganimation"/"seed0", photos/"one.jpg", tmp_path/"x.png"
    fails("edit", one, "--method", "network", "--au", "AU12=4", "-o", out, says="steered by expressions, not by action units")
    fails("edit", one, "--model", run, "--au", "AU12", "-o", out, says="as in AU12=4")
    fails("edit", one, "--model", run, "--au", "AU12=9", "-o", out, says="between 0 and 5")
    fails("edit", one, "--model", run, "--au", "AU03=1", "-o", out, says="choose one of: AU01")
    fails("edit", one, "--model", run, "--au", "smile=1", "-o", out, says="written like AU12")
    fails("edit", one, "--model", run, "--au", "AU12=4", "--to", "sad", "-o", out, says="give one of them")
    fails("edit", one, "--from-aus", photos/"both.png", "-o", out, says="a reader is needed")
    fails("edit", one, "--model", run, "--reader", photos/"broken.jpg", "--au", "AU12=4", "-o", out, says="broken.jpg")
    assert not out.exists()
