"""Readers of the outside values under ``tests/data``: R's fits and numbers printed in books.

``data/SOURCES.md`` says where they come from and what each key means. What these functions return is shared between
tests: only `frame` gives a copy that may be changed.
"""

from __future__ import annotations

import csv
import gzip
import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

DATA = Path(__file__).with_name("data")


@dataclass(frozen=True)
class ReferenceModel:
    """One model fitted in R: the data set, the model's id in it (ends in ``.REML`` or ``.ML``) and the results."""

    dataset: str
    id: str
    result: dict[str, Any] = field(repr=False, compare=False)

    @property
    def crossed(self) -> bool:
        """Whether two of the grouping factors are not nested."""
        return self.id.startswith("crossed")

    def __str__(self) -> str:
        return f"{self.dataset}:{self.id}"


def models() -> list[ReferenceModel]:
    """Return all models of all data sets, in alphabetical order of the data sets."""
    return [
        ReferenceModel(dataset, result["id"], result)
        for dataset in datasets()
        for result in description(dataset)["models"]
    ]


def model(dataset: str, id: str) -> ReferenceModel:
    """Return one model, as ``model("sleepstudy", "rs.REML")``."""
    return next(found for found in models() if (found.dataset, found.id) == (dataset, id))


def datasets() -> list[str]:
    """Return the names of the data sets."""
    return sorted({path.name.split(".")[0] for path in (DATA / "reference").glob("*.json*")})


@cache
def description(dataset: str) -> dict[str, Any]:
    """Return the whole file of a data set: source, columns, versions of R and lme4, models."""
    path = DATA / "reference" / f"{dataset}.json"
    return json.loads(_read(path if path.exists() else path.with_name(path.name + ".gz")))


def frame(dataset: str) -> pd.DataFrame:
    """Return the rows of a data set, joined with its second table if it has one, in the order of the file.

    Text columns are plain categoricals with their levels in byte order, so that the first level is R's base; numeric
    columns are float64, exactly the number in the file. Missing values are NaN in both.
    """
    return _frame(dataset).copy()


@cache
def _frame(dataset: str) -> pd.DataFrame:
    about = description(dataset)
    table = _table(about["csv"], about["columns"])
    if "join" in about:
        key, second = about["join"]["by"], _table(about["join"]["csv"], about["join"]["columns"])
        own = [column for column in table.columns if column == key or column not in second.columns]
        table = table[own].merge(second, on=key, how="left", validate="many_to_one")
    return table


@cache
def _published() -> dict[str, dict[str, Any]]:
    return {entry["id"]: entry for entry in json.loads(_read(DATA / "published.json"))["entries"]}


def published(id: str) -> dict[str, Any]:
    """Return a published result; numbers are texts, as printed, and ``dataset`` (if there) is a name for `frame`."""
    return _published()[id]


def printed_data(name: str) -> pd.DataFrame:
    """Return data of ``data/printed`` that belong to published results only; labels as text."""
    return pd.read_csv(DATA / "printed" / f"{name}.csv", dtype={"Worker": str, "Block": str, "id": str})


def _read(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()


def _table(name: str, columns: dict[str, Any]) -> pd.DataFrame:
    header, *rows = csv.reader(_read(DATA / "reference" / name).splitlines())
    # float() rounds correctly, which pandas.read_csv does not in all versions.
    return pd.DataFrame(
        {
            column: _factor(values) if columns[column]["type"] == "factor" else _numbers(values)
            for column, values in zip(header, zip(*rows, strict=True), strict=True)
        }
    )


def _factor(values: tuple[str, ...]) -> pd.Categorical:
    return pd.Categorical([value or None for value in values], categories=sorted(set(values) - {""}))


def _numbers(values: tuple[str, ...]) -> np.ndarray:
    return np.array([float(value) if value else np.nan for value in values])
