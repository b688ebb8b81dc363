"""Several judges, judges that ship, and files that are no judges."""
import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from fesgan.data.faceset import load_faces
from fesgan.data.catalog import read_catalog
from fesgan.data.prepared import prepare_faces
from fesgan.evaluation import expression
from fesgan.evaluation.expression import (Judge, JudgeSettings, find_judge, judge_key, judge_network, judge_settings, load_judge, load_judges,
                                          obtain_judge, save_judge, train_judge)
from fesgan.evaluation.unit_reader import obtain_unit_reader
from fesgan.evaluation.recognition import Recognition, against, agreement, load_recognition, own_judges, recognised, save_recognition
from fesgan.files import FesganError, project, shipped

TINY = dict(arch="vgg", width=4, image_size=16, epochs=1)


def some_faces(n=28, seed=0):
    rng = np.random.default_rng(seed)
    return SimpleNamespace(images=torch.from_numpy(rng.integers(0, 256, (n, 3, 16, 16), dtype=np.uint8)), labels=torch.arange(n) % 7)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FESGAN_CACHE", str(tmp_path/"cache"))
    return tmp_path/"cache"/"judges"


def a_judge(**settings):
    s = judge_settings(**{**TINY, **settings})
    return Judge(judge_network(s), s)


def test_a_judge_is_what_its_file_holds(tmp_path):
    faces = some_faces()
    judge = train_judge(faces, progress=False, **TINY)
    save_judge(judge, tmp_path/"judge.safetensors")
    again = load_judge(tmp_path/"judge.safetensors")
    assert (again.predict(faces.images)[1] == judge.predict(faces.images)[1]).all() and again.history == judge.history
    weights = sum(p.numel() for p in judge.net.parameters())
    assert (tmp_path/"judge.safetensors").stat().st_size < 3*weights  # two bytes each


def test_judges_of_older_runs_are_read(tmp_path):
    judge = a_judge()
    about = json.dumps(dict(settings=judge.settings.__dict__, classes=judge.classes))
    save_file({k: v.clone() for k, v in judge.net.state_dict().items()}, tmp_path/"judge.safetensors", {"judge": about})  # float32, no history
    again = load_judge(tmp_path/"judge.safetensors")
    images = some_faces().images
    assert np.allclose(again.predict(images)[1], judge.predict(images)[1]) and again.history == []


def test_all_judges_of_a_folder(tmp_path):
    for name in ("second-1", "judge-10", "judge", "second", "judge-2", "stranger"): save_judge(a_judge(), tmp_path/f"{name}.safetensors")
    assert list(load_judges(tmp_path)) == ["judge", "judge-2", "judge-10", "second", "second-1"]
    assert own_judges([*load_judges(tmp_path), "face-api", "fer"]) == list(load_judges(tmp_path))


def test_nothing_is_learnt_twice(cache, monkeypatch):
    faces = some_faces()
    first, key, origin = obtain_judge(faces, progress=False, **TINY)
    monkeypatch.setattr(expression, "train_judge", lambda *a, **k: pytest.fail("trained again"))
    again, same, later = obtain_judge(faces, progress=False, **TINY)
    assert (origin, later, key) == ("trained", "cached", same) and (cache/f"{key}.safetensors").is_file()
    assert (first.predict(faces.images)[1] == again.predict(faces.images)[1]).all()


@pytest.mark.parametrize("change", [dict(seed=1), dict(epochs=2), dict(precision="bf16-mixed"), dict(faces=some_faces(seed=1)), dict(faces=some_faces(27))])
def test_another_judge_has_another_key(change):
    plain = dict(faces=some_faces(), seed=0, **TINY)
    assert judge_key(**plain) == judge_key(**plain) != judge_key(**{**plain, **change})


def test_a_damaged_judge_in_the_cache_is_trained_again(cache, capsys):
    faces = some_faces()
    _, key, _ = obtain_judge(faces, progress=False, **TINY)
    (cache/f"{key}.safetensors").write_bytes(b"cut")
    assert find_judge(key) == (None, "trained") and key in capsys.readouterr().err
    assert obtain_judge(faces, progress=False, **TINY)[2] == "trained"


def about(**settings): return json.dumps(dict(settings={**TINY, **settings}, classes=list("abcdefg")))


