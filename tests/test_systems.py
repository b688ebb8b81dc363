"Fields of a system: what they may be, what they do, and how a label names them."
import math

import pytest
import torch

from fesgan.data.batches import Batches
from fesgan.files import FesganError
from fesgan.training.systems import FIELDS, SYSTEMS, Span, as_params, changed, from_params, get_system, label
from fesgan.training.trainer import State, launch, update
from histories import people

NUMBERS = [k for k, f in FIELDS.items() if f.type in (int, float)]


def another(name):
    "A value that the field of US-GAN does not have; both in range."
    f = FIELDS[name]
    if f.type is bool: return not f.default
    if f.type is str: return next(v for v in f.metadata["allowed"] if v not in (None, f.default))
    if f.metadata["allowed"].high == 1: return .25
    return {"image_size": 64}.get(name, (f.default or 3) + 1)


def test_every_changed_field_has_its_own_label():
    "Of US-GAN, where one field differs, or two, whatever is common to the others."
    usgan = SYSTEMS["usgan"]
    single = {k: changed(usgan, {k: another(k)}) for k in usgan.fields}
    systems = [usgan, *single.values(), *[changed(s, dict(l_cyc=3.)) for k, s in single.items() if k != "l_cyc"]]
    for common in (None, {}, dict(width=8, batch=4), {k: another(k) for k in ("blocks", "l_cyc", "lr", "flip")}):
        assert len({label(s, common) for s in systems}) == len(systems)


@pytest.mark.parametrize("fields,expected", [
    (dict(blocks=6, skip=False), "SARGAN (6 blocks, no skip)"), (dict(l_cyc=30), "SARGAN (l_cyc 30)"), (dict(l_cyc="1e-3"), "SARGAN (l_cyc 0.001)"),
    (dict(width=32, batch=16), "SARGAN (width 32, batch 16)"), (dict(final_relu=True, padding="zeros"), "SARGAN (zeros padding, with second ReLU)")])
def test_labels(fields, expected): assert label(get_system("sargan", **fields)) == expected


def test_a_label_leaves_out_what_all_variants_share():
    "The README's variant beside its baseline, in a profile of small networks."
    train = dict(image_size=32, width=8, critic_width=8, steps=100, log_every=10)
    fields = {k: v for k, v in train.items() if k in FIELDS}
    assert label(get_system("sargan", **fields), train) == "SARGAN"
    assert label(get_system("sargan", **fields, l_cyc=30), train) == "SARGAN (l_cyc 30)"
    assert label(get_system("sargan", **fields | dict(width=64)), train) == "SARGAN (width 64)"  # as published, but not as the others
    assert label(get_system("sargan", **fields), train, updates=200) == "SARGAN (200 updates)"


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -5, 1e400, "nan", "many", [1], True, 2**70, {}])
def test_numbers_out_of_range(name, value):
    span = FIELDS[name].metadata["allowed"]
    if value == 2**70 and span.high == math.inf: return
    owner = next(n for n, s in SYSTEMS.items() if name in s.fields)
    with pytest.raises(FesganError, match=f"{name}=.* is not a (whole )?number "): get_system(owner, **{name: value})


@pytest.mark.parametrize("fields,says", [
    (dict(decay_from=2), "decay_from=2.0 is not a number from 0 to 1"), (dict(beta1=2), "beta1=2.0 is not a number from 0 to 1 without 1"),
    (dict(lr=0), "lr=0.0 is not a number above 0"), (dict(blocks=1_000_000), "blocks=1000000 is not a whole number from 0 to 100"),
    (dict(blocks=1.5), "blocks=1.5 is not a whole number"), (dict(image_size=33), "33x33 pixels do not fit"), (dict(image_size=16, block="sarb"), "at least 20"),
    (dict(flip=2), "flip=2 is not true or false"), (dict(skip="no"), "choose one of: ultimate, none"), (dict(padding="circular"), "choose one of: None, zeros, reflect"),
    (dict(block="sarb", dropout="blocks"), "is for residual blocks"), (dict(moves=True, skip="none"), "moves the input"), (dict(moves=True, covers=True), "no weight of masks"), (dict(gp_step="never"), "together, alone"),
    *[({k: "x"}, f"field of usgan {k!r} is not known") for k in ("title", "citation", "phases", "name", "objective", "bloks")]])
