"Trainings give what they gave before, and what the papers' equations say."
import json

import pytest

from histories import KEPT, RUNS, history, machine

KEPT = json.loads(KEPT.read_text())


@pytest.mark.parametrize("name", RUNS)
def test_history_is_the_old_one(name):
    "To the last digit where the numbers were made; another processor or PyTorch rounds otherwise, and Adam makes a millionth a hundredth in twelve updates."
    found, kept = history(name), KEPT["histories"][name]
    if machine() == KEPT["machine"]: assert found == kept
    assert found[0] == pytest.approx(kept[0], rel=1e-5, abs=1e-6)
    for a, b in zip(found, kept, strict=True): assert a == pytest.approx(b, rel=2e-2, abs=1e-4)
