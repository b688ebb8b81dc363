"Data sets as they are handed out, and everything that can be wrong with a folder."
import json, os, shutil, stat, subprocess, sys, zipfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fesgan.data.archives import unpack
from fesgan.data.catalog import catalog_hash, counts, image_paths, join_catalogs, read_catalog, subset
from fesgan.data.prepared import prepare_faces, read_prepared
from fesgan.data.readers import COLUMNS
from fesgan.data.expressions import EXPRESSIONS
from fesgan.files import FesganError, shipped

KDEF = ("AF", "AN", "DI", "HA", "NE", "SA", "SU")
RAFD = ("fearful", "angry", "disgusted", "happy", "neutral", "sad", "surprised", "contemptuous")
FER = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    "Every test has a cache of its own."
    monkeypatch.setenv("FESGAN_CACHE", str(tmp_path/"cache"))
    monkeypatch.setenv("FESGAN_HEADLESS", "1")
    return tmp_path/"cache"


def picture(path, seed=0, size=24):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype="uint8")).save(path)
    return path


def make(root, names):
    for i, n in enumerate(names): picture(root/n, i)
    return root


def zipped(root, to):
    with zipfile.ZipFile(to, "w") as z:
        for f in sorted(root.rglob("*")): z.write(f, f.relative_to(root.parent))
    return to


def kdef(root, people=("F01", "F02", "M01", "M02"), series="AB"):
    return make(root, [f"{s}{p}/{s}{p}{e}{a}.JPG" for s in series for p in people for e in KDEF for a in ("S", "HL", "FR")])


def fer(root, n=3):
    return make(root, [f"{part}/{e}/{usage}_{i}{FER.index(e)}.jpg" for part, usage in (("train", "Training"), ("test", "PublicTest"), ("test", "PrivateTest"))
                       for e in FER for i in range(n)])


def tree(root): return {str(f.relative_to(root)): f.stat().st_mtime_ns for f in sorted(root.rglob("*"))}


# ---- the data sets

def test_kdef(tmp_path):
    c = read_catalog("kdef", kdef(tmp_path/"KDEF_and_AKDEF"/"KDEF"))
    assert list(c) == COLUMNS and len(c) == 4*7 and set(c.subject) == {"F01", "F02", "M01", "M02"}
    assert set(c.angle) == {"frontal"} and all("/A" in "/"+p.split("/")[-1] for p in c.path)
    row = c[c.path.str.endswith("AF01ANS.JPG")].iloc[0]
    assert (row.expression, row.subject) == ("angry", "F01")
    assert len(c.attrs["excluded"]) == 4*7*(3*2-1)
    both = read_catalog("kdef", tmp_path, series="AB", angles=("frontal", "half left"))
    assert len(both) == 4*7*2*2
    for _, g in both.groupby("subject"): assert g.split.nunique() == 1 # both series of a person on one side


def test_rafd(tmp_path):
    names = [f"Rafd{a}_{i:02d}_Caucasian_female_{e}_{g}.jpg" for a in ("090", "045") for i in (1, 2, 3) for e in RAFD for g in ("frontal", "left", "right")]
    c = read_catalog("rafd", make(tmp_path/"rafd", names))
    assert len(c) == 3*7 and set(c.expression) == set(EXPRESSIONS) and set(c.subject) == {"01", "02", "03"}
    reasons = pd.Series([e["reason"] for e in c.attrs["excluded"]]).value_counts()
    assert reasons["expression contemptuous"] == 2*3*3 and reasons["angle 045"] == 3*7
    assert len(read_catalog("rafd", tmp_path/"rafd", angles=("frontal", "045"))) == 2*3*7