def test_values_that_are_refused(fields, says):
    with pytest.raises(FesganError, match=says): get_system("usgan", **fields)


def test_a_condition_that_nobody_knows():
    with pytest.raises(FesganError, match="condition 'mood' is not known"): from_params(as_params(get_system("usgan")) | dict(condition="mood"))


def test_a_field_of_another_system():
    with pytest.raises(FesganError, match="field of usgan-paired 'l_gp' is not known"): get_system("usgan-paired", l_gp=3)


def test_params_of_every_system_come_back():
    for s in SYSTEMS.values(): assert from_params(as_params(s)) == s


def test_every_field_has_help_and_range():
    for k, f in FIELDS.items():
        assert len(f.metadata["help"]) > 10 and (f.type is bool or f.metadata["allowed"]), k
        if f.type in (int, float): assert isinstance(f.metadata["allowed"], Span)


def state(name, **fields): return State(get_system(name, **dict(width=4, critic_width=4, batch=4, n_critic=1) | fields), people(), launch("cpu"), steps=10)


def losses(state): return [{k: v.item() for k, v in update(state).items()} for _ in range(3)]


def test_penalty_has_a_step_of_its_own():
    "Twice as many steps of Adam; the first of them leaves the penalty out, and the terms before it are the same."
    one, two = state("stargan"), state("stargan", gp_step="alone")
    a, b = losses(one), losses(two)
    def steps(s): return {int(v["step"]) for v in s.optimizers["D",].state.values()}
    assert steps(one) == {3} and max(steps(two)) == 6
    assert a[0]["critic/cls"] == b[0]["critic/cls"] and a[0]["critic/gp"] != b[0]["critic/gp"]


def test_redrawn_fakes_are_new_noise_alone():
    plain, again = (losses(state("usgan", redraw=r)) for r in (False, True))
    assert plain == again                                                       # the generator has not changed
    with torch.random.fork_rng():
        torch.manual_seed(0); noisy = losses(state("stargan-skip-dropout"))
        torch.manual_seed(0); redrawn = losses(state("stargan-skip-dropout", redraw=True))
    assert noisy[0]["critic/fake"] == redrawn[0]["critic/fake"] and noisy[0]["generator/adv"] != redrawn[0]["generator/adv"]


@pytest.mark.parametrize("cross,other", [(True, .3), (False, 0)])
def test_targets_of_the_other_data_set(cross, other):
    batches = Batches(people(), 12, domains=2, cross=cross)
    drawn = [batches.next() for _ in range(20)]
    share = sum((b.label//7 != b.target//7).float().mean().item() for b in drawn)/20
    assert share > other if other else share == 0
    for b in drawn: assert sorted(b.label.tolist()) == sorted(b.target.tolist())  # labels change places


def test_padding_is_the_only_difference_of_a_block():
    "SARGAN with its gate open is US-GAN of the same padding."
    for padding in ("zeros", "reflect"):
        a, b = (get_system("usgan", block=block, padding=padding, width=4).generator() for block in ("residual", "sarb"))
        b.load_state_dict(a.state_dict(), strict=False)
        x, c = torch.rand(2, 3, 32, 32), torch.eye(7)[:2]
        with torch.no_grad():
            b.body[0].attention.head.bias.fill_(100.)
            assert torch.equal(a(x, c), b(x, c))


def test_published_schedules():
    "Updates on the papers' 2,312 training faces."
    assert [get_system(n).updates(2312) for n in ("usgan", "sargan", "stargan")] == [101_150, 115_600, 200_000]
    assert get_system("stargan", epochs=200).updates(2312) == 29_000
