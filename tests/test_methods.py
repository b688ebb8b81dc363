"""The page that compares the two ways to edit photographs, on one rendered person."""
import json

import pandas as pd

from runs import run_page


def test_both_methods_are_read_by_strangers(tmp_path):
    run_page("06_methods", tmp_path, people=1, out=tmp_path/"out")
    for name in ("jury", "jury_grey"):
        table = pd.read_csv(tmp_path/"out"/f"{name}.csv")
        assert set(table.method) == {"unchanged", "network", "transfer", "transfer, varied", "true face"} and set(table["read by"]) == {"the jury", "face-api", "fer"}
        assert (table.n == 6).all() and set(table.faces) == {"rendered"}
    assert set(pd.read_csv(tmp_path/"out"/"identity.csv").method) >= {"network", "transfer", "true face"}
    assert all((tmp_path/"out"/f"{name}.jpg").is_file() for name in ("sheet_network", "sheet_transfer", "sheet_varied", "sheet_calm", "zoom_mouth", "zoom_eyes"))
    assert set(pd.read_csv(tmp_path/"out"/"calm.csv").method) == {"unchanged", "network", "transfer", "true face"}
    assert set(pd.read_csv(tmp_path/"out"/"from_smile.csv").method) == {"unchanged", "network", "transfer"}
    sentence, = json.loads((tmp_path/"out"/"measurements.json").read_text())["sentences"]
    assert "(n = 6, 1 people)" in sentence
