"Snakemake finds its logger plugins by their names: snakemake --logger fesgan."
from fesgan.app.events import LogHandler

__all__ = ["LogHandler"]
