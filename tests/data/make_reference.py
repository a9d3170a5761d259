"""Make the reference files of the tests from a folder of R's results: ``python make_reference.py FOLDER [OUTPUT]``.

FOLDER holds one JSON and one CSV file a data set and ``published.json``; OUTPUT (default: the folder of this script)
gets ``reference/``, ``published.json``, ``known_values.json`` and ``residual_structures.json``. Kept are the models
fitted by lmer, with what `KEYS` lists; no number is rounded. CSV and JSON files of an earlier run in
``OUTPUT/reference`` are removed first.
"""

from __future__ import annotations

import csv
import gzip
import json
import sys
from pathlib import Path
from typing import Any

# fmt: off
KEYS = (
    "id", "formula", "reml", "weights", "n", "n_levels", "fixef", "dropped", "vcov", "theta", "sigma", "varcorr",
    "criterion", "logLik", "df", "AIC", "BIC", "singular", "ranef", "rows", "predict",
)
# fmt: on
PUBLISHED = ("hsb_", "pb_", "sw_", "imm", "hox", "edm", "nist_smls")
V_KNOWN = ("vknown_uncond", "vknown_weeks", "vknown_methods")
# The table of reference/ that a published entry was computed from, by the beginning of its id.
DATASETS = {
    "hsb_": "MathAchieve",
    "pb_rail": "Rail",
    "pb_orth": "Orthodont",
    "pb_oxide": "Oxide",
    "pb_stool": "ergoStool",
}
CSV_LIMIT, JSON_LIMIT = 100_000, 200_000  # bytes; larger files are compressed


def read_csv(path: Path) -> bytes:
    """Return the bytes of a CSV file, decompressed."""
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


def write(path: Path, data: bytes, limit: int) -> str:
    """Write `data`, compressed if longer than `limit`, and return the name of the file."""
    if len(data) > limit:
        path = path.with_name(path.name + ".gz")
        data = gzip.compress(data, mtime=0)
    path.write_bytes(data)
    return path.name


def compact(value: object) -> bytes:
    """Return JSON on one line; Python writes each float64 with the digits that give it back."""
    return (json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n").encode()


def column_types(columns: dict[str, Any]) -> dict[str, Any]:
    """Return type and number of levels; the levels themselves are the distinct texts of the column, in byte order."""
    return {name: {key: spec[key] for key in ("type", "n_levels") if key in spec} for name, spec in columns.items()}


def trim(result: dict[str, Any], folder: Path, output: Path) -> int:
    """Write the models of one data set and its tables; return how many there are."""
    table = read_csv(folder / result["csv"])
    if not result["models"]:
        return 0
    name = result["dataset"]
    kept = {
        "dataset": name,
        "source": result["source"],
        "csv": write(output / f"{name}.csv", table, CSV_LIMIT),
        "n_rows": result["n_rows"],
        "columns": column_types(result["columns"]),
    }
    if "join" in result:
        join = result["join"]
        second = Path(join["csv"]).name.removesuffix(".gz")
        kept["join"] = {
            "csv": write(output / second, read_csv(folder / join["csv"]), CSV_LIMIT),
            "by": join["by"],
            "columns": column_types(join["columns"]),
            "rule": join["rule"],
        }
    kept["versions"] = {package: result["versions"][package] for package in ("R", "lme4")}
    kept["models"] = [{key: model[key] for key in KEYS} for model in result["models"]]
    write(output / f"{name}.json", compact(kept), JSON_LIMIT)
    return len(kept["models"])


def published(source: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of hierarchical models printed in books and manuals, each with its citation."""
    entries = [dict(entry) for entry in source["entries"] if entry["id"].startswith(PUBLISHED)]
    for entry in entries:
        for start, dataset in DATASETS.items():
            if entry["id"].startswith(start):
                entry["dataset"] = dataset
    return {"title": source["title"], "conventions": source["conventions"], "entries": entries}


def known_values(folder: Path) -> dict[str, Any]:
    """Return nlme's models with a known level-1 variance, their tables, and V-known models printed in books."""
    source = json.loads((folder / "published.json").read_text(encoding="utf-8"))
    entries = {entry["id"]: entry for entry in source["entries"]}
    models, tables = [], {}
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        for model in result.get("nlme", []):
            level1 = model["level1"]
            if not level1["sigma_fixed"]:
                continue
            kept = {
                "dataset": path.stem,
                **{key: model[key] for key in ("id", "fixed", "random", "reml", "vcov", "criterion")},
            }
            kept |= {"sigma": level1["sigma_fixed"], "variance": level1["known_variance_column"]}
            kept |= {"fixef": model["fixef"]["values"], "T": model["T"]["covariance"], "ranef": model["ranef"]}
            models.append(kept)
            if level1["known_variance_column"]:
                rows = csv.DictReader(read_csv(folder / result["csv"]).decode().splitlines())
                tables[path.stem] = [
                    {k: v if result["columns"][k]["type"] == "factor" else float(v) for k, v in row.items()}
                    for row in rows
                ]
    return {
        "models": models,
        "tables": tables,
        "teacher_expectancy": source["data"]["teacher_expectancy"],
        "eight_schools": {key: entries["eight_schools_data"][key] for key in ("source", "data")},
        "published": {key: {k: entries[key][k] for k in ("source", "printed")} for key in V_KNOWN},
    }


def residual_structures(folder: Path) -> list[dict[str, Any]]:
    """Return nlme's models with residual variances by stratum or correlated residuals."""
    models = []
    for path in sorted(folder.glob("*.json")):
        for model in json.loads(path.read_text(encoding="utf-8")).get("nlme", []):
            level1 = model["level1"]
            if not (level1["stratum"] or level1["correlation"]):
                continue
            keys = ("id", "fixed", "random", "group", "reml", "vcov", "sigma", "sd_ratio", "rho", "criterion", "ranef")
            kept = {"dataset": path.stem, **{key: model[key] for key in keys}, "fixef": model["fixef"]["values"]}
            kept |= {"stratum": level1["stratum"], "correlation": level1["correlation"]}
            kept |= {"T": model["T"] and model["T"]["covariance"], "parameters": model["n_covariance_parameters"]}
            models.append(kept)
    return models


def main(folder: Path, output: Path) -> None:
    """Make all files anew."""
    reference = output / "reference"
    if reference.resolve() == folder.resolve():
        sys.exit("FOLDER is the folder that would be written to")
    reference.mkdir(parents=True, exist_ok=True)
    for pattern in ("*.csv", "*.json", "*.gz"):
        for old in reference.glob(pattern):
            old.unlink()
    total = 0
    for path in sorted(folder.glob("*.json")):
        if path.name == "published.json":
            continue
        count = trim(json.loads(path.read_text(encoding="utf-8")), folder, reference)
        print(f"{path.stem}: {count} models" if count else f"{path.stem}: left out")
        total += count
    print(f"{total} models")
    text = json.dumps(published(json.loads((folder / "published.json").read_text(encoding="utf-8"))), indent=1)
    (output / "published.json").write_text(text + "\n", encoding="utf-8")
    (output / "known_values.json").write_bytes(compact(known_values(folder)))
    (output / "residual_structures.json").write_bytes(compact(residual_structures(folder)))


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) == 3 else Path(__file__).parent)
