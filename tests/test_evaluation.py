"Failure modes of the evaluation room."
import warnings
from types import SimpleNamespace

import numpy as np, pytest, torch

from fesgan.evaluation import colour, expression, identity, realism, statistics
from fesgan.files import FesganError


@pytest.fixture
def noise(): return np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)


def test_no_face_in_noise_is_nan_and_counted(noise):
    e = identity.encode(noise, progress=False)
    assert e.shape == (3, 128) and np.isnan(e).all()
    somebody = np.random.default_rng(1).normal(size=(3, 128))
    table = identity.compare_identity(somebody, e)
    assert table.distance.isna().all() and table.fvs.isna().all() and not table.verified.any()
    assert identity.identity_shares(table) == dict(n=3, no_face=1., no_input_face=0., verified=0.)
    assert np.isnan(identity.acd(somebody, e))
    assert statistics.summary(table.distance)["missing"] == 3


def test_the_averages_do_not_hide_lost_faces():
    a = np.zeros((4, 128)); b = a.copy(); b[:, 0] = .3; b[3] = np.nan
    table = identity.compare_identity(a, b)
    assert identity.acd(a, b) == pytest.approx(.3) and identity.acd(a, b, squared=True) == pytest.approx(.09)
    assert identity.identity_shares(table)["verified"] == .75
    s = statistics.summary(table.fvs)
    assert (s["n"], s["missing"]) == (3, 1)


def test_identical_images_have_distance_zero(noise):
    for kind in colour.DISTANCES: assert colour.histogram_distance(noise, noise, kind) == pytest.approx(np.zeros(3), abs=1e-6)
    assert (realism.psnr(noise, noise) == 100).all() and realism.ssim(noise, noise) == pytest.approx(np.ones(3))
    e = np.random.default_rng(1).normal(size=(3, 128))
    assert (identity.face_distance(e, e) == 0).all() and (identity.fvs(identity.face_distance(e, e)) == 100).all()


def test_both_orders_of_axes_mean_the_same(noise):
    nchw = torch.from_numpy(noise).permute(0, 3, 1, 2)
    assert (colour.histograms(noise) == colour.histograms(nchw)).all()
    assert realism.psnr(noise, nchw) == pytest.approx(np.full(3, 100.))


@pytest.mark.parametrize("bad", [np.zeros((2, 8, 8, 3)), np.zeros((8, 8, 3), np.uint8), np.zeros((2, 8, 8, 4), np.uint8)])
def test_images_of_another_form_are_refused(bad):
    with pytest.raises(FesganError, match="allowed: uint8"): identity.as_images(bad)


def test_fid_without_weights_says_so_and_does_nothing(noise, tmp_path, monkeypatch):
    monkeypatch.setenv("FESGAN_CACHE", str(tmp_path)); monkeypatch.delenv("FESGAN_WEIGHTS", raising=False)
    monkeypatch.setattr(realism, "_inception", lambda path: pytest.fail("Inception was built"))
    with pytest.raises(FesganError, match="inception-fid: no file .*Download https"): realism.fid(noise, noise, download=False)
    (tmp_path/"wrong.pth").write_bytes(b"not weights")
    with pytest.raises(FesganError, match="SHA-256"): realism.fid(noise, noise, weights_path=tmp_path/"wrong.pth")


