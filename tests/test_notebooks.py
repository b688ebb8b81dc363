"""The notebooks that readers open are run again, and must show what they show in the repository."""
from pathlib import Path

import pytest
from pytest_notebook.nb_regression import NBRegressionFixture

ROOT = Path(__file__).parents[1]
READ = ["index", "study/20_table_usgan", "study/21_table_sargan", "study/12_skip"]
IGNORED = ("/metadata/language_info", "/metadata/widgets", "/metadata/kernelspec", "/cells/*/execution_count", "/cells/*/outputs/*/execution_count", "/cells/*/outputs/*/data/image/png")
# Another processor may round the last digits otherwise: two digits behind the point must agree.
ROUNDED = (("/cells/*/outputs/*/data/text/plain", r"(\d\.\d\d)\d+", r"\1"), ("/cells/*/outputs/*/data/text/html", r"(\d\.\d\d)\d+", r"\1"),
           ("/cells/*/outputs/*/text", r"(\d\.\d\d)\d+", r"\1"))


@pytest.mark.parametrize("name", READ)
def test_outputs(name):
    check = NBRegressionFixture(exec_timeout=300, exec_cwd=str((ROOT/"nbs"/name).parent), diff_ignore=IGNORED, diff_replace=ROUNDED, diff_color_words=False)
    check.check(str(ROOT/"nbs"/f"{name}.ipynb"))
