"The one thing pyproject.toml cannot say: a wheel carries what ships, as a small repository inside the package."
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("data", "profiles", "reports/bench")  # found by fesgan.files.project


class BuildWithData(build_py):
    "Modules, and beside them what ships; an editable installation has the repository itself."
    def run(self):
        super().run()
        if self.editable_mode: return
        for name in SHIPPED:
            target = Path(self.build_lib, "fesgan", "_shipped", name)
            shutil.copytree(name, target, ignore=shutil.ignore_patterns("examples", "__pycache__"), dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithData})