DAMAGED = {
    "settings of a giant": lambda s: (s, about(width=10**9)),
    "half a channel": lambda s: (s, about(width=4.5)),
    "no channel": lambda s: (s, about(width=-1)),
    "size is no number": lambda s: (s, about(image_size=float("nan"))),
    "another width": lambda s: (s, about(width=512)),
    "a field nobody knows": lambda s: (s, about(depth=3)),
    "another network": lambda s: (s, about(arch="resnet18")),
    "no settings": lambda s: (s, "{}"),
    "no json": lambda s: (s, "{settings"),
    "classes are no list": lambda s: (s, json.dumps(dict(settings=TINY, classes=7))),
    "complex weights": lambda s: ({k: v.to(torch.complex64) if v.is_floating_point() else v for k, v in s.items()}, about()),
    "weights of NaN": lambda s: ({k: v*float("nan") if v.is_floating_point() else v for k, v in s.items()}, about()),
    "a weight too many": lambda s: (s | {"more": torch.zeros(1)}, about()),
    "a weight too few": lambda s: (dict(list(s.items())[1:]), about()),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_judges_are_refused(damage, tmp_path):
    state, meta = DAMAGED[damage]({k: v.clone() for k, v in a_judge().net.state_dict().items()})
    path = tmp_path/"judge.safetensors"
    save_file(state, path, {"judge": meta})
    with pytest.raises(FesganError, match="is not a judge"): load_judge(path)


@pytest.mark.parametrize("keep", [0, 4, 60, 3000])
def test_cut_judges_are_refused(keep, tmp_path):
    save_judge(a_judge(), tmp_path/"whole.safetensors")
    path = tmp_path/"judge.safetensors"
    path.write_bytes((tmp_path/"whole.safetensors").read_bytes()[:keep])
    with pytest.raises(FesganError, match="is not a judge"): load_judge(path)


def test_the_papers_judge_sees_224_pixels():
    assert judge_settings("paper").image_size == 224 and judge_settings("paper", image_size=64).image_size == 64 and JudgeSettings().image_size == 64


def read_by(shares, seed, n=60):
    "A system's edits as several judges read them: right with these probabilities."
    rng = np.random.default_rng(seed)
    labels, targets = rng.integers(0, 7, n), np.arange(7)
    edits = {j: np.where(rng.random((n, 7)) < s, targets, (targets+1) % 7) for j, s in shares.items()}
    return Recognition(np.arange(n), np.arange(n), labels, targets, dict.fromkeys(shares, labels), edits)


def test_the_spread_of_judges_is_inside_the_interval():
    ours, theirs = read_by({"judge": .75, "judge-1": .52, "second": .7}, 1), read_by({"judge": .58, "judge-1": .62, "second": .6}, 2)
    names = list(ours.real)
    each = {j: against([ours], [theirs], j) for j in names}
    together = against([ours], [theirs], names)
    assert each["judge"]["low"] > 0 and each["judge-1"]["high"] < 0 and together["low"] < 0 < together["high"]
    assert together["difference"] == pytest.approx(np.mean([d["difference"] for d in each.values()]))
    wide, narrow = recognised([ours], names), recognised([ours], "judge")
    assert wide["high"]-wide["low"] > narrow["high"]-narrow["low"] and wide["n"] == narrow["n"]
    assert not agreement(each).said


@pytest.mark.parametrize("shares,sign,jury", [
    ({"judge": .9, "second": .85}, 1, None), ({"judge": .9, "second": .85, "fer": .9, "face-api": .9}, 1, 1),
    ({"judge": .9, "second": .85, "fer": .2, "face-api": .2}, 1, -1), ({"judge": .9, "second": .2}, 0, None),
    ({"judge": .9, "second": .85, "fer": .9, "face-api": .55}, 1, 0), ({"judge": .9}, 0, None)])
def test_a_sentence_only_where_all_judges_agree(shares, sign, jury):
    ours, theirs = read_by(shares, 3), read_by(dict.fromkeys(shares, .55), 4)
    found = agreement({j: against([ours], [theirs], j) for j in shares})
    assert (found.sign, found.jury, found.said) == (sign, jury, sign != 0)


def test_what_was_read_is_kept_under_every_name(tmp_path):
    found = read_by({"judge": .9, "judge-1": .8, "second-1": .7, "face-api": .3}, 5)
    save_recognition(found, tmp_path/"recognition.npz")
    again = load_recognition(tmp_path/"recognition.npz")
    assert list(again.edits) == list(found.edits) and all((again.edits[j] == found.edits[j]).all() for j in found.edits)
    np.savez(tmp_path/"old.npz", **{"rows": [0], "people": [0], "labels": [3], "targets": [3, 4], "real.judge": [3], "real.second": [3],
                                    "edits.judge": [[3, 4]], "edits.second": [[3, 3]]})
    assert list(load_recognition(tmp_path/"old.npz").real) == ["judge", "second"]


@pytest.mark.parametrize("name", ["demo", "small"])
def test_the_judges_of_a_profile_ship(name, tmp_path):
    profile = yaml.safe_load(project(f"profiles/{name}.yaml").read_text())
    faces = prepare_faces(read_catalog("rendered"), tmp_path/"faces", size=profile["data"]["size"], crop=profile["data"]["crop"])
    test, reads = load_faces(faces, "test"), []
    for key in profile["judge"]["keys"] + profile["second"]["keys"]:
        judge, _, origin = obtain_judge(test, asked=key)
        facts = json.loads(shipped("judges", f"{key}.json").read_text())
        read = judge.predict(test.images)[0]
        assert origin == "shipped" and judge.accuracy(test.images, test.labels) == facts["accuracy"] > .95
        assert facts["key"] == key and facts["n_train"] == 2310
        reads.append(read)
    assert len(reads) == 5 and all((a != b).any() for a, b in itertools.combinations(reads, 2))
    reader, _, origin = obtain_unit_reader(test, asked=profile["reader"]["key"])
    assert origin == "shipped" and np.isfinite(reader.read(test.images[:4])).any()
