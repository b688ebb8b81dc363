"The package alone, away from any clone: what the wheel holds and asks for, and that it works; and an editable installation beside its clone."
import email, os, shutil, subprocess, sys, zipfile
from pathlib import Path

import pytest
from PIL import Image, ImageChops

ROOT = Path(__file__).resolve().parents[1]
BUILT_FROM = ("fesgan", "data", "profiles", "reports/bench", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")


def run(*words, cwd, **env):
    "What a program prints; it must end well."
    clean = {k: v for k, v in os.environ.items() if k not in ("FESGAN_DATA", "FESGAN_REPOSITORY", "PYTHONPATH")}
    done = subprocess.run([str(w) for w in words], cwd=cwd, capture_output=True, text=True, env={**clean, "FESGAN_HEADLESS": "1", **env})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    "What a wheel is built from, in a folder of the package's own name, as `git clone` makes it."
    folder = tmp_path_factory.mktemp("home")/"fesgan"
    folder.mkdir()
    for name in BUILT_FROM:
        source, target = ROOT/name, folder/name
        target.parent.mkdir(exist_ok=True, parents=True)
        if source.is_dir(): shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else: shutil.copy(source, target)
    return folder


def build(kind, clone, out):
    "One of the build backend's hooks, in the clone: no network, no tool between."
    out.mkdir()
    run(sys.executable, "-c", f"from setuptools.build_meta import *; build_{kind}({str(out)!r})", cwd=clone)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def wheel(clone, tmp_path_factory): return build("wheel", clone, tmp_path_factory.mktemp("wheel")/"dist")


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    "The wheel alone, put before this environment's other packages."
    site = tmp_path_factory.mktemp("site")
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel, cwd=site)
    return site


@pytest.fixture
def fesgan(installed, tmp_path):
    "The console script, from a folder that has nothing to do with the project."
    def call(*words): return run(installed/"bin"/"fesgan", *words, cwd=tmp_path, PYTHONPATH=str(installed))
    return call


# ---- what it holds, and what it asks for

def test_what_ships_is_in_the_wheel(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    carried = {n.removeprefix("fesgan/_shipped/") for n in names if n.startswith("fesgan/_shipped/")}
    wanted = {str(p.relative_to(ROOT)) for part in ("data", "profiles", "reports/bench") for p in (ROOT/part).rglob("*") if p.is_file()}
    wanted = {n for n in wanted if not n.startswith("data/examples/") and "__pycache__" not in n}
    assert carried == wanted and {"data/models/photo.safetensors", "data/movement.npz", "profiles/demo.yaml"} <= carried
    assert wheel.stat().st_size < 60e6, "a package index takes 100 MB"


def test_pip_has_nothing_to_compile(wheel):
    "dlib comes built, and nothing asks for its source."
    z = zipfile.ZipFile(wheel)
    asked = email.message_from_bytes(z.read(next(n for n in z.namelist() if n.endswith("/METADATA")))).get_all("Requires-Dist")
    core = {a.split()[0].split(">")[0].split("=")[0].split("<")[0].lower().replace("_", "-") for a in asked if "extra ==" not in a}
    assert "dlib-bin" in core and "face-recognition-models" in core
    assert not core & {"dlib", "face-recognition"} # the second asks for the first


# ---- that it works

def test_the_wheel_is_what_runs(fesgan, installed, tmp_path):
    where = run(sys.executable, "-c", "import fesgan.files as f; print(f.__file__, f.project('data'))", cwd=tmp_path, PYTHONPATH=str(installed))
    assert all(str(installed) in path for path in where.split())


def test_lists(fesgan):
    assert "US-GAN: 1 x residual" in fesgan("systems")
    assert fesgan("models").count("file verified") == len(list((ROOT/"data"/"models").glob("*.safetensors")))


def test_a_photo_is_edited(fesgan, tmp_path):
    Image.open(ROOT/"data"/"rendered"/"images"/"person000"/"neutral.jpg").resize((300, 300)).save(tmp_path/"photo.png")
    fesgan("edit", "photo.png", "-o", "out.png")
    before, after = (Image.open(tmp_path/n).convert("RGB") for n in ("photo.png", "out.png"))
    assert before.size == after.size and ImageChops.difference(before, after).getbbox()


def test_rendered_faces_are_prepared(fesgan, tmp_path):
    fesgan("prepare", "rendered", "-o", "faces", "--size", 32, "--crop", "whole", "--limit", 14)
    assert (tmp_path/"faces"/"faces.npy").is_file()


def test_the_study_says_that_it_needs_a_clone(installed, tmp_path):
    with pytest.raises(AssertionError, match="clone it"): run(installed/"bin"/"fesgan", "study", cwd=tmp_path, PYTHONPATH=str(installed))


# ---- an editable installation, beside its clone

@pytest.fixture(scope="module")
def editable(clone, tmp_path_factory):
    "A folder of packages with the editable installation alone."
    site = tmp_path_factory.mktemp("editable")
    zipfile.ZipFile(build("editable", clone, site/"dist")).extractall(site)
    return site


@pytest.mark.parametrize("place", [".", "notes", "fesgan", "fesgan/data"])
def test_import_beside_the_clone(clone, editable, place):
    "A folder named `fesgan` in the working folder is no package; the installed one must be found all the same."
    here = clone.parent/place
    here.mkdir(exist_ok=True)
    code = f"import site; site.addsitedir({str(editable)!r}); import fesgan.files; print(fesgan.files.project('data'))"
    assert run(sys.executable, "-S", "-c", code, cwd=here).strip() == str(clone/"data")
