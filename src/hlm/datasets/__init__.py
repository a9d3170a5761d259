"""Data sets of the textbooks, shipped with the library so that every example runs offline.

`hsb`
    High School & Beyond: 7185 pupils in 160 schools, the pupils' and the schools' columns joined.
`hsb_pupils`, `hsb_schools`
    The same before the join: one table a level, key ``school``.
`instructors`
    A simulated teaching example: instructors in departments, of known parameters (`hlm.datasets.make_instructors`).
`sleepstudy`
    Reaction times of 18 subjects on ten days of sleep restriction.

Each column and the source of each table are described in ``SOURCES.md`` beside this file.
"""

from __future__ import annotations

from importlib import resources

import pandas as pd

from hlm.errors import DataError

__all__ = ["load", "names"]

_FILES = {
    "hsb_pupils": "hsb_pupils.csv.gz",
    "hsb_schools": "hsb_schools.csv",
    "instructors": "instructors.csv",
    "sleepstudy": "sleepstudy.csv",
}
_JOINED = {"hsb": ("hsb_pupils", "hsb_schools", "school")}  # name: lower table, upper table, key
_IDENTIFIERS = ("school", "department", "instructor", "Subject")  # text, whatever they look like


def names() -> list[str]:
    """Return the names that `load` knows, in alphabetical order.

    Returns
    -------
    list of str
    """
    return sorted([*_FILES, *_JOINED])


def load(name: str) -> pd.DataFrame:
    """Return a data set as a new table; changing it changes no later `load`.

    Parameters
    ----------
    name : str
        One of `names`.

    Returns
    -------
    pandas.DataFrame
        Identifiers of groups are text, even where they look like numbers; indicators are the integers 0 and 1. No
        value is missing.

    Raises
    ------
    hlm.errors.DataError
        There is no data set of this name.

    Examples
    --------
    >>> from hlm import datasets
    >>> datasets.load("hsb").shape
    (7185, 12)
    """
    if name in _JOINED:
        lower, upper, key = _JOINED[name]
        return load(lower).merge(load(upper), on=key, how="left", validate="many_to_one")
    if name not in _FILES:
        raise DataError(f"there is no data set {name!r}; choose one of {', '.join(names())}")
    file = resources.files(__name__).joinpath(_FILES[name])
    with file.open("rb") as stream:
        return pd.read_csv(
            stream,
            compression="gzip" if file.name.endswith(".gz") else None,
            dtype=dict.fromkeys(_IDENTIFIERS, "str"),
            na_filter=False,
        )
