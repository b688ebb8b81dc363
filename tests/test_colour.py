"""Recolouring: grey and flat faces, one face alone, wrong values, and a run that is interrupted."""
from functools import partial

import pandas as pd
import pytest
import torch
import yaml

from fesgan.data.batches import Batches
from fesgan.data.faceset import FaceSet, to_float
from fesgan.data.colour import METHODS, linear_transport, moments, recolour, transfer_colours
from fesgan.files import FesganError
from fesgan.training.systems import from_params, get_system, label
from fesgan.training.trainer import train
from runs import STEPS, same, terms, train_and_kill


def faces(n=24, size=32):
    "Faces with colours of their own: each has another mean and another spread."
    rng = torch.Generator().manual_seed(0)
    mean, spread = torch.randint(60, 190, (n, 3, 1, 1), generator=rng), torch.randint(5, 40, (n, 3, 1, 1), generator=rng)
    images = (mean + spread*torch.randn(n, 3, size, size, generator=rng)).clamp(0, 255).to(torch.uint8)
    return FaceSet(images, torch.arange(n) % 7, pd.DataFrame({"subject": [str(i) for i in range(n)]}), "test")


def toy(**fields): return get_system("sargan", width=8, critic_width=8, batch=4, **{"recolour": 0.5, **fields})
def stream(p, f=None, seed=0): return Batches(f or faces(), 4, seed=seed, augment=partial(recolour, p=p))


# ---- the transfer

@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("a,b", [("grey", "colour"), ("colour", "grey"), ("flat", "colour"), ("colour", "flat"), ("flat", "grey"), ("black", "white"), ("red", "colour")])
def test_faces_without_a_spread_of_colours(method, a, b):
    colour = faces(3).images
    kinds = dict(colour=colour, grey=colour[:, :1].expand(-1, 3, -1, -1), flat=torch.full_like(colour, 77), black=torch.zeros_like(colour),
                 white=torch.full_like(colour, 255), red=colour*torch.tensor([1, 0, 0], dtype=torch.uint8)[:, None, None])
    x, to = to_float(kinds[a]), to_float(kinds[b])
    y = transfer_colours(x, to, method=method)
    assert torch.isfinite(y).all() and y.abs().max() <= 1
    near = 0.02 if method == "linear" else 0.2
    assert (y.mean((2, 3)) - to.mean((2, 3))).abs().max() < near, "the mean colour is not the target's"
    if a == "flat": assert y.flatten(2).std(2).max() < 1e-5, "a flat face got a pattern"


def test_noise_below_a_grey_level_is_not_stretched():
    rng = torch.Generator().manual_seed(0)
    quiet = 0.001*torch.randn(1, 3, 900, generator=rng)
    assert linear_transport(quiet, torch.randn(1, 3, 900, generator=rng)).std() < 0.2


def test_the_full_covariance_is_met():
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.randn(4, 3, 3, generator=rng)*0.3@torch.randn(4, 3, 2000, generator=rng) for _ in range(2))
    for got, wanted in zip(moments(linear_transport(a, b)), moments(b)): assert torch.allclose(got, wanted, atol=0.02)


@pytest.mark.parametrize("method", METHODS)
def test_sizes_need_not_agree_and_one_face_is_enough(method):
    x, to = faces(1).images, faces(1, 20).images
    y = transfer_colours(x, to, method=method)
    assert (y.dtype, y.shape) == (torch.uint8, x.shape)
    assert torch.equal(transfer_colours(x, x, method=method), x)


def test_each_face_has_its_own_target():
    x, to = faces(6).images[:3], faces(6).images[3:]
    alone = torch.cat([transfer_colours(x[i:i+1], to[i:i+1]) for i in range(3)])
    assert (transfer_colours(x, to).int() - alone.int()).abs().max() <= 1


def test_wrong_values():
    x = faces(2).images
    with pytest.raises(FesganError, match="2 pictures and 1 to take colours from"): transfer_colours(x, x[:1])
    with pytest.raises(FesganError, match="strength=-0.1 is not a number from 0 to 1"): transfer_colours(x, x, -0.1)
    with pytest.raises(FesganError, match="choose one of: linear, sliced"): transfer_colours(x, x, method="histogan")