def test_a_pickle_that_is_more_than_weights_is_not_opened(tmp_path):
    import pickle
    class Evil:
        def __reduce__(self): return (open, (str(tmp_path/"touched"), "w"))
    (tmp_path/"evil.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(FesganError, match="more than weights"): realism._inception(tmp_path/"evil.pth")
    assert not (tmp_path/"touched").exists()


def test_fid_feeds_all_images_on_the_right_side(noise, monkeypatch):
    class Recorder:
        def __init__(self): self.seen = {True: 0, False: 0}
        def set_dtype(self, d): return self
        def to(self, d): return self
        def update(self, x, real):
            assert x.dtype == torch.uint8 and x.shape[1] == 3
            self.seen[real] += len(x)
        def compute(self): return torch.tensor(self.seen[True]*100+self.seen[False])
    monkeypatch.setattr(realism, "weights", lambda *a: "x"); monkeypatch.setattr(realism, "_inception", lambda path: Recorder())
    assert realism.fid(noise, np.concatenate([noise, noise]), batch_size=2) == 306


def test_frechet_distance_with_fewer_images_than_dimensions_warns_and_stays_finite():
    x = np.random.default_rng(0).normal(size=(2, 10, 64))
    with pytest.warns(UserWarning, match="biased upwards"): d = realism.frechet_distance(*x)
    assert np.isfinite(d) and d > 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert realism.frechet_distance(x[0], x[0], warn=False) < 1e-9
    with pytest.raises(FesganError, match="at least two"): realism.frechet_distance(x[0][:1], x[1])


def test_bootstrap_resamples_subjects_not_edits():
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(15), 7); v = rng.normal(size=15)[who]  # all edits of a subject equal: 15 values, not 105
    by_subject,by_edit,alone = statistics.summary(v, who),statistics.summary(v),statistics.summary(v[::7])
    width = lambda s: s["high"]-s["low"]
    assert width(by_subject) > 2*width(by_edit)
    assert width(by_subject) == pytest.approx(width(alone), rel=1e-9)


def test_groups_of_unequal_size_weigh_by_their_edits():
    s = statistics.summary([1, 1, 1, 5], ["a", "a", "a", "b"])
    assert s["mean"] == 2 and (s["low"], s["high"]) == (1, 5) and s["groups"] == 2


def test_missing_values_are_dropped_with_their_group():
    s = statistics.summary([1., 2., np.nan, np.nan], ["a", "b", "c", "c"])
    assert (s["mean"], s["n"], s["groups"], s["missing"]) == (1.5, 2, 2, 2)
    p = statistics.paired([1, np.nan, 2], [0, 1, np.nan], ["a", "b", "c"])
    assert (p["n"], p["groups"], p["missing"]) == (1, 1, 2) and np.isnan(p["low"]) and p["p"] == 1
    with pytest.raises(FesganError, match="infinite"): statistics.summary([1, np.inf])


def test_nothing_at_all_gives_nan_not_an_exception():
    s = statistics.summary([])
    assert s["n"] == 0 and np.isnan(s["mean"]) and np.isnan(s["low"])
    assert realism.ssim(np.zeros((0, 16, 16, 3), np.uint8), np.zeros((0, 16, 16, 3), np.uint8)).shape == (0,)


@pytest.fixture(scope="module")
def judged():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 60, (28, 3, 32, 32), dtype=np.uint8); labels = np.arange(28)%7
    for im,l in zip(images, labels): im[:, 4*l:4*l+4] = 250  # the height of a bright bar is the class
    faces = SimpleNamespace(images=torch.from_numpy(images), labels=torch.from_numpy(labels))
    settings = dict(epochs=12, image_size=32, flip=False, shift=0, batch_size=14, progress=False)
    return faces,settings,expression.train_judge(faces, seed=1, **settings)


def test_judge_learns_and_keeps_its_predictions_on_disk(judged, tmp_path):
    faces,_,judge = judged
    assert judge.accuracy(faces.images, faces.labels) > .5
    expression.save_judge(judge, tmp_path/"judge.safetensors")
    again = expression.load_judge(tmp_path/"judge.safetensors")
    for a,b in zip(judge.predict(faces.images), again.predict(faces.images)): assert (a == b).all()
    assert again.settings == judge.settings and [p.name for p in tmp_path.iterdir()] == ["judge.safetensors"]


def test_judge_does_not_depend_on_its_company(judged):
    faces,_,judge = judged
    assert judge.predict(faces.images[:1])[1] == pytest.approx(judge.predict(faces.images)[1][:1], abs=1e-5)  # evaluation mode


def test_judge_is_repeatable_and_seeded(judged):
    faces,settings,_ = judged
    p = [expression.train_judge(faces, seed=s, **{**settings, "epochs": 1}).predict(faces.images)[1] for s in (1, 1, 2)]
    assert (p[0] == p[1]).all() and not np.allclose(p[0], p[2])


def test_a_generator_is_not_a_judge(tmp_path):
    from safetensors.torch import save_file
    save_file({"x": torch.zeros(1)}, tmp_path/"other.safetensors", {"generator": "{}"})
    for name in ("other.safetensors", "none.safetensors"):
        with pytest.raises(FesganError, match="is not a judge"): expression.load_judge(tmp_path/name)
