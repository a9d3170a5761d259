"""Simulate the data set `instructors`: instructors in departments, with known parameters.

The model, a level-1 equation for instructor i of department j and two level-2 equations for his or her department::

    teaching_rating = b0 + b1*experience + b2*class_size + r,    r ~ N(0, SIGMA²)
    b0 = INTERCEPT + RESEARCH*research + u0
    b1 = EXPERIENCE + EXPERIENCE_RESEARCH*research + u1
    b2 = CLASS_SIZE

(u0, u1) is normal with standard deviations SD_INTERCEPT and SD_EXPERIENCE and correlation CORRELATION. In lme4's
notation ``teaching_rating ~ experience * research + class_size + (experience | department)``.

``python -m hlm.datasets.make_instructors`` writes the shipped file again, ``... FILE`` writes to another place. Only
integers and standard normals of NumPy's default generator are drawn, and no linear algebra is used, so that the file
does not depend on the platform.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

SEED = 20240
DEPARTMENTS = 40
SMALLEST_DEPARTMENT, LARGEST_DEPARTMENT = 5, 24  # instructors

INTERCEPT = 3.0
EXPERIENCE = 0.02  # points of rating a year
CLASS_SIZE = -0.004  # points a student
RESEARCH = 0.06  # points a publication
EXPERIENCE_RESEARCH = 0.002  # points a year and publication
SD_INTERCEPT = 0.25
SD_EXPERIENCE = 0.012
CORRELATION = -0.3
SIGMA = 0.3


def simulate() -> pd.DataFrame:
    """Return the data set, the same at each call.

    Returns
    -------
    pandas.DataFrame
        One row an instructor: ``department`` and ``instructor`` (text), ``experience`` (years), ``class_size``
        (students), ``research`` (publications per member and year, one value a department) and ``teaching_rating``
        (mean rating by students, on a scale of 1 to 5, rounded to 0.01).
    """
    rng = np.random.default_rng(SEED)
    sizes = rng.integers(SMALLEST_DEPARTMENT, LARGEST_DEPARTMENT, size=DEPARTMENTS, endpoint=True)
    research = np.round(2.2 * np.exp(0.5 * rng.standard_normal(DEPARTMENTS)), 1)
    first, second = rng.standard_normal((2, DEPARTMENTS))
    u0 = SD_INTERCEPT * first
    u1 = SD_EXPERIENCE * (CORRELATION * first + np.sqrt(1 - CORRELATION**2) * second)

    department = np.repeat(np.arange(DEPARTMENTS), sizes)
    n = department.size
    experience = rng.integers(1, 35, size=n, endpoint=True)
    class_size = np.clip(np.round(40 * np.exp(0.5 * rng.standard_normal(n))), 8, 160).astype(np.int64)
    intercept = INTERCEPT + RESEARCH * research + u0
    slope = EXPERIENCE + EXPERIENCE_RESEARCH * research + u1
    rating = (
        intercept[department]
        + slope[department] * experience
        + CLASS_SIZE * class_size
        + SIGMA * rng.standard_normal(n)
    )
    return pd.DataFrame(
        {
            "department": [f"D{j + 1:02d}" for j in department],
            "instructor": [f"I{i + 1:03d}" for i in range(n)],
            "experience": experience,
            "class_size": class_size,
            "research": research[department],
            "teaching_rating": np.round(rating, 2),
        }
    )


def write(path: Path) -> None:
    """Write the data set to `path` as comma-separated text."""
    simulate().to_csv(path, index=False, lineterminator="\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("instructors.csv"))
