"Action units as labels: exact on rendered faces, unknown where nobody coded them, whole or explained where a file brings them."
import numpy as np, torch
from fesgan.data.batches import load_faces
from fesgan.data.catalog import join_catalogs, prepare_faces, read_catalog, subset
from fesgan.data.expressions import EXPRESSIONS
from fesgan.data.rendered import expression_aus
from fesgan.data.units import UNITS, unit_vector
from fesgan.files import shipped


def rendered(limit=24, **kwargs):
    "A few rendered faces of both strengths."
    return subset(read_catalog("rendered", strengths=(1., .5), **kwargs), limit)


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
    import shutil
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
    import shutil
    for e in ("happy", "sad"):
        (tmp_path/"mine"/e).mkdir(parents=True)
        for i in range(2): shutil.copy(shipped("rendered", "images", f"person00{i}", f"{e}.jpg"), tmp_path/"mine"/e/f"{i}.jpg")
    catalog = read_catalog("folder", tmp_path/"mine", split="image", test_share=0)
    faces = load_faces(prepare_faces(catalog, tmp_path/"faces", size=16, crop="whole"))
    assert faces.people.tolist() == [-1]*4
