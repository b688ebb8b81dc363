"Action units as labels: exact on rendered faces, unknown where nobody coded them, whole or explained where a file brings them."
import shutil
from collections import Counter
import numpy as np, pandas as pd, pytest, torch
from fesgan.data.faceset import load_faces
from fesgan.data.catalog import counts, join_catalogs, read_catalog, subset
from fesgan.data.prepared import prepare_faces, read_facts
from fesgan.data.expressions import EXPRESSIONS
from fesgan.data.openface import with_openface
from fesgan.data.pose import expression_aus
from fesgan.data.rendered import person_rows
from fesgan.data.units import UNIT_NUMBERS, UNITS, unit_vector
from fesgan.files import FesganError, shipped
from fesgan.training.systems import get_system
from fesgan.training.trainer import train
from runs import fails, fesgan, run_page, untrained_reader


@pytest.fixture(autouse=True)
def headless(monkeypatch): monkeypatch.setenv("FESGAN_HEADLESS", "1")


def rendered(limit=24, **kwargs):
    "A few rendered faces of both strengths."
    return subset(read_catalog("rendered", strengths=(1., .5), **kwargs), limit)


def folder(root, names):
    "A folder of pictures and its catalog; all are for training."
    for name in names:
        (root/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(shipped("rendered", "images", "person000", "happy.jpg"), root/name)
    return read_catalog("folder", root, test_share=0)


def test_exact_units_reach_the_networks_at_every_strength(tmp_path):
    "What the renderer was told is what a FaceSet says, for full and half expressions."
    faces = load_faces(prepare_faces(rendered(), tmp_path/"faces", size=16, crop="whole"))
    names = faces.catalog.path.str.extract(r"person(?P<person>\d+)/(?P<expression>[a-z]+)(?:-(?P<strength>\d+))?")
    assert names.strength.notna().any() and names.strength.isna().any()
    for row,known in zip(names.itertuples(), faces.aus):
        strength = 1. if row.strength != row.strength else int(row.strength)/100
        assert np.array_equal(known, unit_vector(expression_aus(row.expression, int(row.person), strength)))


def test_joined_with_a_set_that_knows_none(tmp_path):
    "Unknown is NaN, not zero, and people keep apart."
    mine = tmp_path/"mine"
    for e in ("happy", "neutral"):
        for who in ("000", "001"):
            (mine/e).mkdir(parents=True, exist_ok=True)
            shutil.copy(shipped("rendered", "images", f"person{who}", f"{e}.jpg"), mine/e/f"{who}_1.jpg")
    both = join_catalogs(read_catalog("folder", mine, test_share=0), rendered(12))
    faces = load_faces(prepare_faces(both, tmp_path/"faces", size=16, crop="whole"))
    unknown = torch.tensor((faces.catalog.dataset == "folder").to_numpy())
    assert faces.aus[unknown].isnan().all() and not faces.aus[~unknown].isnan().any()
    assert len(set(faces.people[unknown].tolist())) == 2
    assert not set(faces.people[unknown].tolist()) & set(faces.people[~unknown].tolist())
    happy = faces.take((faces.labels == EXPRESSIONS.index("happy")).numpy()).at(8)
    assert happy.aus.shape == (len(happy), len(UNITS)) and len(happy.people) == len(happy)


def test_nobody_known_is_nobody_the_same(tmp_path):
    "Where the subject is unknown the number is -1 for all."
    for e in ("happy", "sad"):
        (tmp_path/"mine"/e).mkdir(parents=True)
        for i in range(2): shutil.copy(shipped("rendered", "images", f"person00{i}", f"{e}.jpg"), tmp_path/"mine"/e/f"{i}.jpg")
    catalog = read_catalog("folder", tmp_path/"mine", split="image", test_share=0)
    faces = load_faces(prepare_faces(catalog, tmp_path/"faces", size=16, crop="whole"))
    assert faces.people.tolist() == [-1]*4


# ---- OpenFace 2's tables

FRAME = ("frame", "face_id", "timestamp", "confidence", "success")
FACE = ("face", "confidence")
INTENSITIES, PRESENCE = [f"{u}_r" for u in UNITS], [f"{u}_c" for u in [*UNITS[:-1], "AU28", "AU45"]]
VALUES = [round(.1+.05*i, 2) for i in range(17)] # no two alike: a column in the wrong place shows


def openface(path, rows, header, comma=",", columns=(*INTENSITIES, *PRESENCE), end="\n", bom=b"", values=None):
    "A file as OpenFace writes it: first columns, some of its pose, intensities and presence."
    path.parent.mkdir(parents=True, exist_ok=True)
    known = dict(zip(INTENSITIES, values or VALUES))
    lines = [(*header, "pose_Tx", *columns), *((*r, 12.3, *(known.get(c, 1.) for c in columns)) for r in rows)]
    path.write_bytes(bom+"".join(comma.join(map(str, line))+end for line in lines).encode())
    return path


@pytest.mark.parametrize("kw", [
    dict(header=FRAME, rows=[(1, 0, 0., .98, 1)]),
    dict(header=FRAME, rows=[(1, 0, 0., .98, 1)], comma=", "), # 2.0 to 2.0.5
    dict(header=FACE, rows=[(0, .9)]),
    dict(header=FACE, rows=[(0, .9)], comma=", ", end="\r\n"), # on Windows
    dict(header=FACE, rows=[(0, .9), (1, .2)]), # somebody in the background
    dict(header=FACE, rows=[(0, .8)], bom=b"\xef\xbb\xbf"), # saved again by a spreadsheet
    dict(header=FACE, rows=[(0, .9)], columns=(*reversed(INTENSITIES), *PRESENCE)), # in any order
    dict(header=FRAME, rows=[(1, 0, 0., " 0.98", " 1")]),
], ids=["2.2", "blanks", "one face", "windows", "background", "bom", "order", "padded"])
def test_good_tables(tmp_path, kw):
    photos = folder(tmp_path/"photos", ["happy/a.jpg", "sad/a.jpg"])
    for name in ("happy/a.csv", "sad/a.csv"): openface(tmp_path/"of"/name, **kw)
    coded = with_openface(photos, tmp_path/"of")
    assert np.allclose(coded[list(UNITS)].to_numpy(), [VALUES]*2) and not coded.attrs["excluded"]


@pytest.mark.parametrize("kw,says", [
    (dict(header=FRAME, rows=[(1, 0, 0., .98, 0)]), "OpenFace found no face (success 0)"),
    (dict(header=FRAME, rows=[(1, 0, 0., .79, 1)]), "OpenFace's confidence is below 0.8"),
    (dict(header=FACE, rows=[(0, "")]), "OpenFace's confidence is below 0.8"),
    (dict(header=FACE, rows=[]), "OpenFace has no table of it"),
    (dict(header=FACE, rows=[(0, .9), (1, .9)]), "OpenFace has several faces or frames of it"),
    (dict(header=FRAME, rows=[(i, 0, 0., .98, 1) for i in (1, 2)]), "OpenFace has several faces or frames of it"),
    (dict(header=FACE, rows=[(0, .9)], values=[5.4, *VALUES[1:]]), "OpenFace's AU01_r is not a number from 0 to 5"),
    (dict(header=FACE, rows=[(0, .9)], values=[*VALUES[:8], "-nan(ind)", *VALUES[9:]]), "OpenFace's AU12_r is not a number from 0 to 5"),
], ids=["lost", "unsure", "no number", "empty", "two faces", "a film", "too much", "nan"])
def test_bad_rows_are_left_out_by_name(tmp_path, kw, says):
    "One picture of three has a bad row: it alone is left out, and prepare.json says so."
    photos = folder(tmp_path/"photos", ["happy/a.jpg", "sad/a.jpg", "sad/b.jpg"])
    for name in ("happy/a.csv", "sad/a.csv"): openface(tmp_path/"of"/name, header=FACE, rows=[(0, .9)])
    openface(tmp_path/"of/sad/b.csv", **kw)
    out = prepare_faces(with_openface(photos, tmp_path/"of"), tmp_path/"faces", 16, "whole")
    facts = read_facts(out)
    assert facts["excluded"] == [dict(path="sad/b.jpg", reason=says)] and facts["units"] == "OpenFace, confidence at least 0.8"
    assert np.allclose(load_faces(out).aus, [VALUES]*2)


@pytest.mark.parametrize("make,says", [
    (lambda p: openface(p/"of/a.csv", header=FACE, rows=[(0, .9)], columns=PRESENCE), r"a.csv lacks AU01_r, AU02_r.* Run it again with -aus"),
    (lambda p: openface(p/"of/a.csv", header=("face",), rows=[(0,)]), "a.csv lacks confidence"),
    (lambda p: openface(p/"of/a.csv", header=FACE, rows=[(0, .9)], comma=";"), "a.csv lacks confidence, AU01_r"),
    (lambda p: openface(p/"of/a.csv", header=(*FACE, " confidence"), rows=[(0, .9, .9)]), "more than one column confidence"),
    (lambda p: (p/"of/a.csv").write_bytes(b"\xff\xd8\xff\xe0 no table"), "a.csv cannot be read as a table"),
    (lambda p: (p/"of/a.csv").write_bytes(b""), "a.csv cannot be read as a table"),
    (lambda p: (p/"of/a.csv").mkdir(), "a.csv is not there, or is no regular file"),
    (lambda p: None, "holds no .csv"),
    (lambda p: (p/"of").rmdir(), "of does not exist"),
    (lambda p: openface(p/"of/holiday.csv", header=FRAME, rows=[(i, 0, 0., .9, 1) for i in range(9)]), "first row is called holiday.csv.* use FaceLandmarkImg"),
    (lambda p: openface(p/"of/a.csv", header=FACE, rows=[(0, .9)]), r"first picture is happy/a.jpg \(OpenFace's table of it could be that of others\)"),
], ids=["presence only", "no confidence", "semicolons", "twice", "a picture", "nothing in it", "a folder", "none", "nowhere", "a film", "flat"])
def test_bad_files_are_one_error(tmp_path, make, says):
    photos = folder(tmp_path/"photos", ["happy/a.jpg", "sad/a.jpg"])
    (tmp_path/"of").mkdir()
    make(tmp_path)
    with pytest.raises(FesganError, match=says): with_openface(photos, tmp_path/"of")


@pytest.mark.parametrize("column", ["filename", "File", "path", "image"])
@pytest.mark.parametrize("form", ["{p}.jpg", "/data/photos/{p}.JPG", "C:\\photos\\{b}.jpg", "{p}"])
def test_one_table_for_many(tmp_path, column, form):
    "A column says which row is whose, as any machine writes it; rows of other pictures do no harm."
    photos = folder(tmp_path/"photos", ["happy/a.jpg", "sad/a.jpg", "sad/b.jpg"])
    names = [form.format(p=p, b=p.replace("/", "\\")) for p in ("sad/a", "happy/a", "other/z")]
    rows = [(name, .9, *np.round(np.add(VALUES, i), 2)) for i,name in enumerate(names)]
    table = pd.DataFrame(rows, columns=[column, "confidence", *INTENSITIES])
    table.to_csv(tmp_path/"all.csv", index=False)
    coded = with_openface(photos, tmp_path/"all.csv")
    assert coded.path.tolist() == ["happy/a.jpg", "sad/a.jpg"]
    assert np.allclose(coded.AU01, [VALUES[0]+1, VALUES[0]])
    assert coded.attrs["excluded"] == [dict(path="sad/b.jpg", reason="OpenFace has no table of it")]


def test_prepare_with_openface(tmp_path):
    "The command: what was left out is counted on the screen and named in prepare.json."
    folder(tmp_path/"photos", ["happy/a_1.jpg", "sad/a_2.jpg", "sad/b_1.jpg", "happy/b_2.jpg"])
    for name,sure in (("happy/a_1", .9), ("sad/a_2", .9), ("sad/b_1", .5), ("happy/b_2", .4)):
        openface(tmp_path/"of"/f"{name}.csv", header=FACE, rows=[(0, sure)])
    words = ("prepare", "folder", tmp_path/"photos", "--size", 16, "--crop", "whole", "--aus", tmp_path/"of")
    code, out = fesgan(*words, "-o", tmp_path/"faces")
    assert code == 0 and "left out: 2 x OpenFace's confidence is below 0.8" in out
    assert [e["path"] for e in read_facts(tmp_path/"faces")["excluded"]] == ["happy/b_2.jpg", "sad/b_1.jpg"]
    code, out = fesgan(*words, "-o", tmp_path/"more", "--confidence", .45)
    assert code == 0 and read_facts(tmp_path/"more")["count"] == 3
    fails(*words, "-o", tmp_path/"x", "--confidence", 80, says="must lie between 0 and 1")
    fails(*words[:-1], tmp_path/"nowhere", "-o", tmp_path/"x", says="does not exist")
    assert not (tmp_path/"x").exists()


# ---- rendered faces with single units and mixtures

def drawn(root, people=(4, 5), units=6, strengths=(1., .5)):
    "A rendered set with all its rows; one picture stands for every pose, as nobody looks at it here."
    rows = [row for s in people for row in person_rows(s, strengths, units)]
    for row in rows:
        (root/row["path"]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(shipped("rendered", "images", row["subject"], "happy.jpg"), root/row["path"])
    pd.DataFrame(rows).to_csv(root/"catalog.csv", index=False)
    return rows


def test_units_are_read_on_demand(tmp_path):
    "Pictures without an expression are left out by name, or kept with their exact units and no label."
    rows = drawn(tmp_path/"set")
    plain = read_catalog("rendered", tmp_path/"set")
    assert len(plain) == 14 and Counter(e["reason"] for e in plain.attrs["excluded"]) == {
        "another strength": 12, "action units without an expression": 12}
    every = read_catalog("rendered", tmp_path/"set", strengths=(1., .5), units=True)
    assert len(every) == len(rows) and not every.attrs["excluded"]
    assert counts(every).loc["(none)", "all"] == 12 and counts(every).loc["all", "all"] == len(rows)
    assert counts(subset(every, 16)).loc["(none)", "all"] == 2 # as many as of each expression
    joined = read_catalog("rendered+folder", dict(rendered=tmp_path/"set", folder=photos(tmp_path/"mine")), units=True, test_share=0)
    assert joined.expression.isna().sum() == 12


def photos(root):
    folder(root, ["happy/a.jpg", "sad/a.jpg"])
    return root


def test_units_reach_the_networks_on_demand(tmp_path):
    "Who asks for labels never sees a face without one; who asks for action units sees all, exactly."
    rows = {row["path"]: row for row in drawn(tmp_path/"set")}
    out = prepare_faces(read_catalog("rendered", tmp_path/"set", strengths=(1., .5), units=True), tmp_path/"faces", 16, "whole")
    named, every = load_faces(out), load_faces(out, named=False)
    assert (len(named), len(every)) == (26, 38) and named.labels.min() == 0
    assert (every.labels == -1).sum() == 12 and every.expressions == list(EXPRESSIONS)
    for path,aus in zip(every.catalog.path, every.aus):
        assert np.array_equal(aus, np.array([rows[path][u] for u in UNITS], np.float32))
    single = every.aus[torch.tensor(every.catalog.path.str.contains("/AU").tolist())]
    assert ((single > 0).sum(1) == 1).all()
    pairs = every.pairs()
    assert (pairs[every.labels == -1] == -1).all() # they are nobody's partners
    known = every.labels >= 0
    assert torch.equal(pairs[known][torch.arange(26), every.labels[known]], known.nonzero().flatten())
    neutral = every.take((every.labels == EXPRESSIONS.index("neutral")).numpy())
    assert set(neutral.people.tolist()) == set(every.people.tolist()) and not neutral.aus.any()


def test_prepare_units(tmp_path):
    "The command counts what has no expression, too."
    drawn(tmp_path/"set")
    code, out = fesgan("prepare", "rendered", tmp_path/"set", "-o", tmp_path/"faces", "--size", 16, "--crop", "whole", "--strengths", "1,0.5", "--units")
    assert code == 0 and "(none)" in out and read_facts(tmp_path/"faces")["count"] == 38
    fails("prepare", "rendered", tmp_path/"set", "-o", tmp_path/"x", "--strengths", "all", says="--strengths 'all' are not numbers")
    fails("prepare", "rendered", tmp_path/"set", "-o", tmp_path/"x", "--strengths", "0.3", says="no picture of the data set was found")
    fails("render", tmp_path/"x", "--units", 2000, says="--units")


def test_a_study_takes_units(tmp_path):
    "Its first notebook, as a profile with data.units or data.aus calls it."
    def prepare(**parameters):
        out = tmp_path/f"faces-{len(parameters)}-{parameters['dataset']}"
        run_page("00_prepare", tmp_path, out=out, size=16, **parameters)
        return load_faces(out, named=False)
    drawn(tmp_path/"set")
    assert len(prepare(dataset="rendered", folder=tmp_path/"set")) == 14
    assert len(prepare(dataset="rendered", folder=tmp_path/"set", units=True)) == 26
    photos(tmp_path/"mine")
    for name in ("happy/a", "sad/a"): openface(tmp_path/"of"/f"{name}.csv", header=FACE, rows=[(0, .98)])
    assert prepare(dataset="folder", folder=tmp_path/"mine", aus=tmp_path/"of").aus.numpy() == pytest.approx(np.array([VALUES]*2), abs=1e-6)


def test_pages_of_units_and_steps_take_what_was_measured(tmp_path):
    "The page of units, where people were drawn with one unit alone: references beside the system, one unit and mixtures apart."
    drawn(tmp_path/"set", people=(0, 1, 4, 7), units=4)
    catalog = read_catalog("rendered", tmp_path/"set", units=True)
    faces = prepare_faces(catalog, tmp_path/"faces", 16, "whole")
    learn, test = (load_faces(faces, split, named=False) for split in ("train", "test"))
    common = dict(width=4, critic_width=4, critic_layers=2, image_size=16, blocks=1, batch=2)
    train(get_system("ganimation", **common), learn, tmp_path/"runs/ganimation/seed0", steps=2, common=common | dict(steps=2))
    untrained_reader(tmp_path/"judges"/"reader.safetensors", image_size=16)
    shutil.copyfile(next(shipped("judges").glob("*.safetensors")), tmp_path/"judges"/"judge.safetensors")
    run_page("03_evaluate", tmp_path, folder=tmp_path/"runs/ganimation/seed0", reader=tmp_path/"judges"/"reader.safetensors", **{k: tmp_path/k for k in ("faces", "judges")})
    run_page("36_units", tmp_path, people=1, **{k: tmp_path/k for k in ("runs", "out", "faces")})
    table = pd.read_csv(tmp_path/"out/tables/table_single.csv").set_index(["system", "asked"])
    assert list(table.index) == [(s, kind) for s in ("unchanged", "true face", "GANimation") for kind in ("one unit", "mixture")]
    assert (table.edits == 4).all() and (table.people == 2).all() and table["strength (share)"].notna().all()
    run_page("37_steps", tmp_path, people=1, **{k: tmp_path/k for k in ("runs", "out", "faces")})
    sharp = pd.read_csv(tmp_path/"out/tables/table_sharpness.csv")             # measured by the evaluation, not by the page
    assert list(sharp.system) == ["unchanged", "GANimation"] and (sharp.edits == sharp.edits[0]).all()
    assert {"way.gif", "way_ganimation.jpg", "unit_matrix.png", "units_ganimation.jpg"} <= {p.name for p in (tmp_path/"out/figures").iterdir()}


def test_a_bad_expression_is_still_an_error(tmp_path):
    "Empty means none of the seven; a word that is none of them is a mistake."
    drawn(tmp_path/"set")
    table = (tmp_path/"set/catalog.csv").read_text().replace(",happy,", ",hapy,")
    (tmp_path/"set/catalog.csv").write_text(table)
    with pytest.raises(FesganError, match="'hapy' is not known"): read_catalog("rendered", tmp_path/"set", units=True)


def test_what_is_rendered_is_what_is_written(tmp_path):
    "Rendered from its row: the landmarks of a picture are those of its units; a set can be added to."
    pytest.importorskip("vtk", reason="needs the extra [render]")
    from fesgan.data import meshes, person as P, rendered as R, scene as S
    try: meshes.assets_folder()
    except FesganError as e: pytest.skip(f"needs the asset packages: {e}")
    plain = R.render_set(tmp_path/"set", n_people=1, size=32, strengths=(1.,))
    neutral = (plain/"images/person000/neutral.jpg").stat().st_mtime_ns
    R.render_set(tmp_path/"set", n_people=1, size=32, strengths=(1.,), units=6)
    table = pd.read_csv(plain/"catalog.csv")
    assert len(table) == 13 and (plain/"images/person000/neutral.jpg").stat().st_mtime_ns == neutral
    row = table[table.path.str.contains("mixture")].iloc[0]
    R.write_picture(S.render(P.draw_person(0), {n: row[u] for u,n in zip(UNITS, UNIT_NUMBERS)}, P.draw_camera(0), P.draw_light(0), 32), tmp_path/"again.jpg")
    assert (tmp_path/"again.jpg").read_bytes() == (plain/row.path).read_bytes()
