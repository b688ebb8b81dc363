"""The doctor names each sickness of a run, and no other; it says what it could not look at."""
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from fesgan.data.faceset import FaceSet
from fesgan.training.doctor import CHECKS, diagnose, diagnosis_lines
from fesgan.training.systems import as_params, get_system
from runs import fails, fesgan

ROOT, SIZE, LINES = Path(__file__).parents[1], 16, 40
HEALTHY = {"critic/real": (-2, -3), "critic/fake": (1, 2), "critic/cls": (1.9, .5), "critic/gp": (.1, .02),
           "generator/adv": (-1, -2), "generator/cls": (1.95, .6), "generator/cyc": (.4, .1)}


def sheet(change=40., own=1.):
    "Three faces; what their seven edits share and what each has for itself, in grey levels."
    rng = np.random.default_rng(0)
    faces = rng.integers(80, 176, (3, 1, SIZE, SIZE, 3)).astype(float)
    edits = faces + change*((1-own)*rng.normal(0, 1, (1, 1, SIZE, SIZE, 3)) + own*rng.normal(0, 1, (3, 7, SIZE, SIZE, 3)))
    cells = np.concatenate([faces, edits], 1).clip(0, 255).astype(np.uint8)
    return cells.swapaxes(1, 2).reshape(3*SIZE, 8*SIZE, 3)


def run_folder(folder, terms=None, samples=None, last=None, **params):
    "A run of 40,000 updates: each term goes in a line from its first to its second number."
    (folder/"samples").mkdir(parents=True)
    known = as_params(get_system("usgan", image_size=SIZE, width=4, critic_width=4))
    known |= dict(label="made", steps=1000*LINES, seed=0, faces=800, crop="whole", data_hash="a") | params
    (folder/"params.yaml").write_text(yaml.safe_dump(known))
    courses = {k: np.linspace(*ends, LINES).clip(-np.inf, 1 if k.endswith("mask") else np.inf) for k, ends in (HEALTHY | (terms or {})).items()}
    lines = [dict(step=1000*(i+1), **{k: float(v[i]) for k, v in courses.items()}) for i in range(LINES)][:last]
    (folder/"history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    Image.fromarray(sheet() if samples is None else samples).save(folder/"samples"/"040000.png")
    return folder


def faces(labels=range(7), crop="whole", data_hash="a", top=5.):
    n = len(labels)
    return FaceSet(torch.zeros(n, 3, SIZE, SIZE, dtype=torch.uint8), torch.tensor(list(labels)), pd.DataFrame(dict(subject=["a"]*n, dataset="rendered")),
                   data_hash, crop, aus=torch.linspace(0, top, 17).expand(n, 17).clone())


def sick(findings): return [k for k, f in findings.items() if f.state == "found"]


SICK = { # name: (what is made, what is found, a word of the remedy)
    "broken": (dict(terms={"critic/gp": (1, 400)}), ["numbers"], "lr below 0.0001"),
    "stopped": (dict(last=20), ["length"], "same command"),
    "short": (dict(faces=100_000), ["length"], "more --steps"),
    "unchanged": (dict(samples=sheet(change=.4)), ["change"], "l_cyc (now 10.0)"),
    "alike": (dict(samples=sheet(own=.02)), ["targets"], "does not get through"),
    "one label": (dict(samples=sheet(own=.02), terms={"critic/cls": (0, 0)}), ["targets"], "one folder for each expression"),
    "closed mask": (dict(terms={"generator/mask": (.5, 1.5)}, l_mask=.2), ["mask"], "larger l_mask (now 0.2)"),
    "open mask": (dict(terms={"generator/mask": (.0, .0)}, l_mask=.2), ["mask"], "smaller l_mask"),
    "closed, other sense": (dict(terms={"generator/mask": (.0, .0)}, l_mask=.2, mask_keeps="colour"), ["mask"], "smaller l_mask"),
    "critic ahead": (dict(terms={"critic/real": (-1, -20), "critic/fake": (1, -20), "generator/cls": (1.8, 1.8)}), ["critic"], "n_critic (now 5)"),
    "deaf": (dict(terms={"generator/cls": (1.95, 1.95)}), ["condition"], "Raise l_cls (now 1.0)"),
    "strange labels": (dict(terms={"generator/cls": (1.95, 1.95), "critic/cls": (1.95, 1.94)}), ["condition"], "labels do not fit"),
}


def test_a_healthy_run(tmp_path):
    found = diagnose(run_folder(tmp_path/"run"), faces())
    assert list(found) == list(CHECKS) and not sick(found)
    lines = diagnosis_lines(found)
    assert lines[0] == "Nothing found; 8 of 9 checks could look." and lines[-1].startswith("not looked at: mask")


@pytest.mark.parametrize("name", SICK)
def test_each_sickness_is_found_and_no_other(name, tmp_path):
    made, expected, word = SICK[name]
    found = diagnose(run_folder(tmp_path/"run", **made), faces())
    assert sick(found) == expected and word in found[expected[0]].remedy


@pytest.mark.parametrize("given,expected", [
    (faces(data_hash="b", crop="landmarks"), ["crop"]), (faces(data_hash="b"), []), (faces([3]*9), ["labels"]), (faces([3]*19+[1]), ["labels"])])
def test_faces_that_do_not_fit(given, expected, tmp_path):
    assert sick(diagnose(run_folder(tmp_path/"run"), given)) == expected


def test_action_units_from_zero_to_one(tmp_path):
    terms = {k.replace("cls", "aus"): v for k, v in HEALTHY.items() if k.endswith("cls")} | dict.fromkeys(("critic/cls", "generator/cls"), (1.9, .5))
    folder = run_folder(tmp_path/"run", terms=terms, condition="au")
    assert "multiply" in diagnose(folder, faces(top=.9))["labels"].remedy
    assert diagnose(folder, faces())["labels"].state == "fine"


def test_what_is_missing_is_not_called_healthy(tmp_path):
    folder = run_folder(tmp_path/"run")
    (folder/"history.jsonl").unlink()
    (folder/"samples"/"040000.png").unlink()
    found = diagnose(folder)
    assert {f.state for f in found.values()} == {"not looked at"}
    assert diagnosis_lines(found)[0] == "Nothing found; 0 of 9 checks could look."


def test_weights_that_are_no_numbers(tmp_path):
    from fesgan.models.generator import Generator, save_generator
    G = Generator(width=4)
    torch.nn.init.constant_(G.decode[-1].weight, float("nan"))
    folder = run_folder(tmp_path/"run")
    save_generator(G, folder/"generator.safetensors")
    assert sick(diagnose(folder)) == ["numbers"]


@pytest.mark.parametrize("run", sorted((ROOT/"reports").glob("*/trained/runs/*/seed0")), ids=lambda p: f"{p.parts[-5]}-{p.parts[-2]}")
def test_published_runs(run):
    "Nothing is wrong with their numbers, and no critic ran away."
    found = diagnose(run)
    assert not {"numbers", "critic"} & set(sick(found))


def test_the_command(tmp_path):
    folder = run_folder(tmp_path/"run", terms={"generator/mask": (.5, 1.5)}, l_mask=.2)
    code, out = fesgan("doctor", folder)
    assert code == 0 and out.startswith("mask: The mask has closed") and "not looked at: crop: no faces were given" in out
    fails("doctor", tmp_path, says="holds no run")
