"""Profiles, --set and sweeps that are wrong are refused at once, in one sentence, with exit code 2; the schema for editors is up to date."""
import json
from pathlib import Path

import pytest
import yaml

from fesgan.app import profiles
from fesgan.app.profiles import check_sweep, check_values, checked, read_profile, read_sweep, schema, study_runs
from fesgan.data.faces import CROPS
from fesgan.files import FesganError
from fesgan.reporting.html import SIZES
from runs import fails

ROOT = Path(__file__).parents[1]
PROFILE = dict(name="mine", title="Mine", groups=dict(trained=["toy", "ten updates."]), data=dict(dataset="rendered", size=32),
               judge=dict(settings=dict(epochs=1, image_size=32)), variants={"usgan": dict(system="usgan"), "usgan-6": dict(system="usgan", blocks=6)},
               train=dict(image_size=32, width=8, critic_width=8, steps=10), ablations={"depth": [["usgan", "usgan-6"]]}, views=["20_table_usgan"])


@pytest.fixture
def mine(tmp_path):
    "A profile of one's own, with changes, as an option of the command."
    def write(**changes):
        (tmp_path/"mine.yaml").write_text(yaml.safe_dump(PROFILE | changes))
        return tmp_path/"mine.yaml"
    return write


WRONG = [ # changed keys, what is said
    (dict(seeds=3), "seeds: 3 is not allowed"), (dict(seeds="0,1"), "seeds: '0,1' is not allowed"), (dict(seeds=[0, 0]), "names something twice"),
    (dict(more_seeds={"usgam": [1]}), "more_seeds.usgam: variant 'usgam' is not known"), (dict(more_seeds={"usgan": [0]}), "more_seeds.usgan: 0 is one of `seeds`"),
    (dict(seeds=[-1]), "seeds.0: -1 is not allowed"), (dict(seeds=[2**70]), "is not allowed"), (dict(seeds=[]), "seeds: [] is not allowed"), (dict(seeds=[True]), "is not allowed"),
    (dict(sedes=[0]), "key 'sedes' is not known; choose one of: name, title"), (dict(device="cuda:x"), "device: 'cuda:x' is not allowed"), (dict(precision="16"), "precision: '16' is not allowed"),
    (dict(name="../mine"), "name: '../mine' is not allowed"), (dict(name="$(touch pwned)"), "name: "), (dict(name=""), "has no `name`"), (dict(title=3), "title: 3 is not allowed"),
    (dict(variants={"a b": dict(system="usgan")}, ablations={}), "variants.a b"), (dict(variants={"x": dict(blocks=1)}, ablations={}), "variants.x: its `system` is missing"),
    (dict(variants={"x": dict(system="usgna")}, ablations={}), "system 'usgna' is not known; choose one of: usgan"), (dict(variants={"x": dict(system="usgan", blok=1)}, ablations={}), "key 'blok' is not known"),
    (dict(variants={"x": dict(system="usgan", l_cyc=-1)}, ablations={}), "variants.x: l_cyc"), (dict(variants={"x": dict(system="usgan", title="T")}, ablations={}), "key 'title' is not known"),
    (dict(variants={"x": dict(system="usgan", blocks=[1])}, ablations={}), "variants.x.blocks: [1] is not allowed"), (dict(variants=["usgan"]), "variants: ['usgan'] is not allowed"),
    (dict(train=dict(stepz=5)), "train: key 'stepz' is not known"), (dict(train=dict(steps=0)), "steps=0 is not allowed"), (dict(train=dict(steps=1.5)), "steps=1.5 is not allowed"), (dict(train=dict(lr=0)), "lr="),
    (dict(data=dict(dataset="kdeff")), "data set 'kdeff' is not known"), (dict(data=dict(dataset="kdef")), "data.folder: nothing is said"), (dict(data=dict(dataset="rendered", sizes=3)), "key 'sizes' is not known"),
    (dict(data=dict(dataset="rendered", limit=0)), "data.limit: 0 is not allowed"), (dict(data=dict(dataset="rendered", crop="round")), "data.crop: 'round'"), (dict(data=[]), "data: [] is not allowed"),
    (dict(data=dict(dataset="london", folder="x", units=True)), "data.units: london holds no pictures of single action units"), (dict(data=dict(dataset="rendered", units=1)), "data.units: 1 is not allowed"), (dict(data=dict(dataset="rendered", aus="no.csv")), "data.aus: 'no.csv' is not there"),
    (dict(ablations={"depth": [["usgan", "usgn"]]}), "ablations.depth: ['usgan', 'usgn'] is not known"), (dict(ablations={"dept": [["usgan", "usgan-6"]]}), "question 'dept' is not known"),
    (dict(ablations={"depth": [["usgan"]]}), "ablations.depth.0"), (dict(ablations={"10_block": [["usgan", "usgan-6"]]}), "question 'block' is about block, which is 'residual' on both sides"), (dict(views=["20_tabel"]), "'20_tabel' is not known"), (dict(views=["../../x"]), "views.0: '../../x' is not allowed"),
    (dict(views=["32_gallery"], pictures=False), "32_gallery shows faces"), (dict(views=["23_table_augment"]), "needs `augment`"), (dict(views=["25_table_units"]), "25_table_units needs `reader`"), (dict(views=["36_units"], data=dict(dataset="rendered", units=True)), "36_units needs `reader`"), (dict(reader=dict(seeds=[0])), "key 'seeds' is not known"),
    (dict(variants={"x": dict(system="usgan", start="y")}, ablations={}), "variants.x.start: variant 'y' is not known"),
    (dict(variants={"x": dict(system="usgan", start="y"), "y": dict(system="usgan", start="x")}, ablations={}), "x from y from x: none of them can be the first"), (dict(groups={}), "groups.trained is missing"),
    (dict(groups=dict(trained=["tiny", ""])), "size 'tiny' is not known"), (dict(groups=dict(mine=["toy", ""])), "groups.mine"), (dict(shipped=["nobody"], groups=PROFILE["groups"] | dict(shipped=["toy", ""])), "entry 'nobody' is not known"),
    (dict(evaluate=dict(trained="all")), "evaluate.trained: 'all' is not allowed"), (dict(evaluate=dict(trianed=3)), "key 'trianed' is not known"), (dict(judge=dict(settings=dict(epoch=1))), "field of JudgeSettings 'epoch' is not known"),
    (dict(judge=dict(settings=dict(epochs="ten"))), "judge.settings: epochs of a judge is 'ten'; allowed: int from 1 to 10000"), (dict(judge=dict(settings={}, seeds=0)), "judge.seeds: 0 is not allowed"), (dict(second=dict(settings=dict(arch="vgq"))), "second.settings"),
    (dict(seconds=dict(trian=3)), "seconds.trian"), (dict(inception="nowhere.pth"), "inception: 'nowhere.pth' is not there"), (dict(minutes=0), "minutes: 0 is not allowed"), (dict(pictures="no"), "pictures: 'no' is not allowed"),
]


