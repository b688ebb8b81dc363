"Data and outputs as nobody should have them: every one is told in a sentence, and nothing of the user's is lost."
import json, os, stat

import numpy as np
import pytest
from PIL import Image

from fesgan.data import prepared as module
from fesgan.data.faceset import load_faces
from fesgan.data.archives import read_table
from fesgan.data.catalog import counts, read_catalog
from fesgan.data.prepared import prepare_faces, read_prepared
from fesgan.data.rendered import RENDERED, keep_settings, render_set
from fesgan.files import FesganError, own_folder, temporary
from runs import fails, fesgan


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    "Every test has a cache and a folder of its own."
    monkeypatch.setenv("FESGAN_CACHE", str(tmp_path/"cache"))
    monkeypatch.setenv("FESGAN_HEADLESS", "1")
    (tmp_path/"here").mkdir()
    monkeypatch.chdir(tmp_path/"here")


@pytest.fixture
def mine(tmp_path):
    "Two people, two expressions, two pictures each."
    rng = np.random.default_rng(0)
    for path in (f"{e}/{s}_{i}.png" for e in ("happy", "sad") for s in "ab" for i in range(2)):
        (tmp_path/"mine"/path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype="uint8")).save(tmp_path/"mine"/path)
    return tmp_path/"mine"


def prepared(mine, out, size=24, **kw): return prepare_faces(read_catalog("folder", mine), out, size, "whole", **kw)


def everything(root): return {str(p.relative_to(root)): (p.lstat().st_mode, p.read_bytes() if p.is_file() else b"") for p in sorted(root.rglob("*"))}


# ---- outputs

def below_a_file(root): (root/"file").write_text("mine"); return root/"file"/"faces"
def pipe(root): os.mkfifo(root/"pipe"); return root/"pipe"
def pipe_inside(root): (root/"faces").mkdir(); os.mkfifo(root/"faces"/"prepare.json"); return root/"faces"
def notes(root): (root/"faces"/"deep").mkdir(parents=True); (root/"faces"/"deep"/"notes.txt").write_text("years of work"); return root/"faces"
def a_run(root): (root/"faces").mkdir(); (root/"faces"/"params.yaml").write_text("label: x"); return root/"faces"
def own_array(root): (root/"faces").mkdir(); np.save(root/"faces"/"faces.npy", np.zeros(3)); return root/"faces"
def linked_file(root): (root/"faces").mkdir(); (root/"x").write_text("mine"); (root/"faces"/"faces.npy").symlink_to(root/"x"); return root/"faces"
def linked_folder(root): notes(root); (root/"link").symlink_to(root/"faces"); return root/"link"
def ring(root): (root/"ring").symlink_to(root/"ring"); return root/"ring"


OUTPUTS = [(lambda root: "/dev/null", "no folder"), (lambda root: "", "the folder you are in"), (lambda root: ".", "the folder you are in"), (lambda root: "x"*300, "too long"),
           (below_a_file, "below a file"), (pipe, "no folder"), (pipe_inside, "prepare.json"), (notes, "deep"), (a_run, "params.yaml"), (linked_file, "faces.npy"),
           (linked_folder, "other things"), (ring, "cannot be a folder"), (own_array, "no prepare.json")]


@pytest.mark.parametrize("make, says", OUTPUTS)
def test_what_is_not_ours_is_left_alone(tmp_path, mine, make, says):
    out = make(tmp_path)
    before = everything(tmp_path)
    fails("prepare", "folder", mine, "-o", out, "--size", 24, "--crop", "whole", says=says)
    assert everything(tmp_path) == before and stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize("make, says", [o for o in OUTPUTS if o[0] not in (own_array, pipe_inside)])
def test_nor_does_replace_touch_it(tmp_path, mine, make, says):
    out = make(tmp_path)
    before = everything(tmp_path)
    fails("prepare", "folder", mine, "-o", out, "--size", 24, "--crop", "whole", "--replace", says=says)
    assert everything(tmp_path) == before


