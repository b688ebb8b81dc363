"""Makes the files beside it again: a reader, what MediaPipe says of the rendered faces, the map, and how both read the London photographs.

    fesgan render singly --people 84 --units 34
    python data/units/measure.py singly face_landmarker.task london/512
"""
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

from fesgan.data.faces import crop_face, read_image
from fesgan.data.units import UNITS
from fesgan.evaluation.blendshapes import BlendshapeReader, UnitMap, fit_units, load_unit_map, open_landmarker, read_folder, save_unit_map
from fesgan.evaluation.unit_reader import READER, load_unit_reader, save_unit_reader, train_unit_reader

HERE = Path(__file__).parent
SIDE = 64


def faces(folder, rows, size):
    "Rendered pictures as a reader is shown them."
    return np.stack([crop_face(read_image(folder/p), size, "whole").image for p in rows.path])


def units(rows): return rows[list(UNITS)].to_numpy(np.float32)


def train(folder, catalog, out):
    "Our own reader."
    rows = catalog[catalog.split == "train"]
    images = torch.from_numpy(faces(folder, rows, SIDE)).permute(0, 3, 1, 2).contiguous()
    learnt = SimpleNamespace(images=images, aus=torch.tensor(units(rows)))
    save_unit_reader(train_unit_reader(learnt, **READER), out)


def scores_of(folder, catalog, look, part=500):
    "What MediaPipe says, a part at a time."
    reader = BlendshapeReader(look, UnitMap(None, None))
    parts = [catalog[i:i+part] for i in range(0, len(catalog), part)]
    return np.concatenate([reader.scores(faces(folder, p, reader.size)) for p in parts])


def calm_and_smiling(readers, photos):
    "Means over people of what each reader says of calm and of smiling photographs, and how many people rise."
    columns = {}
    for name, reader in readers.items():
        table, lost = read_folder(photos, reader)
        print(f"{name}: {len(table)} photographs read, left out: {lost or 'none'}")
        parts = table.name.str.extract(r"(?P<kind>neutral|happy)/(?P<who>\d+)_")
        calm, smiling = (table[parts.kind == k].set_index(parts.who[parts.kind == k])[list(UNITS)] for k in ("neutral", "happy"))
        both = calm.index.intersection(smiling.index)
        columns[f"{name}, calm"], columns[f"{name}, smiling"] = calm.loc[both].mean(), smiling.loc[both].mean()
        columns[f"{name}, people who rise"] = (smiling.loc[both] > calm.loc[both]).mean()
        print(len(both), "people")
    return pd.DataFrame(columns, UNITS).rename_axis("unit")


def main(folder, network, photos):
    catalog = pd.read_csv(folder/"catalog.csv")
    if not (HERE/"reader.safetensors").is_file(): train(folder, catalog, HERE/"reader.safetensors")
    own = load_unit_reader(HERE/"reader.safetensors")
    with open_landmarker(network) as look: measure(folder, catalog, photos, own, look)


def measure(folder, catalog, photos, own, look):
    "All files but the reader."
    scores = scores_of(folder, catalog, look).astype(np.float16)
    test = (catalog.split == "test").to_numpy()
    read = own.read(faces(folder, catalog[test], SIDE)).astype(np.float16)
    np.savez_compressed(HERE/"readings.npz", scores=scores, own=read)
    learn = ~test & ~np.isnan(scores).any(1)
    save_unit_map(fit_units(scores[learn].astype(float), units(catalog)[learn].astype(float)), HERE/"blendshapes.json")
    readers = dict(MediaPipe=BlendshapeReader(look, load_unit_map(HERE/"blendshapes.json")), own=own)
    calm_and_smiling(readers, photos).round(3).to_csv(HERE/"london.csv")


if __name__ == "__main__": main(*map(Path, sys.argv[1:]))