@pytest.mark.parametrize("changes, says", WRONG, ids=[s for _, s in WRONG])
def test_a_wrong_profile(mine, changes, says): fails("study", "--profile", mine(**changes), "--dry-run", says=says)


@pytest.mark.parametrize("pair, says", [("train.stepz=5", "with --set, train: key 'stepz' is not known"), ("seeds=3", "seeds: 3 is not allowed"), ("seeds=[", "is not YAML"), ("seed=1", "setting 'seed' is not known"),
                                        ("name=other", "setting 'name' is not known"), ("train=5", "train: 5 is not allowed"), ("data.size.x=5", "data.size: {'x': 5} is not allowed"), ("variants.usgan.lr=-1", "variants.usgan: lr="),
                                        ("variants.../x.system=usgan", "is not allowed"), ("work=/tmp", "setting 'work' is not known"), ("evaluate.limit=3", "key 'limit' is not known"), ("train.=1", "key '' is not known")])
def test_a_wrong_setting(mine, pair, says): fails("study", "--profile", mine(), "--set", pair, "--dry-run", says=says)


SWEEPS = [("system,limit\nusgan,5\n", "line 2: column 'limit' is not known"), ("system,notes\nusgan,hello\n", "column 'notes' is not known"), ("system,l_cyc\nusgan,1$(touch pwned)\n", "'1$(touch pwned)' is not allowed"),
          ("system,l_cyc\nusgan,1;id\n", "'1;id' is not allowed"), ("system,l_cyc\nusgan,../x\n", "'../x' is not allowed"), ("system,l_cyc\nusgan,`id`\n", "is not allowed"), ("system,l_cyc\nusgan,{run}\n", "is not allowed"),
          ("system,l_cyc\nusgan,a b\n", "is not allowed"), ("system,l_cyc\nusgan,much\n", "l_cyc"), ("system,l_cyc\nusgan,nan\n", "l_cyc"), ("system,l_cyc\nusgna,1\n", "system 'usgna' is not known"), ("system,seed\nusgan,-1\n", "seed='-1'"),
          ("system,seed\nusgan,1e3\n", "seed='1e3'"), ("system,evaluate.limit\nusgan,0\n", "evaluate.limit='0'"), ("system,evaluate.strength\nusgan,1\n", "column 'evaluate.strength' is not known"), ("system,l_cyc\nusgan,1\nusgan,1.0\n", "the same run twice"),
          ("system,system\nusgan,usgan\n", "two columns have one name"), ("system,l_cyc\nusgan\n", "line 2: every run needs a value"), ("system\n", "it has no row"), ("", "missing"), ("\x00\x01", "no column"),
          ("system," + "l"*300 + "\nusgan,1\n", "is not known"), ("system,l_cyc\nusgan," + "1"*300 + "\n", "is not allowed")]