def test_notes_in_a_prepared_folder(tmp_path, mine):
    out = prepared(mine, tmp_path/"out")
    (out/"notes.txt").write_text("years of work")
    with pytest.raises(FesganError, match="notes.txt"): prepared(mine, out, size=16, replace=True)
    assert (out/"notes.txt").read_text() == "years of work" and len(read_prepared(out)[0]) == 8


@pytest.mark.parametrize("change, says", [
    (dict(size=16), "size 24, not 16"), (dict(crop="centre"), "crop whole, not centre"), (dict(limit=4), "other pictures"), (dict(split="image", test_share=.5), "another split")])
def test_another_set_is_replaced_only_on_demand(tmp_path, mine, change, says):
    out = prepared(mine, tmp_path/"out")
    before = everything(out)
    words = [w for k, v in (dict(size=24, crop="whole")|change).items() for w in (f"--{k.replace('_', '-')}", v)]
    fails("prepare", "folder", mine, "-o", out, *words, says=says)
    assert everything(out) == before
    assert fesgan("prepare", "folder", mine, "-o", out, *words, "--replace")[0] == 0
    assert everything(out) != before


def test_the_same_set_is_made_again_without_a_word(tmp_path, mine):
    out = prepared(mine, tmp_path/"out")
    whole = (out/"faces.npy").read_bytes()
    (out/"faces.npy").write_bytes(whole[:-1])
    assert (prepared(mine, out)/"faces.npy").read_bytes() == whole
    (out/temporary("faces.npy", 4711).name).write_bytes(b"left by a killed process")
    (out/"faces.npy").unlink()
    assert (prepared(mine, out)/"faces.npy").read_bytes() == whole and not (out/temporary("faces.npy", 4711).name).exists()


def test_long_names_work(tmp_path, mine):
    out = prepared(mine, tmp_path/("x"*250))
    assert len(read_prepared(prepared(mine, out, size=16, replace=True))[0]) == 8
    os.rename(mine/"sad"/"a_0.png", mine/"sad"/("y"*246+".png"))
    assert len(read_prepared(prepared(mine, tmp_path/"out"))[0]) == 8


def test_a_full_disk(tmp_path, mine, monkeypatch):
    out = prepared(mine, tmp_path/"out")
    before = everything(tmp_path)
    def full(self, face): raise OSError(28, "No space left on device")
    monkeypatch.setattr(module.FaceWriter, "add", full)
    fails("prepare", "folder", mine, "-o", out, "--size", 16, "--crop", "whole", "--replace", says="No space left on device")
    assert everything(tmp_path) == before


@pytest.mark.parametrize("seed, says", [(-1, "seed is -1"), (2**70, "seed is")])
def test_seeds(tmp_path, mine, seed, says):
    fails("prepare", "folder", mine, "-o", tmp_path/"out", "--seed", seed, says=says)


# ---- prepared faces that changed

def flip(path, at=-5):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name, harm, says", [
    ("faces.npy", flip, "faces.npy was changed"), ("faces.npy", lambda p: p.write_bytes(b""), "faces.npy was changed"), ("faces.npy", lambda p: p.unlink(), "faces.npy is not there"),
    ("catalog.csv", lambda p: p.write_text(p.read_text().replace("happy,", "sad,", 1)), "catalog.csv was changed"), ("catalog.csv", lambda p: p.unlink(), "catalog.csv is not there"),
    ("prepare.json", lambda p: p.write_text("{"), "damaged"), ("prepare.json", lambda p: p.write_text("[]"), "damaged"), ("prepare.json", lambda p: p.write_bytes(b"\xff\xfe\x00"), "damaged"),
    ("prepare.json", lambda p: p.write_text("["*100000), "damaged"), ("prepare.json", lambda p: p.write_text('{"dataset": "folder"}'), "must hold")])