@pytest.mark.parametrize("form", ["{s}_{c}.jpg", "{s}/{c}.jpg", "{s}-{w}.JPG", "{w}/{s}.png", "CFEE/{c}/{s}_x.jpg"])
def test_cfee(tmp_path, form):
    words = dict(a="neutral", b="happy", c="sad", d="fearful", e="angry", f="surprised", g="disgusted", h="h", v="v")
    letters = [o for o in words if "{w}" not in form or o not in "hv"]
    c = read_catalog("cfee", make(tmp_path/"cfee", [form.format(s=s, c=o, w=words[o]) for s in ("1003", "1017") for o in letters]))
    assert len(c) == 14 and set(c.subject) == {"1003", "1017"} and (c.expression.value_counts() == 2).all()
    assert len(c.attrs["excluded"]) == 2*(len(letters)-7)


def test_fer2013_folders_zip_and_nested(tmp_path):
    root = fer(tmp_path/"fer2013")
    flat, deep = read_catalog("fer2013", root), read_catalog("fer2013", tmp_path)
    archive = read_catalog("fer2013", zipped(root, tmp_path/"x.zip"))
    for c in (flat, deep, archive):
        assert counts(c).loc["all"].to_dict() == dict(test=42, train=21, all=63)
        assert c.subject.isna().all() and c.attrs["note"] == "the set's own split"
        assert (c.split == c.path.map(lambda p: "train" if "Training" in p else "test")).all()
    assert catalog_hash(flat) == catalog_hash(deep) == catalog_hash(archive)


def test_fer2013_csv(tmp_path):
    rng = np.random.default_rng(0)
    px = [" ".join(map(str, rng.integers(0, 256, 2304))) for _ in range(21)]
    table = pd.DataFrame({"emotion": list(range(7))*3, " Usage": ["Training"]*7+["PublicTest"]*7+["PrivateTest"]*7, " pixels": px})
    bad = pd.DataFrame({"emotion": [3, 9, 0], " Usage": ["Training", "Training", "Other"], " pixels": ["1 2 3", px[0], px[0]]})
    (tmp_path/"kaggle").mkdir()
    pd.concat([table, bad]).to_csv(tmp_path/"kaggle"/"icml_face_data.csv", index=False)
    for where in (tmp_path/"kaggle", tmp_path/"kaggle"/"icml_face_data.csv", zipped(tmp_path/"kaggle", tmp_path/"k.zip")):
        c = read_catalog("fer2013", where)
        assert len(c) == 21 and (c.split == "train").sum() == 7
        assert [e["path"] for e in c.attrs["excluded"]] == ["fer2013.csv#21", "fer2013.csv#22", "fer2013.csv#23"]
    got = np.array(Image.open(image_paths(c)[c.index[c.path.str.contains("Training_3.png")][0]]))
    assert got.ravel().tolist() == [int(v) for v in px[3].split()]
    assert c[c.path.str.contains("Training_3.png")].expression.item() == "happy" # code 3
    assert [p.name for p in (tmp_path/"kaggle").iterdir()] == ["icml_face_data.csv"]


def test_fer2013_csv_without_columns(tmp_path):
    (tmp_path/"fer2013.csv").write_text("a,b\n1,2\n")
    with pytest.raises(FesganError, match="no column Usage, emotion, pixels"): read_catalog("fer2013", tmp_path/"fer2013.csv")


def test_fer2013_one_part_alone(tmp_path):
    fer(tmp_path/"fer2013")
    with pytest.raises(FesganError, match="only the train part was found"): read_catalog("fer2013", tmp_path/"fer2013"/"train")


def test_london(tmp_path):
    names = [f"london/{s}/{e}/{i:03d}_{n}.jpg" for s in ("512", "1350") for i in (1, 2, 3) for e, n in (("neutral", "03"), ("happy", "08")) if s == "512" or i == 1]
    make(tmp_path, names)
    (tmp_path/"london"/"london_info.csv").write_text("face_id\n001\n")
    c = read_catalog("london", tmp_path)
    assert len(c) == 6 and set(c.expression) == {"happy", "neutral"} and set(c.subject) == {"001", "002", "003"}
    assert len(c.attrs["excluded"]) == 2 and c.attrs["stray"] == 1