# ---- in batches

@pytest.mark.parametrize("p", [-0.1, 1.01, float("nan"), "2"])
def test_probability_outside_0_and_1(p):
    with pytest.raises(FesganError, match=r"recolour=(-0.1|1.01|nan|2.0) is not a number from 0 to 1"): get_system("sargan", recolour=p)


def test_the_share_of_faces_that_change():
    f = faces(100)
    x, rng = to_float(f.images), torch.Generator().manual_seed(0)
    for p, low, high in ((0.25, 10, 40), (1., 95, 100)): # a face may draw itself
        assert low <= int((recolour(x, f.images, rng, p) != x).flatten(1).any(1).sum()) <= high


def test_one_face_alone_keeps_its_colours():
    f = faces(1)
    x = to_float(f.images)
    assert (recolour(x, f.images, torch.Generator().manual_seed(0), 1.) - x).abs().max() < 1e-4


def test_off_is_the_same_stream():
    plain, off = Batches(faces(), 4), stream(0.)
    for _ in range(10): assert all(torch.equal(u, v) for u, v in zip(plain.next()[:3], off.next()[:3]))
    assert torch.equal(plain.rng.get_state(), off.rng.get_state())


def test_only_the_streams_generator_is_used():
    before = torch.get_rng_state()
    for method in METHODS: transfer_colours(faces(2).images, faces(2).images, method=method)
    a, b = stream(0.5), stream(0.5)
    for _ in range(5): assert torch.equal(a.next().x, b.next().x)
    saved = a.state_dict()
    ahead = a.next().x
    b.load_state_dict(saved)
    assert torch.equal(b.next().x, ahead)
    assert torch.equal(torch.get_rng_state(), before)


# ---- in runs

@pytest.fixture(scope="module")
def whole(tmp_path_factory): return train(toy(), faces(), tmp_path_factory.mktemp("run")/"whole", **STEPS)


def test_kill_in_the_middle_changes_nothing(whole, tmp_path):
    folder = tmp_path/"killed"
    train_and_kill("test_colour", folder)
    same(train(toy(), faces(), folder, **STEPS), whole)


def test_it_makes_a_difference_and_is_told(whole, tmp_path):
    short = dict(STEPS, steps=10)
    plain = train(toy(recolour=0), faces(), tmp_path/"plain", **short)
    assert terms(plain) != terms(whole)[:2]
    params = yaml.safe_load((whole/"params.yaml").read_text())
    assert params["recolour"] == 0.5 and "recoloured 0.5" in params["label"]
    assert from_params(params).recolour == 0.5 and label(from_params(params)) == params["label"]
    with pytest.raises(FesganError, match="holds another run: .*recolour is 0.5 there and 0.0 here"): train(toy(recolour=0), faces(), whole, **STEPS)


def test_a_run_from_before_the_field_existed_is_one_without_it(tmp_path):
    folder = train(toy(recolour=0), faces(), tmp_path/"run", **STEPS | dict(steps=10))
    path = folder/"params.yaml"
    params = yaml.safe_load(path.read_text())
    assert params.pop("recolour") == 0 and from_params(params).recolour == 0
    path.write_text(yaml.safe_dump(params))
    made = (folder/"generator.safetensors").stat().st_mtime_ns
    train(toy(recolour=0), faces(), folder, **STEPS | dict(steps=10), replace=True)
    assert (folder/"generator.safetensors").stat().st_mtime_ns == made, "a finished run was thrown away"
    with pytest.raises(FesganError, match="recolour is 0.0 there and 0.5 here"): train(toy(), faces(), folder, **STEPS | dict(steps=10))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    f = faces().to("cuda")
    a, b = stream(0.5, f), stream(0.5, f)
    for _ in range(3):
        x = a.next().x
        assert x.is_cuda and torch.equal(x, b.next().x)
    for method in METHODS:
        there, here = (transfer_colours(v[:3], v[3:6], method=method).cpu().int() for v in (f.images, f.images.cpu()))
        assert (there-here).abs().max() <= 1