@pytest.mark.parametrize("text, says", SWEEPS, ids=[s for _, s in SWEEPS])
def test_a_wrong_sweep(mine, tmp_path, text, says):
    (tmp_path/"s.csv").write_text(text)
    fails("study", "--profile", mine(), "--sweep", tmp_path/"s.csv", "--dry-run", says=says)
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize("made", [lambda p: p.write_bytes("system\nusgan\n".encode("utf-16")), lambda p: p.write_bytes(bytes(range(256))), lambda p: p.mkdir(), lambda p: p.write_text('system\n"usgan\n')],
                         ids=["UTF-16", "binary", "a folder", "an open quote"])
def test_a_sweep_that_is_no_csv(tmp_path, made):
    made(tmp_path/"s.csv")
    with pytest.raises(FesganError): read_sweep(tmp_path/"s.csv")


def test_a_byte_order_mark_and_windows_lines_are_fine(tmp_path):
    (tmp_path/"s.csv").write_bytes(b"\xef\xbb\xbfsystem,l_cyc\r\nusgan,1\r\nusgan,3\r\n\r\n")
    assert check_sweep(tmp_path/"s.csv", PROFILE) == 2 and read_sweep(tmp_path/"s.csv")[1] == dict(system="usgan", l_cyc="3")


@pytest.mark.parametrize("path", sorted((ROOT/"profiles").glob("*.yaml")), ids=lambda p: p.stem)
def test_our_own_profiles(path):
    profile = read_profile(path)
    if profile["data"]["dataset"] != "rendered": profile["data"]["folder"] = "somewhere"
    check_values(profile, path, ROOT)
    assert path.read_text().startswith("# yaml-language-server: $schema=schema.json\n")
    assert checked(profile) == profile and len(study_runs(profile)) == len(profile["variants"])*len(profile["seeds"])


def test_the_schema_is_up_to_date():
    assert json.loads((ROOT/"profiles"/"schema.json").read_text()) == json.loads(json.dumps(schema())), \
        "python -c 'from fesgan.app.profiles import write_schema; write_schema()'"


def test_the_schema_and_its_modules_agree():
    assert set(profiles.Data.model_json_schema()["properties"]["crop"]["enum"]) == set(CROPS)
    assert profiles.SIZES == tuple(SIZES)


def test_names_with_dots(mine, tmp_path):
    path = mine(name="holiday.2024", variants={"usgan.2": dict(system="usgan")}, ablations={})
    assert list(study_runs(read_profile(path))) == ["trained/usgan.2/seed0"]