def test_moved(tmp_path):
    "The calm faces of a set in every expression: made once, the same people in the test, all their faces cut at one place."
    for i in (1, 2, 4, 5):
        for e, n in (("neutral", "03"), ("happy", "08")):
            to = tmp_path/"london"/"512"/e/f"{i:03d}_{n}.jpg"
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(shipped("rendered", "images", f"person{i:03d}", f"{e}.jpg"), to)
    picture(tmp_path/"london"/"512"/"neutral"/"007_03.jpg")
    c, real = (read_catalog(d, tmp_path/"london", test_share=.25) for d in ("moved", "london"))
    assert len(c) == 28 and set(c.expression) == set(EXPRESSIONS) and set(c.subject) == {"001", "002", "004", "005"}
    assert [e["reason"] for e in c.attrs["excluded"]] == ["no face"] and "007_03.jpg" in c.attrs["excluded"][0]["path"]
    assert set(c.subject[c.split == "test"]) <= set(real.subject)
    made = image_paths(c)[0].stat().st_mtime_ns
    again = read_catalog("moved+rendered", tmp_path) # found beside each other, and not made again
    assert again.dataset.value_counts()["moved"] == 28 and image_paths(again)[0].stat().st_mtime_ns == made
    faces, table, _ = read_prepared(prepare_faces(c, tmp_path/"out", 64, "rigid"))
    marks = np.load(tmp_path/"out"/"landmarks.npy")
    assert marks.shape == (28, 68, 2) and np.abs(marks[:, 36:48].mean(1)-(.5, .38)).max() < .03  # the eyes are where the crop wants them
    width = {e: (marks[table.index[table.expression == e], 54, 0]-marks[table.index[table.expression == e], 48, 0]).mean() for e in EXPRESSIONS}
    assert width["happy"] > 1.1*width["neutral"]
    calm = faces[table.index[table.expression == "neutral"]].astype(int)
    for e in EXPRESSIONS:
        change = np.abs(faces[table.index[table.expression == e]].astype(int)-calm).mean((0, 3))
        assert change[:, :3].mean() < 1 and change[16:56, 16:48].mean() >= 3*(e != "neutral") # beside the face nothing moves


def test_moved_needs_calm_faces(tmp_path):
    make(tmp_path/"london", ["512/happy/001_08.jpg"])
    with pytest.raises(FesganError, match="no calm face of Face Research Lab London Set"): read_catalog("moved", tmp_path/"london")


def test_ferg(tmp_path):
    "Characters are the people: none is in both parts."
    words = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")
    make(tmp_path, [f"FERG_DB_256/{c}/{c}_{w}/{c}_{w}_{i}.png" for c in ("aia", "bonnie", "jules", "malcolm", "mery", "ray") for w in words for i in (1, 2)] + ["FERG_DB_256/logo.png"])
    c = read_catalog("ferg", tmp_path)
    assert len(c) == 84 and set(c.expression) == set(EXPRESSIONS) and (c.groupby("expression").size() == 12).all()
    assert set(c.subject) == {"aia", "bonnie", "jules", "malcolm", "mery", "ray"} and len(c.attrs["excluded"]) == 1
    assert not set(c[c.split == "train"].subject) & set(c[c.split == "test"].subject)


