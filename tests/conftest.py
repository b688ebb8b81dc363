"The order of the tests: what takes longest comes first, so that the workers of `pytest -n` end together."
from pathlib import Path

LONGEST_FIRST = ("test_study", "test_variants", "test_slurm", "test_trainer", "test_cli", "test_notebooks", "test_wheel", "test_demo_safety", "test_graph",
                 "test_hostile_edit", "test_colour", "test_adopt", "test_edit", "test_measures", "test_face_api", "test_publish", "test_stops")


def pytest_collection_modifyitems(items):
    rank = {name: n for n, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(Path(item.fspath).stem, len(rank)))                # stable: within a file, as written
