"""GANimation's generator where others use generators: by label, on a batch of faces, at half precision, in training."""
import pytest
import torch

from fesgan.app.export import InPieces
from fesgan.files import FesganError
from fesgan.models.edit import conditions_of, edit_all, edit_faces
from fesgan.models.ganimation import GANimation
from fesgan.models.generator import load_generator, save_generator


def small(n=7, **fields):
    torch.manual_seed(0)
    G = GANimation(n, width=4, blocks=1, **fields)
    G.condition = "label" if n == 7 else "au"
    return G


def faces(n=3, size=16):
    return torch.randint(0, 256, (n, 3, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_edits_by_label_like_any_other_generator():
    G, images = small(), faces()
    edits = edit_all(G, images)
    assert conditions_of(G) == 7 and edits.shape == (3, 7, 3, 16, 16)
    assert torch.equal(edits[:, 3], edit_faces(G, images, 3))
    assert not torch.equal(edits[:, 3], edits[:, 5]) # the label matters


def test_edits_by_units_like_any_other_generator(tmp_path):
    G, images = small(17), faces()
    edits = edit_all(G, images)
    assert conditions_of(G) == 7 and not torch.equal(edits[:, 3], edits[:, 5])
    again = load_generator(save_generator(G, tmp_path/"G.safetensors"))
    assert type(again) is GANimation and again.condition == "au" and again.config == G.config
    assert torch.equal(edit_all(again, images), edits)


def test_a_closed_mask_returns_the_faces_to_the_last_bit():
    for keeps, logit in (("input", 1.), ("colour", -1.)):
        G, images = small(mask_keeps=keeps), faces()
        G.mask.register_forward_hook(lambda layer, inp, out, logit=logit: torch.full_like(out, 40*logit))
        assert torch.equal(edit_all(G, images)[:, 0], images)
        assert float(G.maps(torch.zeros(1, 3, 16, 16), torch.zeros(1, 7))["mask"].min()) == 1


@pytest.mark.parametrize("keeps", ["input", "colour"])
def test_every_weight_learns(keeps):
    G = small(17, mask_keeps=keeps)
    G(torch.rand(2, 3, 16, 16), torch.rand(2, 17)).square().mean().backward()
    still = [k for k, p in G.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still


def test_half_precision_does_not_close_the_mask():
    G = small()
    G.mask.register_forward_hook(lambda layer, inp, out: torch.full_like(out, 6.3)) # 0.9982
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16): mask = G.parts(torch.zeros(1, 3, 16, 16), torch.zeros(1, 7))[1]
    assert .9975 < float(mask.mean()) < .9985


def test_parts_for_large_photos_are_those_of_the_edit():
    G, x, c = small().eval(), torch.rand(1, 3, 16, 16), torch.eye(7)[:1]
    with torch.no_grad(): edited, change = InPieces(G)(x, c)  # pixels do not move
    assert torch.allclose(edited, x+change)


def test_wrong_input_is_explained():
    with pytest.raises(FesganError, match=r"must be \(2, 17\)"): small(17)(torch.zeros(2, 3, 16, 16), torch.zeros(2, 7))
    with pytest.raises(FesganError, match="choose one of: input, colour"): small(mask_keeps="both")
    with pytest.raises(FesganError, match="0 or more"): GANimation(blocks=-2)


def test_units_are_learnt_from_faces_without_an_expression_too(tmp_path):
    "Single units and mixtures have no expression's name; a system by label leaves them out."
    import numpy as np
    import yaml
    from fesgan.data.catalog import read_catalog
    from fesgan.data.prepared import prepare_faces
    from runs import fesgan
    catalog = read_catalog("rendered").iloc[:14].copy()
    catalog["split"] = "train"
    catalog.loc[catalog.index[::2], "expression"] = np.nan
    folder = prepare_faces(catalog, tmp_path/"faces", size=16, crop="whole")
    small = ["--steps", 2, "--device", "cpu", "--set", "width=4", "--set", "critic_width=4", "--set", "blocks=1"]
    learnt = {}
    for name in ("ganimation", "usgan"):
        code, out = fesgan("train", name, folder, "-o", tmp_path/name, *small)
        assert code == 0, out
        learnt[name] = yaml.safe_load((tmp_path/name/"params.yaml").read_text())["faces"]
    assert learnt == dict(ganimation=14, usgan=7)