def test_rendered(tmp_path):
    rows = [dict(path=f"images/{s}/{e}.jpg", subject=s, expression=e, angle="frontal", AU12=3 if e == "happy" else 0) for s in ("001", "002", "003") for e in EXPRESSIONS]
    root = make(tmp_path/"rendered", [r["path"] for r in rows])
    pd.DataFrame(rows).to_csv(root/"catalog.csv", index=False)
    c = read_catalog("rendered", root)
    assert len(c) == 21 and set(c.subject) == {"001", "002", "003"} # not the numbers 1, 2, 3
    assert set(c[c.expression == "happy"].AU12) == {3.} and c.AU01.isna().all() and not c.subject.isna().any()
    own = pd.DataFrame(rows).assign(angle=0, split=["test" if r["subject"] == "003" else "train" for r in rows])
    own.to_csv(root/"catalog.csv", index=False)
    c = read_catalog("rendered", root, seed=5)
    assert set(c[c.split == "test"].subject) == {"003"} and set(c.angle) == {"frontal"} and c.attrs["note"] == "the set's own split"
    c = read_catalog("rendered", root, split="image")
    assert set(c[c.split == "train"].subject) == {"001", "002", "003"} and (c[c.split == "test"].expression.value_counts() == 1).all()
    (root/"images"/"002"/"sad.jpg").unlink()
    c = read_catalog("rendered", root)
    assert len(c) == 20 and c.attrs["excluded"][0]["path"] == "images/002/sad.jpg"
    (root/"catalog.csv").unlink()
    with pytest.raises(FesganError, match="no catalog.csv"): read_catalog("rendered", root)


# ---- folders of one's own

def test_folder_by_person(tmp_path):
    root = make(tmp_path/"mine", [f"{e}/{s}_{i}.JPG" for e in ("Fear", "HAPPINESS", "02-Sad") for s in "abcdefghij" for i in range(2)])
    c = read_catalog("folder", root, test_share=.2)
    assert set(c.expression) == {"afraid", "happy", "sad"} and c.subject.nunique() == 10
    test = set(c[c.split == "test"].subject)
    assert len(test) == 2 and not test & set(c[c.split == "train"].subject)


def test_folder_without_people(tmp_path):
    root = make(tmp_path/"mine", [f"{e}/IMG{i}{e}.jpg" for e in ("happy", "sad") for i in range(10)])
    c = read_catalog("folder", root)
    assert c.subject.isna().all() and "split by image" in c.attrs["note"]
    assert (c[c.split == "test"].expression.value_counts() == 1).all()


def test_folder_own_split(tmp_path):
    c = read_catalog("folder", make(tmp_path/"m", [f"{p}/{e}/{i}.jpg" for p in ("train", "test") for e in ("happy", "sad") for i in range(2)]))
    assert (c.split == c.path.str.split("/").str[0]).all()


def test_folder_contempt_is_left_out_by_name(tmp_path):
    c = read_catalog("folder", make(tmp_path/"m", ["happy/1.jpg", "sad/1.jpg", "contempt/1.jpg"]))
    assert len(c) == 2 and c.attrs["excluded"] == [dict(path="contempt/1.jpg", reason="expression contempt has no place among the seven")]


# ---- wrong folders

@pytest.mark.parametrize("names, start, said", [
    (["happy/1.jpg", "bored/1.jpg"], "", "no expression is called 'bored'"),
    (["happy/1.jpg", "sad/1.jpg"], "happy", "'happy' is itself an expression's folder: name the folder above"),
    (["happy/1.jpg"], "", "only pictures of 'happy' were found"),
    (["a/1.jpg", "b/2.jpg"], "", "'a', 'b'"),
    (["1.jpg"], "", "no expression is called '.'"),
])
def test_wrong_folder(tmp_path, names, start, said):
    root = make(tmp_path/"mine", names)/start
    with pytest.raises(FesganError) as e: read_catalog("folder", root)
    assert said in str(e.value) and str(root) in str(e.value) and "afraid, angry" in str(e.value) or "only pictures" in said


@pytest.mark.parametrize("dataset", ["kdef", "rafd", "cfee", "fer2013", "london", "ferg"])
def test_something_else_entirely(tmp_path, dataset):
    make(tmp_path/"holiday", ["beach.jpg", "rome/forum.jpg"])
    (tmp_path/"holiday"/"diary.txt").write_text("sunny")
    with pytest.raises(FesganError) as e: read_catalog(dataset, tmp_path/"holiday")
    for said in (str(tmp_path/"holiday"), "2 left out", "1 other files", "Expected for", "beach.jpg"): assert said in str(e.value)


