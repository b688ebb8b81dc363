"""The StarGAN-variants study at toy size: from a zip laid out like FER2013 to its tables and figures, stopped in between."""
import json, signal, subprocess, time, zipfile
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from fesgan.data.faceset import load_faces
from fesgan.data.catalog import image_paths, read_catalog
from fesgan.data.prepared import prepare_faces
from fesgan.data.expressions import EXPRESSIONS
from fesgan.evaluation.recognition import load_recognition, load_reread, recognise
from fesgan.models.edit import edit_all
from fesgan.reporting.html import broken_links
from runs import study_command

ROOT = Path(__file__).parents[1]
FOLDERS = dict(afraid="fear", angry="angry", disgusted="disgust", happy="happy", neutral="neutral", sad="sad", surprised="surprise")
KEPT = ("stargan", "stargan-skip", "stargan-balanced")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    "Rendered faces, grey and small, under FER2013's names, and the profile for a CPU with everything made small."
    from PIL import Image
    folder = tmp_path_factory.mktemp("variants")
    catalog = read_catalog("rendered")
    catalog = catalog.assign(file=image_paths(catalog)).groupby(["split", "expression"]).head(6)
    with zipfile.ZipFile(folder/"fer2013.zip", "w") as z:
        for n, row in enumerate(catalog.itertuples()):
            face = folder/"face.jpg"
            Image.open(row.file).convert("L").resize((48, 48)).save(face)
            z.write(face, f"fer2013/{row.split}/{FOLDERS[row.expression]}/{'Training' if row.split == 'train' else 'PublicTest'}_{n}.jpg")
    profile = yaml.safe_load((ROOT/"profiles"/"fer2013-cpu.yaml").read_text())
    tiny = dict(epochs=2, width=4, image_size=32)
    profile["judge"]["settings"] |= tiny
    profile["second"]["settings"] |= tiny
    profile["augment"] |= dict(settings=dict(arch="vgg", width=4, image_size=32), epochs=1, limit=20)
    profile["variants"] = {k: v for k, v in profile["variants"].items() if k in KEPT}
    profile["train"] |= dict(width=4, critic_width=4, steps=20, log_every=5, sample_every=20, save_every=5)
    profile |= dict(name="toy", evaluate=dict(trained=2, sweep=2))
    profile["data"] |= dict(folder=str(folder/"fer2013.zip"))
    (folder/"toy.yaml").write_text(yaml.safe_dump(profile))
    return folder


@pytest.fixture(scope="module")
def done(work):
    run = subprocess.Popen(study_command(work), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list((work/"runs").rglob("checkpoint.pt")) and run.poll() is None: time.sleep(.1)
    run.send_signal(signal.SIGINT)                                             # stopped in the middle; the same command goes on
    assert run.wait(120) == 3
    run = subprocess.run(study_command(work), cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return work/"reports"/"toy"/"trained"


def test_tables(done):
    table = pd.read_csv(done/"tables"/"table_variants.csv")
    assert list(table.method[:3]) == ["unchanged", "true face", "StarGAN"]
    ours = table[table.seeds == "1"]
    assert len(ours) == len(KEPT) and ours["accuracy (%)"].str.contains(r"\[").all() and ours["each judge (%)"].str.contains(", ").all()
    augmented = pd.read_csv(done/"tables"/"table_augment.csv")
    augmented = augmented[augmented.seeds.astype(str) == "1"]
    assert len(augmented) == len(KEPT) and augmented["R (%)"].nunique() == 1
    assert set(pd.read_csv(done/"tables"/"ablation_balance_stargan_expressions.csv")["asked for"]) == set(FOLDERS)


def test_figures_and_pages(done):
    assert {p.stem for p in (done/"figures").iterdir()} == {"judges", "confusion", "losses", "rows"}
    assert broken_links(done/"index.html") == []
    front = (done.parent/"README.md").read_text()
    assert "Do the claims of the StarGAN-variants study hold here?" in front and "second" in front


def test_what_was_read_is_kept(done):
    read, again = load_recognition(done/"runs"/"stargan"/"seed0"/"recognition.npz"), load_reread(done/"runs"/"stargan"/"seed0"/"augmented.npz")
    assert read.edits["judge"].shape == (42, 7) and again.reads.shape == (1, 42)
    assert not [*done.rglob("shown.jpg")]                                      # of faces that may not be shown
    assert json.loads((done/"judges"/"judge.json").read_text())["settings"]["optimiser"] == "sgd"
    assert len(json.loads((done/"judges"/"second.json").read_text())["history"]) == 2


def test_no_face_of_the_data_set_is_published(done):
    assert {p.name for p in (done/"html").iterdir()} == {f"{n}.html" for n in ("13_balance", "22_table_variants", "23_table_augment", "24_rows")}


def test_two_data_sets_with_a_mask(work, tmp_path):
    faces = load_faces(prepare_faces(read_catalog("fer2013+rendered", work), tmp_path/"faces", size=32, crop="whole", limit=120), "test")
    assert set(faces.domains.tolist()) == {0, 1} and (faces.domains.numpy() == (faces.catalog.dataset == "rendered")).all()

    class Masked(torch.nn.Module):                                             # paints what the mask says
        config = dict(n_conditions=7, domains=2)
        def forward(self, x, c): return c[:, 8].view(-1, 1, 1, 1).expand_as(x)*2-1

    class Brightness:                                                          # reads a bright picture as happy, a dark one as afraid
        classes = EXPRESSIONS
        def predict(self, images): return 3*(images.float().mean((1, 2, 3)) > 128).numpy().astype(int), None

    read = recognise(Masked(), faces, dict(judge=Brightness()))
    assert (read.edits["judge"] == 3*faces.domains.numpy()[:, None]).all()     # each face in its own set
    rows = edit_all(Masked(), faces.images[:2])
    assert rows.shape[1] == 14 and (rows[:, :7] == 0).all() and (rows[:, 7:] == 255).all()
