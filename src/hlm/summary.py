"""The summary of a fit, as text and as HTML, from one list of titled tables and lines."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from hlm.specification.equation_reader import EquationReader
from hlm.structure import reused_ids

if TYPE_CHECKING:
    from hlm.fit import Fit
    from hlm.inference.fixed import Inference


@dataclass
class Section:
    """A title with lines of text and a table of strings."""

    title: str
    lines: list[str] = field(default_factory=list)
    header: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)


def _number(value: float, digits: int = 5) -> str:
    return "" if np.isnan(value) else f"{value:.{digits}g}"


def _model_section(fit: Fit) -> Section:
    design = fit.model.design
    kind = "REML" if fit.reml else "ML"
    methods = {"newton": "trust-region Newton", "fisher": "Fisher scoring", "em": "EM", "ecme": "ECME"}
    lines = [fit.model.formula or f"{design.response} (arrays)"]
    if isinstance(fit.model._reader, EquationReader):
        lines = [str(equation) for equation in fit.model._reader.substitution.equations]
    rows = f"{design.rows} rows"
    if design.kept is not None:
        total = len(design.kept)
        zero = any(text.endswith(" = 0") for text in design.dropped)
        why = ", ".join(f"{column} {count}" for column, count in design.dropped.items() if count)
        rows += (
            f" of {total}; {total - design.rows} dropped for {'zero weights or ' if zero else ''}missing values ({why})"
        )
    if design.frequencies is not None:
        rows += f", standing for {fit.nobs}"
    lines += [f"{kind} by {methods[fit.method]}, {len(fit.trace) - 1} iterations; {rows}"]
    lines += [
        f"criterion {fit.criterion:.4f} (-2 {'restricted ' if fit.reml else ''}log-likelihood), "
        f"AIC {fit.aic:.2f}, BIC {fit.bic:.2f}"
    ]
    return Section("Hierarchical linear model", lines)


def _structure_section(fit: Fit) -> Section:
    section = Section("Structure", header=["level", "groups", "rows a group: min", "median", "max"])
    section.rows.append(["rows", str(fit.nobs), "", "", ""])
    hierarchy = fit._problem.statistics.hierarchy
    for k in hierarchy.factors:
        factor = fit.model.design.factors[k]
        counts = np.bincount(factor.codes, fit.model.design.frequencies, minlength=factor.size)
        sizes = counts.astype(np.intp)
        section.rows.append(
            [factor.name, str(factor.size), str(sizes.min()), f"{np.median(sizes):g}", str(sizes.max())]
        )
    factors = [fit.model.design.factors[k] for k in hierarchy.factors]
    if hierarchy.peeled > 1:
        section.lines.append("nested: rows in " + " in ".join(factor.name for factor in factors[: hierarchy.peeled]))
    met = factors[max(hierarchy.peeled - 1, 0) :]
    if len(met) > 1:
        section.lines.append("crossed: " + " with ".join(factor.name for factor in met))
    for factor in factors:
        if factor.between is not None:
            more = f", {len(factor.between.others)} of them without rows" if len(factor.between.others) else ""
            kind = "precision" if factor.between.precision else "covariance"
            section.lines.append(
                f"levels of '{factor.name}' related by a known {kind} of {len(factor.all_labels)}{more}"
            )
    absorbed = fit.model.design.absorbed
    if absorbed is not None:
        section.lines.append(f"{len(absorbed.labels)} fixed intercepts of '{absorbed.name}' absorbed")
    for inner, outer in reused_ids(factors):
        section.lines.append(
            f"each '{outer}' has '{inner}' numbered from the same first ones: if these are ids of its own, write "
            f"({outer}/{inner}), in equations [{outer}:{inner}]"
        )
    return section


def _fixed_section(fit: Fit, view: Inference) -> Section:
    table = view.table()
    normal = not np.isfinite(table["df"]).any()
    section = Section("Fixed effects", header=["", "estimate", "std. error", *(["z"] if normal else ["t", "df"]), "p"])
    for name, b, se, t, df, p in table.iloc[:, :5].itertuples():
        pvalue = "" if np.isnan(p) else ("<0.001" if p < 0.001 else f"{p:.3f}")
        freedom = [] if normal else ["" if np.isnan(df) or np.isnan(t) else f"{df:.1f}"]
        error = "known" if se == 0 else _number(se)
        section.rows.append([str(name), _number(b), error, "" if np.isnan(t) else f"{t:.2f}", *freedom, pvalue])
    section.lines.append(view.title)
    if view.note:
        section.lines.append(view.note)
    if fit.restrictions:
        section.lines.append("held: " + ", ".join(fit.restrictions))
    if fit.aliased:
        section.lines.append("aliased with earlier columns, not estimated: " + ", ".join(fit.aliased))
    return section


def _random_section(fit: Fit) -> Section:
    section = Section("Random effects", header=["group", "effect", "variance", "std. dev.", "correlation"])
    for name, T in fit.covariances.items():
        values = T.to_numpy()
        sd = np.sqrt(np.diag(values))
        for i, effect in enumerate(T.index):
            correlations = [
                f"{values[i, j] / (sd[i] * sd[j]):.2f}" if sd[i] > 0 and sd[j] > 0 and values[i, j] != 0 else "  . "
                for j in range(i)
            ]
            section.rows.append(
                [name if i == 0 else "", str(effect), _number(sd[i] ** 2), _number(sd[i]), " ".join(correlations)]
            )
    for factor in fit.model.design.factors:
        for block, structure in zip(factor.blocks, factor.all_structures, strict=True):
            if structure is not None:
                effects = ", ".join(factor.effects[j] for j in block)
                section.lines.append(f"covariance of {effects} over '{factor.name}': {structure.name}")
    section.rows.append(["residual", "", _number(fit.sigma**2), _number(fit.sigma), ""])
    for name, directions in fit.flat_directions.items():
        section.lines.append(
            f"no variance between levels of '{name}' in the direction of {', '.join(directions)}: "
            "the estimate is on the boundary"
        )
    return section


def _error_section(fit: Fit) -> Section:
    """The structure of the level-1 errors."""
    residual = fit.residual
    section = Section("Level-1 errors", [f"{residual}; tested against independent ones: {residual.homogeneity}"])
    section.header = ["", "estimate", "95% from", "to", "std. error", "of scale"]
    for name, (value, scale, se, lower, upper) in residual.table().T.items():
        section.rows.append([str(name), _number(value), _number(lower), _number(upper), _number(se), scale])
    return section


def sections(fit: Fit, view: Inference) -> list[Section]:
    """Return what a summary says, with tests of the fixed effects as `view` judges them."""
    parts = [_model_section(fit), _structure_section(fit), _fixed_section(fit, view), _random_section(fit)]
    if fit.model.design.residual is not None:
        parts.append(_error_section(fit))
    parts.append(Section("Certificate", [str(fit.certificate)]))
    return parts


def _equations_section(fit: Fit) -> Section:
    return Section("Equations", fit.equations("unicode").splitlines())


def _text_table(header: list[str], rows: list[list[str]]) -> list[str]:
    table = [header, *rows]
    widths = [max(len(row[c]) for row in table) for c in range(len(header))]
    numeric = [
        all(not row[c] or row[c][0] in "-<.0123456789 " or row[c] == "nan" for row in rows) for c in range(len(header))
    ]
    return [
        "  "
        + "  ".join(
            cell.rjust(w) if right else cell.ljust(w) for cell, w, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in table
    ]


def text(fit: Fit, view: Inference) -> str:
    """Return the summary for a terminal."""
    out = []
    for section in sections(fit, view):
        out.append(section.title)
        if section.rows:
            out += _text_table(section.header, section.rows)
        out += [f"  {line}" for line in section.lines]
        out.append("")
    return "\n".join(out[:-1])


def html(fit: Fit, view: Inference) -> str:
    """Return the summary for a notebook."""
    out = ['<div class="hlm-summary">']
    for section in [*sections(fit, view), _equations_section(fit)]:
        out.append(f"<h4>{escape(section.title)}</h4>")
        if section.rows:
            head = "".join(f"<th>{escape(cell)}</th>" for cell in section.header)
            body = "".join(
                "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in section.rows
            )
            out.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
        out += [f"<p>{escape(line)}</p>" for line in section.lines]
    return "\n".join([*out, "</div>"])