def test_relative_folder(tmp_path, monkeypatch):
    kdef(tmp_path/"k", people=("F01", "M01"), series="A")
    monkeypatch.chdir(tmp_path)
    c = read_catalog("kdef", "k")
    monkeypatch.chdir("/")
    assert all(f.is_file() for f in image_paths(c))


@pytest.mark.parametrize("dataset", ["kdef", "folder", "fer2013", "rendered"])
def test_empty_folder(tmp_path, dataset):
    with pytest.raises(FesganError, match="no picture of the data set was found"): read_catalog(dataset, tmp_path)


@pytest.mark.parametrize("call, said", [
    (lambda p: read_catalog("celeba", p), "choose one of: kdef"), (lambda p: read_catalog("kdef"), "does not ship"),
    (lambda p: read_catalog("kdef", p/"no"), "does not exist"), (lambda p: read_catalog("kdef", p, split="people"), "choose one of: subject, image"),
    (lambda p: read_catalog("kdef", p, test_share=1.5), "test_share is 1.5"), (lambda p: read_catalog("kdef", p, angel=1), "choose one of: angles, series"),
    (lambda p: read_catalog("folder", picture(p/"one.jpg")), "neither a folder nor a .zip"),
])
def test_wrong_arguments(tmp_path, call, said):
    kdef(tmp_path/"k", people=("F01",))
    with pytest.raises(FesganError, match=said): call(tmp_path)


def test_stray_files_are_counted(tmp_path):
    root = make(tmp_path/"mine", ["happy/1.jpg", "sad/1.jpg"])
    for n in ("happy/Thumbs.db", ".DS_Store", "__MACOSX/happy/._1.jpg", "readme.txt", "happy/2.jpg.part", ".git/happy/3.jpg"):
        (root/n).parent.mkdir(parents=True, exist_ok=True)
        (root/n).write_bytes(b"x")
    c = read_catalog("folder", root)
    assert len(c) == 2 and c.attrs["stray"] == 6


# ---- the user's folder

def test_users_folder_is_never_touched(tmp_path):
    root = kdef(tmp_path/"KDEF", people=("F01", "M01"), series="A")
    before = tree(root)
    for d in [root, *[p for p in root.rglob("*") if p.is_dir()]]: d.chmod(0o555)
    try:
        c = read_catalog("kdef", root)
        prepare_faces(c, tmp_path/"out", 16, "whole")
        with pytest.raises(FesganError, match="never written to"): prepare_faces(c, root/"faces", 16, "whole")
        with pytest.raises(FesganError, match="never written to"): prepare_faces(c, root, 16, "whole")
    finally:
        for d in [root, *[p for p in root.rglob("*") if p.is_dir()]]: d.chmod(0o755)
    assert tree(root) == before


def test_zip_is_unpacked_in_the_cache_once(tmp_path, cache):
    root = make(tmp_path/"in"/"mine", ["happy/1.jpg", "sad/1.jpg"])
    z = zipped(root, tmp_path/"in"/"m.zip")
    before = tree(tmp_path/"in")
    a = read_catalog("folder", z)
    made = tree(cache)
    b = read_catalog("folder", z)
    assert tree(cache) == made and a.equals(b) and tree(tmp_path/"in") == before
    assert str(cache) in a.attrs["root"] and a.path.tolist() == ["mine/happy/1.jpg", "mine/sad/1.jpg"]


# ---- archives

def entry(name, mode=0o100644, system=3):
    i = zipfile.ZipInfo(name)
    i.external_attr, i.create_system = mode<<16, system
    return i