def test_changed_faces_are_not_loaded(tmp_path, mine, name, harm, says):
    out = prepared(mine, tmp_path/"out")
    harm(out/name)
    for read in (load_faces, read_prepared):
        with pytest.raises(FesganError, match=says): read(out)
    fails("train", "usgan", out, "-o", tmp_path/"run", "--steps", 1, says=says)
    assert not (tmp_path/"run").exists()


def test_landmarks_that_changed(tmp_path):
    out = prepare_faces(read_catalog("rendered"), tmp_path/"out", 16, "whole", limit=14)
    flip(out/"landmarks.npy")
    with pytest.raises(FesganError, match="landmarks.npy was changed"): load_faces(out)
    facts = json.loads((out/"prepare.json").read_text())
    del facts["landmarks_hash"] # as earlier versions wrote it
    (out/"prepare.json").write_text(json.dumps(facts))
    assert len(load_faces(out)) == 14


# ---- pictures and folders that cannot be read

def test_what_cannot_be_read_is_left_out_by_name(tmp_path, mine, monkeypatch, capsys):
    for e in ("angry", "neutral"): (mine/e).mkdir()
    (mine/"happy"/"gone.png").symlink_to(tmp_path/"nowhere.png")
    os.mkfifo(mine/"happy"/"pipe.png")
    (mine/"happy"/"noise.png").write_bytes(b"noise")
    (mine/"neutral"/"linked").symlink_to(mine/"sad")
    real = os.scandir
    def scandir(path):
        if str(path).endswith("angry"): raise PermissionError(13, "Permission denied", str(path))
        return real(path)
    monkeypatch.setattr(os, "scandir", scandir)
    opened = type(mine).open
    def refuse(self, *a, **kw):
        if self.name == "a_0.png" and self.parent.name == "sad": raise PermissionError(13, "Permission denied")
        return opened(self, *a, **kw)
    monkeypatch.setattr(type(mine), "open", refuse)
    code, said = fesgan("prepare", "folder", mine, "-o", tmp_path/"out", "--size", 24, "--crop", "whole")
    why = {e["path"]: e["reason"] for e in json.loads((tmp_path/"out"/"prepare.json").read_text())["excluded"]}
    assert code == 0 and len(read_prepared(tmp_path/"out")[0]) == 7
    assert set(why) == {"angry", "happy/gone.png", "happy/pipe.png", "happy/noise.png", "neutral/linked", "sad/a_0.png"}
    assert "Permission denied" in why["angry"] and why["happy/gone.png"] == "a dead link" and why["happy/pipe.png"] == "not a regular file" and "cannot be read" in why["sad/a_0.png"]
    assert "left out: 1 x a dead link" in said and "left out: 1 x a folder that cannot be looked into (Permission denied)" in said


PIXELS = " ".join(["0"]*2304)
FER = f"emotion,pixels,Usage\n{{}}{''.join(f'{e},{PIXELS},{u}' + chr(10) for e in range(7) for u in ('Training', 'PublicTest'))}"


@pytest.mark.parametrize("content, says", [
    (b"", "cannot be read as a table"), (bytes(range(256))*20, "cannot be read as a table"), (FER.format("").encode("utf-16"), "cannot be read as a table"),
    (FER.format(f'0,"{PIXELS},Training\n').encode(), "cannot be read as a table"), (b"\x00"*5000, "cannot be read as a table|has no column"), (b"emotion,pixels\n1,2\n", "has no column Usage")])
def test_fer2013_tables(tmp_path, content, says):
    (tmp_path/"fer2013.csv").write_bytes(content)
    with pytest.raises(FesganError, match=says): read_catalog("fer2013", tmp_path/"fer2013.csv")
    fails("prepare", "fer2013", tmp_path/"fer2013.csv", "-o", tmp_path/"out", says="fer2013.csv")


