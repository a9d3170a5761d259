"""Tests of single coefficients against lmerTest and pbkrtest, for all reference models that have them."""

from __future__ import annotations

import gzip
import json
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest

import hlm

from ..reference import DATA, ReferenceModel, datasets, frame, models
from ..test_reference import fit

pytestmark = pytest.mark.filterwarnings("ignore::hlm.RankDeficientWarning")

# What agreement is asked for. lmerTest's derivatives are numerical, good to about 1e-6.
RELATIVE = 1e-4


@cache
def values() -> dict[str, Any]:
    """R's results; see data/SOURCES.md."""
    return json.loads(gzip.decompress((DATA / "inference.json.gz").read_bytes()))


def having(key: str) -> Any:
    """Parametrize over the models that have this result."""
    return pytest.mark.parametrize("reference", [m for m in models() if key in values().get(str(m), {})], ids=str)


def compare(table: Any, expected: dict[str, Any]) -> None:
    """Compare a table of coefficients: df and p to 1e-4, beside what differences in θ̂ do to t and hence to p."""
    for column in ("se", "df"):
        np.testing.assert_allclose(table[column], expected[column], rtol=RELATIVE)
    t, p = np.array(expected["t"]), np.array(expected["p"])
    np.testing.assert_allclose(table["t"], t, rtol=RELATIVE, atol=RELATIVE)
    # p moves by about t dt, relatively
    assert (np.abs(table["p"] - p) <= RELATIVE * p * (1 + np.abs(t))).all()


@having("satterthwaite")
def test_satterthwaite(reference: ReferenceModel) -> None:
    compare(fit(reference).inference("satterthwaite").table().dropna(), values()[str(reference)]["satterthwaite"])


@having("kenward_roger")
def test_kenward_roger(reference: ReferenceModel) -> None:
    expected = values()[str(reference)]["kenward_roger"]
    view = fit(reference).inference("kenward-roger")
    compare(view.table().dropna(), expected)
    V = np.array(expected["vcov_adjusted"])
    scale = np.sqrt(np.outer(np.diag(V), np.diag(V)))
    np.testing.assert_allclose(view.cov_params() / scale, V / scale, atol=RELATIVE)


def formula_of(entry: dict[str, Any]) -> str:
    """nlme's two formulas as one of lme4's."""
    fixed = f"{entry['fixed']} + "
    random = entry["random"].replace("~", "")
    if random.startswith("pdDiag "):
        return fixed + "(" + random.removeprefix("pdDiag ").replace("|", "||") + ")"
    return fixed + f"({random})"


@pytest.mark.parametrize("name", values()["between_within"])
def test_between_within(name: str) -> None:
    """nlme's degrees of freedom depend on the design alone: whatever its level-1 variances are."""
    entry = values()["between_within"][name]
    dataset = name.split(":")[0]
    if dataset in datasets():
        found = hlm.Model(formula_of(entry), frame(dataset)).fit()
    else:  # means of schools, one row each
        known = json.loads((DATA / "known_values.json").read_text(encoding="utf-8"))
        variance = next(m["variance"] for m in known["models"] if m["dataset"] == dataset)
        table = pd.DataFrame(known["tables"][dataset])
        found = hlm.Model(formula_of(entry), table, sampling_variance=variance).fit()
    assert found.inference("between-within").df.tolist() == entry["df"]


NAMES = {"satterthwaite": "satterthwaite", "kr": "kenward-roger"}


@having("anova")
def test_tables_of_terms(reference: ReferenceModel) -> None:
    for key, expected in values()[str(reference)]["anova"].items():
        kind, method = key.removeprefix("type").split("_")
        table = fit(reference).anova(kind, method=NAMES[method]).table
        terms = [":".join(sorted(term.replace(" ", "").split(":"))) for term in expected["term"]]
        found = [":".join(sorted(term.replace(" ", "").split(":"))) for term in table.index]
        table = table.iloc[[found.index(term) for term in terms]]
        np.testing.assert_array_equal(table["num_df"], expected["num_df"])
        for column in ("den_df", "F", "sum_sq", "mean_sq"):
            np.testing.assert_allclose(table[column], expected[column], rtol=RELATIVE, err_msg=f"{key} {column}")
        # p moves by about F dF times the degrees of freedom, relatively
        p, F = np.array(expected["p"]), np.array(expected["F"])
        assert (np.abs(table["p"] - p) <= RELATIVE * p * (1 + F * np.array(expected["num_df"]))).all()


@having("emmeans")
def test_marginal_means_and_pairs(reference: ReferenceModel) -> None:
    for variable, methods in values()[str(reference)]["emmeans"].items():
        for method, expected in methods.items():
            means = fit(reference).marginal_means(variable, method=method)
            assert means.labels == expected["means"]["level"]
            compared = {"means": means.table.rename(columns={"estimate": "mean"})}
            compared["pairs"] = means.contrasts("pairs", adjust="none").rename(columns={"p": "p_unadjusted"})
            compared["pairs"]["p_tukey"] = means.contrasts("pairs", adjust="tukey")["p"]
            for part, table in compared.items():
                for column, wanted in expected[part].items():
                    if column in ("level", "contrast"):
                        continue
                    # a difference of two means that is zero but for rounding has no digits
                    np.testing.assert_allclose(
                        table[column], wanted, rtol=RELATIVE, atol=1e-6, err_msg=f"{variable} {method} {part} {column}"
                    )


@having("robust")
def test_cluster_robust(reference: ReferenceModel) -> None:
    expected = values()[str(reference)]["robust"]
    found = fit(reference)
    cluster = expected["cluster"]
    cluster = cluster if cluster in found.covariances else ":".join(reversed(cluster.split(":")))
    for kind in ("CR0", "CR1", "CR2"):
        view = found.inference(kind, cluster=cluster)
        V = np.array(expected[kind])
        scale = np.sqrt(np.outer(np.diag(V), np.diag(V)))
        np.testing.assert_allclose(view.cov_params() / scale, V / scale, atol=RELATIVE, err_msg=kind)
    compare(found.inference("CR2", cluster=cluster).table().dropna(), expected["CR2_satterthwaite"])
