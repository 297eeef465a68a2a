"""TPC-H data as Parquet files, generated once per scale and kept."""

import shutil
import subprocess
import sys
from pathlib import Path

DATA = Path(__file__).parent.parent / "data"
TABLES = ("lineitem", "orders", "customer", "part", "partsupp", "supplier", "nation", "region")


def tpch(scale: str) -> Path:
    """Return the folder with `<table>.parquet` of TPC-H at `scale` ("0.1"), making it if
    missing.
    """
    folder = DATA / f"tpch-sf{scale}"
    if all((folder / f"{table}.parquet").exists() for table in TABLES):
        return folder
    print(f"Generating TPC-H data at scale {scale} (kept in {folder.name}) ...", flush=True)
    unfinished = folder.with_suffix(".partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    command = [str(Path(sys.executable).parent / "tpchgen-cli"), "parquet", "-s", scale]
    command += [f"--tables={','.join(TABLES)}", f"--output-dir={unfinished}", "--quiet"]
    subprocess.run(command, check=True)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    return folder
