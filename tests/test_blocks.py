"A block of one's own, exactly as CONTRIBUTING.md has it: one class, one entry."
import re
from pathlib import Path

import pytest
import torch

from fesgan.models import generator
from fesgan.models.edit import edit_all
from fesgan.models.generator import BLOCKS, BlockKind, load_generator
from fesgan.training.systems import from_params, get_system, label
from fesgan.training.trainer import read_params, train
from histories import people

PAGE = (Path(__file__).parents[1]/"CONTRIBUTING.md").read_text()


@pytest.fixture
def squeezed(monkeypatch):
    "The page's two pieces of code, carried out."
    there = PAGE[PAGE.index("**A block**"):PAGE.index("**A system**")]
    block, entry = re.findall(r"```python\n(.*?)```", there, re.DOTALL)
    names = dict(BlockKind=BlockKind)
    exec(block, names)
    for name, kind in eval("{" + entry + "}", names).items(): monkeypatch.setitem(BLOCKS, name, kind)


def test_a_block_of_ones_own(squeezed, tmp_path):
    system = get_system("usgan", block="se", width=4, critic_width=4, batch=4, n_critic=1)
    assert label(get_system("usgan", block="se")) == "US-GAN (SE block)"
    run = train(system, people(), tmp_path/"run", steps=2, log_every=1, device="cpu")
    G = load_generator(run/"generator.safetensors")
    assert type(G.body[0]).__name__ == "SEBlock" and from_params(read_params(run)).block == "se"
    faces = people().images[:2]
    assert edit_all(G, faces).shape == (2, 7, *faces.shape[1:])
    assert not torch.equal(edit_all(G, faces)[:, 0], faces)


def test_without_its_entry_nobody_knows_it():
    with pytest.raises(generator.FesganError, match="choose one of: residual, sarb"): get_system("usgan", block="se")
    assert "se" not in BLOCKS


@pytest.mark.parametrize("name", ["usgan", "ganimation"])
def test_no_block_at_all(name, tmp_path):
    "US-GAN's closing question: are residual blocks necessary at all?"
    system = get_system(name, blocks=0, width=4, critic_width=4, batch=4, n_critic=1, condition="label")
    assert "0 blocks" in label(system)
    G = load_generator(train(system, people(), tmp_path/"run", steps=2, log_every=1, device="cpu")/"generator.safetensors")
    assert len(G.body) == 0 and edit_all(G, people().images[:1]).shape[1] == 7