@pytest.mark.parametrize("info, said", [
    (entry("../evil.jpg"), "leaves the folder"), (entry("a/../../evil.jpg"), "leaves the folder"), (entry("/tmp/evil.jpg"), "absolute"),
    (entry("C:/evil.jpg"), "absolute"), (entry("..\\evil.jpg"), "leaves the folder"), (entry("link", stat.S_IFLNK|0o777), "a link"),
])
def test_unsafe_archives(tmp_path, cache, info, said):
    with zipfile.ZipFile(tmp_path/"z.zip", "w") as z:
        z.writestr("happy/1.jpg", b"fine")
        z.writestr(info, b"/etc/passwd")
    before = tree(tmp_path)
    with pytest.raises(FesganError, match=said): read_catalog("folder", tmp_path/"z.zip")
    assert {k for k in tree(tmp_path) if not k.startswith("cache")} == set(before)
    assert not list((cache/"unpacked").iterdir())


def test_zip_bomb(tmp_path, cache):
    with zipfile.ZipFile(tmp_path/"z.zip", "w", zipfile.ZIP_DEFLATED) as z: z.writestr("happy/1.jpg", bytes(10**7))
    assert (tmp_path/"z.zip").stat().st_size < 20_000
    with pytest.raises(FesganError, match="would unpack to"): unpack(tmp_path/"z.zip", max_bytes=10**6)
    assert not list((cache/"unpacked").iterdir())


