"""The jury: are the rebuilt networks those of their authors, and what do they read?"""
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from fesgan.data.catalog import read_catalog
from fesgan.data.expressions import EXPRESSIONS
from fesgan.evaluation.jury import JURY, load_juror, load_jury, own_judges
from fesgan.evaluation.recognition import recognise
from fesgan.files import FesganError, shipped


def pictures(files): return np.stack([np.array(Image.open(shipped("rendered", "images", f)).convert("RGB").resize((64, 64), Image.BOX)) for f in files])


@pytest.fixture(scope="module")
def jury(): return load_jury()


@pytest.mark.parametrize("name", JURY)
def test_probabilities_are_those_of_the_authors_frameworks(name, jury):
    kept = json.loads(shipped("judges", "jury", "expected.json").read_text())
    x = torch.from_numpy(pictures(kept["faces"])).permute(0, 3, 1, 2).float()
    with torch.no_grad(): p = jury[name].net(JURY[name][1](x, 1)).softmax(1).numpy()
    assert np.abs(p-np.array(kept[name])).max() < 1e-4 and kept["classes"] == list(EXPRESSIONS)


@pytest.mark.parametrize("name,least,most", [("face-api", .45, .65), ("fer", .35, .6)])
def test_what_the_jury_reads_of_true_faces(name, least, most, jury):
    people = sorted(read_catalog("rendered").query("split == 'test'").subject.unique())
    labels = np.tile(np.arange(7), len(people))
    images = pictures([f"{p}/{e}.jpg" for p in people for e in EXPRESSIONS])
    read, p = jury[name].predict(images, batch_size=50)
    assert p.shape == (len(people)*7, 7) and np.allclose(p.sum(1), 1, atol=1e-5)
    assert least < (read == labels).mean() < most                    # far above chance, far below our judges
    assert (read == labels)[labels == EXPRESSIONS.index("happy")].mean() > .75
    assert (jury[name].predict(images[:7].transpose(0, 3, 1, 2))[0] == read[:7]).all()


@pytest.mark.parametrize("damage", ["cut", "another's", "nan", "complex", "missing"])
def test_damaged_jurors_are_refused(damage, tmp_path):
    path, good = tmp_path/"fer.safetensors", shipped("judges", "jury", "fer.safetensors")
    state = load_file(good)
    if damage == "cut": path.write_bytes(good.read_bytes()[:9000])
    if damage == "another's": path = shipped("judges", "jury", "face-api.safetensors")
    if damage == "nan": save_file({k: v*float("nan") if v.is_floating_point() else v for k, v in state.items()}, path)
    if damage == "complex": save_file({k: v.to(torch.complex64) if v.is_floating_point() else v for k, v in state.items()}, path)
    with pytest.raises(FesganError, match="does not hold the weights of fer"): load_juror("fer", path=path)


def test_the_jury_is_no_judge_of_our_own():
    assert own_judges(["judge", *JURY, "second-1"]) == ["judge", "second-1"] and not own_judges(JURY)


def test_judges_and_jury_read_together(jury, tmp_path):
    from fesgan.data.faceset import load_faces
    from fesgan.data.prepared import prepare_faces
    from fesgan.evaluation.expression import Judge, judge_network, judge_settings
    from fesgan.models.generator import Generator
    faces = load_faces(prepare_faces(read_catalog("rendered"), tmp_path/"faces", size=32, crop="whole", limit=14))
    s = judge_settings(arch="vgg", width=4, image_size=16)
    found = recognise(Generator(width=4), faces, {"judge-1": Judge(judge_network(s), s), **jury})
    assert list(found.real) == list(found.edits) == ["judge-1", "face-api", "fer"] and found.edits["fer"].shape == (14, 7)
