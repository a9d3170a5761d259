"""The code of the README runs, on data of the shapes that it speaks of."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import hlm
from hlm_ext import functions

README = Path(__file__).parent.parent / "README.md"


def frame(rng: np.random.Generator) -> pd.DataFrame:
    """Districts, schools and classes; children in weeks; schools and rats with the names of the examples."""
    n = 1200
    data = pd.DataFrame({name: rng.normal(size=n) for name in ("x", "a", "b", "t", "cses")})
    data["class"] = rng.integers(0, 144, n)
    data["school"] = data["class"] // 3
    data["district"] = data["school"] // 4
    data["child"] = np.arange(n) // 8
    data["rat"], data["week"] = data["child"], np.arange(n) % 8.0
    data["sex"] = rng.choice(["female", "male"], n)
    effects = sum(rng.normal(size=n)[data[name]] for name in ("class", "school", "district", "child"))
    noise = rng.normal(size=n)
    for name in ("y", "score", "math", "weight"):
        data[name] = data["x"] + effects + rng.normal(size=n)[data["school"]] * data["cses"] + noise
    data["y"] += rng.normal(size=n)[data["child"]] * data["week"]
    return data


def named(rng: np.random.Generator) -> dict[str, Any]:
    """What the README names and does not load."""
    hsb = hlm.datasets.load("hsb")
    y, X = hsb["mathach"].to_numpy(), np.column_stack([np.ones(len(hsb)), hsb["cses"]])
    variances = rng.uniform(0.02, 0.1, 20)
    d = rng.normal(0.3, np.sqrt(variances + 0.1))
    ids = [f"calf {i}" for i in range(30)]
    related = 0.7 * np.eye(30) + 0.3
    records = pd.DataFrame({"animal": np.repeat(ids, 4), "sex": rng.integers(0, 2, 120)})
    records["weight"] = np.repeat(rng.normal(size=30), 4) + records["sex"] + rng.normal(size=120)
    return {
        "hlm": hlm,
        **{"y": y, "X": X, "Z": X, "codes": hsb["school"].to_numpy()},
        "new": hsb[hsb["school"] == "1224"].assign(school="new"),
        "studies": pd.DataFrame({"study": np.arange(20), "d": d, "v": variances}),
        **{"records": records, "ids": ids, "A_inverse": np.linalg.inv(related)},
    }


@pytest.mark.skipif(not README.exists(), reason="tests of an installed package: the README is not there")
def test_every_block_runs() -> None:
    rng = np.random.default_rng(1)
    scope = named(rng)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) > 5
    for block in blocks:
        if "datasets" not in block and "fit." not in block:
            scope["data"] = frame(rng)
        exec(compile(block, "README.md", "exec"), scope)
    # the kernels' example is the model of lme4's: its criterion at the estimate is that of the fit
    fit = hlm.Model("Reaction ~ Days + (Days | Subject)", scope["sleep"]).fit()
    a, b, c = fit.theta
    found = functions.profile(*scope["statistics"], [np.array([[a, 0.0], [b, c]])], n=180)
    assert found.criterion == pytest.approx(fit.criterion, rel=1e-12)