@pytest.mark.parametrize("damage", [lambda b: b[:len(b)//2], lambda b: b"not a zip", lambda b: b"", lambda b: b[:60]+bytes(80)+b[140:]])
def test_damaged_archives(tmp_path, cache, damage):
    z = zipped(make(tmp_path/"mine", ["happy/1.png", "sad/1.png"]), tmp_path/"z.zip")
    z.write_bytes(damage(z.read_bytes()))
    with pytest.raises(FesganError, match="z.zip cannot be unpacked"): read_catalog("folder", z)
    assert not list((cache/"unpacked").iterdir())


# ---- splits, hash, subset, join

def test_splits(tmp_path):
    root = kdef(tmp_path/"k", people=[f"F{i:02d}" for i in range(1, 21)], series="A")
    people, images = read_catalog("kdef", root), read_catalog("kdef", root, split="image")
    assert (people.split == "test").sum() == (images.split == "test").sum() == 14
    shared = [len(set(c[c.split == "train"].subject) & set(c[c.split == "test"].subject)) for c in (people, images)]
    assert shared[0] == 0 and shared[1] > 0
    assert people.split.equals(read_catalog("kdef", root).split) and not people.split.equals(read_catalog("kdef", root, seed=1).split)
    assert (read_catalog("kdef", root, test_share=0).split == "train").all()


def test_hash_depends_on_content_only(tmp_path):
    a = read_catalog("folder", make(tmp_path/"a", ["happy/p_1.png", "sad/p_2.png", "sad/q_1.png"]))
    os.renames(tmp_path/"a"/"happy"/"p_1.png", tmp_path/"b"/"mine"/"Joy"/"p_9.png") # another folder, another name, a synonym
    os.renames(tmp_path/"a"/"sad", tmp_path/"b"/"mine"/"sad")
    b = read_catalog("folder", tmp_path/"b")
    with pytest.raises(FesganError, match="not there any more"): catalog_hash(a)
    h = catalog_hash(b)
    make(tmp_path/"a", ["happy/p_1.png", "sad/p_2.png", "sad/q_1.png"])
    assert catalog_hash(a) == h
    shuffled = b.iloc[::-1]
    assert catalog_hash(shuffled) == h
    for column, value in dict(expression="angry", subject="z", split="other", AU12=1.).items():
        changed = b.copy()
        changed[column] = value
        assert catalog_hash(changed) != h, column
    picture(tmp_path/"b"/"mine"/"sad"/"p_2.png", 99)
    assert catalog_hash(b) != h


def test_subset_is_balanced(tmp_path):
    names = [f"train/{e}/Training_{i}.jpg" for k, e in enumerate(FER) for i in range(3 if e == "disgust" else 20)]+[f"test/{e}/PublicTest_{i}.jpg" for e in FER for i in range(4)]
    c = read_catalog("fer2013", make(tmp_path/"fer2013", names))
    s = subset(c, 60)
    train, test = (s[s.split == p].expression.value_counts() for p in ("train", "test"))
    assert len(s) == 60 and train["disgusted"] == 3 and train.drop("disgusted").agg(["min", "max"]).diff().iloc[1] <= 1 and test.max()-test.min() <= 1
    assert subset(c, 60, seed=1).path.tolist() != s.path.tolist() == subset(c, 60).path.tolist()
    assert len(subset(c, 1)) == 1
    with pytest.raises(FesganError, match="limit is 0"): subset(c, 0)


def test_join(tmp_path):
    k = read_catalog("kdef", kdef(tmp_path/"k", people=("F01", "M01"), series="A"))
    r = read_catalog("rafd", make(tmp_path/"r", [f"Rafd090_{i}_Caucasian_male_{e}_frontal.jpg" for i in ("01", "02") for e in RAFD]))
    j = join_catalogs(k, r)
    assert len(j) == 28 and set(j.subject) == {"kdef/F01", "kdef/M01", "rafd/01", "rafd/02"}
    os.renames(tmp_path/"k", tmp_path/"all"/"KDEF_and_AKDEF")
    os.renames(tmp_path/"r", tmp_path/"all"/"RaFD")
    j = read_catalog("kdef+rafd", tmp_path/"all", series="A") # the option is for one of the two
    assert len(j) == 28 and set(j.attrs["roots"]) == {"kdef", "rafd"}
    with pytest.raises(FesganError, match="begins with 'cfee'; it holds: KDEF_and_AKDEF, RaFD"): read_catalog("kdef+cfee", tmp_path/"all")
    (tmp_path/"all"/"KDEF_and_AKDEF"/"AF01"/"AF01ANS.JPG").write_bytes(b"")
    out = prepare_faces(j, tmp_path/"out", 16, "centre")
    faces, table, info = read_prepared(out)
    assert len(faces) == 27 and info["excluded"][-1]["path"] == "kdef:AF01/AF01ANS.JPG" and info["dataset"] == "kdef+rafd" and {"rafd:Rafd090_01_Caucasian_male_contemptuous_frontal.jpg"} <= {e["path"] for e in info["excluded"]}


# ---- prepared faces

@pytest.fixture
def mine(tmp_path): return make(tmp_path/"mine", [f"{e}/{s}_{i}.png" for e in ("happy", "sad") for s in "ab" for i in range(2)])


def test_prepare(tmp_path, mine):
    c = read_catalog("folder", mine)
    out = prepare_faces(c, tmp_path/"out", 24, "whole")
    faces, table, info = read_prepared(out)
    assert sorted(p.name for p in out.iterdir()) == ["catalog.csv", "faces.npy", "prepare.json"]
    assert faces.dtype == np.uint8 and faces.shape == (8, 24, 24, 3) and list(table) == COLUMNS
    for face, p in zip(faces, table.path): assert (face == np.array(Image.open(mine/p))).all() # row i is face i
    assert info["data_hash"] == catalog_hash(c) and info["outcomes"]["ok"] == 8 and info["seconds"] >= 0


def test_prepare_names_what_it_leaves_out(tmp_path, mine, capsys):
    (mine/"happy"/"a_0.png").write_bytes(b"")
    f = mine/"sad"/"b_1.png"
    f.write_bytes(f.read_bytes()[:90])
    out = prepare_faces(read_catalog("folder", mine), tmp_path/"out", 24, "whole")
    faces, table, info = read_prepared(out)
    assert len(faces) == 6 and info["outcomes"]["unreadable"] == 2
    assert [e["path"] for e in info["excluded"]] == ["happy/a_0.png", "sad/b_1.png"] and "cannot be read" in info["excluded"][0]["reason"]
    assert str(tmp_path) not in (out/"prepare.json").read_text()+(out/"catalog.csv").read_text() # nothing of this machine
    assert "6 of 8 faces; 2 unreadable" in capsys.readouterr().err


def test_prepare_without_any_face(tmp_path, mine):
    with pytest.raises(FesganError, match="crop='whole'"): prepare_faces(read_catalog("folder", mine), tmp_path/"out")
    assert not (tmp_path/"out").exists() and not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_prepare_skips_and_renews(tmp_path, mine):
    out = tmp_path/"deep"/"out"
    def stamp(**kw):
        prepare_faces(read_catalog("folder", mine), out, replace=True, **(dict(size=24, crop="whole")|kw))
        return (out/"prepare.json").stat().st_mtime_ns
    first = stamp()
    assert stamp() == first
    assert (second := stamp(size=16)) != first
    picture(mine/"sad"/"a_0.png", 77) # the content changed
    assert stamp(size=16) != second
    for name in ("faces.npy", "catalog.csv"): # damaged or lost results are made again
        whole = (out/name).read_bytes()
        for harm in (lambda f, b: f.write_bytes(b[:-3]+bytes([b[-3]^1])+b[-2:]), lambda f, b: f.write_bytes(b[:50]), lambda f, b: f.unlink()):
            harm(out/name, whole)
            stamp(size=16)
            assert (out/name).read_bytes() == whole
    (out/"prepare.json").write_text("{")
    stamp(size=16)
    assert json.loads((out/"prepare.json").read_text())["count"] == 8


def test_interrupted_prepare_leaves_the_old_folder(tmp_path, mine, monkeypatch):
    import fesgan.data.prepared as module
    out = prepare_faces(read_catalog("folder", mine), tmp_path/"out", 24, "whole")
    before = tree(out)
    def stop(*a, **kw): raise KeyboardInterrupt
    monkeypatch.setattr(module, "crop_face", stop)
    with pytest.raises(KeyboardInterrupt): prepare_faces(read_catalog("folder", mine), out, 16, "whole", replace=True)
    assert tree(out) == before and sorted(p.name for p in tmp_path.iterdir()) == ["mine", "out"]


def test_prepare_spares_other_files(tmp_path, mine):
    (tmp_path/"thesis").mkdir()
    (tmp_path/"thesis"/"chapter.tex").write_text("years of work")
    for out in (tmp_path/"thesis", tmp_path/"thesis"/"chapter.tex"):
        with pytest.raises(FesganError, match="left alone"): prepare_faces(read_catalog("folder", mine), out, 24, "whole")
    assert (tmp_path/"thesis"/"chapter.tex").read_text() == "years of work"


@pytest.mark.parametrize("kw, said", [(dict(size=4), "from 8 to 1024"), (dict(crop="center"), "choose one of: landmarks, rigid, face, centre, whole"), (dict(limit=0), "limit is 0")])
def test_prepare_wrong_arguments(tmp_path, mine, kw, said):
    with pytest.raises(FesganError, match=said): prepare_faces(read_catalog("folder", mine), tmp_path/"out", **kw)
    assert not (tmp_path/"out").exists()


def test_read_prepared_checks(tmp_path, mine):
    with pytest.raises(FesganError, match="no prepared faces"): read_prepared(tmp_path)
    out = prepare_faces(read_catalog("folder", mine), tmp_path/"out", 24, "whole")
    pd.read_csv(out/"catalog.csv").iloc[:3].to_csv(out/"catalog.csv", index=False)
    with pytest.raises(FesganError, match="catalog.csv was changed after it was prepared"): read_prepared(out)


def test_a_catalog_needs_no_torch():
    "It is read whenever faces are prepared; torch takes seconds to come."
    code = "import sys, fesgan.data.catalog; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