def test_fer2013_rows_that_are_no_faces(tmp_path):
    bad = "".join(f"0,{p},Training\n" for p in ("9"*4000, " ".join(["256"]*2304), " ".join(["-1"]*2304), " ".join(["٣"]*2304), "1 2 3"))
    (tmp_path/"fer2013.csv").write_text(FER.format(bad))
    c = read_catalog("fer2013", tmp_path/"fer2013.csv")
    assert len(c) == 14 and len(c.attrs["excluded"]) == 5 and counts(c).loc["all", "all"] == 14


@pytest.mark.parametrize("rows, says", [
    ("path,subject,expression\nimages/a/happy.jpg,a,bored\n", "expression 'bored'"), ("path,subject\nx,a\n", "no column expression"), ("", "cannot be read as a table"),
    ("path,subject,expression,split\nimages/a/happy.jpg,a,happy,dev\n", "split 'dev'"), ("path,subject,expression,AU12\nimages/a/happy.jpg,a,happy,much\n", "is no number")])
def test_a_damaged_table_of_rendered_faces(tmp_path, mine, rows, says):
    (mine/"catalog.csv").write_text(rows)
    with pytest.raises(FesganError, match=says): read_catalog("rendered", mine)


@pytest.mark.parametrize("words", [("folder", "x"*300), ("kdef", "/dev/null"), ("folder", "nowhere")])
def test_data_that_is_no_folder(tmp_path, words):
    code, said = fesgan("prepare", *words, "-o", tmp_path/"out")
    assert code == 2 and "Traceback" not in said


def test_read_table_refuses_a_pipe(tmp_path):
    os.mkfifo(tmp_path/"t.csv")
    with pytest.raises(FesganError, match="no regular file"): read_table(tmp_path/"t.csv")


# ---- rendered faces

@pytest.mark.parametrize("make, says", [(lambda root: "/dev/null", "no folder"), (notes, "deep"), (below_a_file, "below a file"), (lambda root: "", "the folder you are in"), (lambda root: "x"*300, "too long")])
def test_render_leaves_strangers_alone(tmp_path, monkeypatch, make, says):
    import fesgan.data.rendered as rendered
    monkeypatch.setattr(rendered, "assets_folder", lambda folder=None: tmp_path)
    out = make(tmp_path)
    before = everything(tmp_path)
    with pytest.raises(FesganError, match=says): render_set(out, n_people=1)
    assert everything(tmp_path) == before


def test_the_shipped_renders_are_ours():
    from fesgan.files import shipped
    assert own_folder(shipped("rendered"), RENDERED, "rendered faces") == shipped("rendered").resolve()


def test_a_full_disk_while_rendering(tmp_path, monkeypatch):
    import fesgan.data.rendered as rendered
    def full(*a, **kw): raise OSError(28, "No space left on device")
    for name, f in dict(assets_folder=lambda folder=None: tmp_path, versions=dict, keep_settings=full).items(): monkeypatch.setattr(rendered, name, f)
    with pytest.raises(FesganError, match="no space is left on the disk"): render_set(tmp_path/"out", n_people=1)


def test_damaged_settings(tmp_path):
    (tmp_path/"settings.json").write_text("{")
    with pytest.raises(FesganError, match="settings.json is damaged"): keep_settings(tmp_path/"settings.json", {})


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"faces": [1, 2], "vertices": [1, 2]}', b"\xff"])
def test_damaged_assets(tmp_path, content):
    from fesgan.data import meshes
    for name, read in (("mesh.json", meshes.read_model), ("mesh2.json", meshes.read_mesh), ("skin.png", meshes.read_rgba)):
        (tmp_path/name).write_bytes(content)
        with pytest.raises(FesganError, match=f"{name} is damaged or missing"): read(tmp_path/name)
    with pytest.raises(FesganError, match="no.png is damaged or missing"): meshes.read_rgba(tmp_path/"no.png")
