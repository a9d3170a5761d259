"""Generated data: fixed seeds, numpy only, floats rounded to six decimals so that the last bits cannot differ.

The order of the draws is part of each data set: the known optima belong to these very numbers.
"""

from __future__ import annotations

import numpy as np

Columns = dict[str, np.ndarray]


def rounded(columns: Columns) -> Columns:
    return {name: np.round(values, 6) if values.dtype.kind == "f" else values for name, values in columns.items()}


def lognormal_sizes(rng: np.random.Generator, n: int, groups: int, spread: float, least: int) -> np.ndarray:
    """Return unequal group sizes, each at least `least`, that add to n."""
    weights = rng.lognormal(0, spread, groups)
    sizes: np.ndarray = np.maximum(least, np.floor(weights / weights.sum() * n)).astype(int)
    while sizes.sum() > n:
        i = np.argmax(sizes)
        sizes[i] -= min(sizes[i] - least, sizes.sum() - n)
    rng.integers(0, groups, n - sizes.sum())  # drawn and not used: the seeded stream contains it
    np.add.at(sizes, rng.integers(0, groups, n - sizes.sum()), 1)
    return sizes


def small_sizes(rng: np.random.Generator, n: int, groups: int) -> np.ndarray:
    """Return Poisson group sizes, each at least 1, that add to n."""
    sizes: np.ndarray = 1 + rng.poisson(n / groups - 1, groups)
    while sizes.sum() != n:
        missing = n - sizes.sum()
        chosen = np.unique(rng.integers(0, groups, abs(missing)))
        if missing > 0:
            sizes[chosen] += 1
        else:
            sizes[chosen[sizes[chosen] > 1]] -= 1
    return sizes


def unequal_groups(n: int, groups: int, seed: int) -> Columns:
    """W2: many rows, three random effects, columns of both levels and cross-level products."""
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(groups), lognormal_sizes(rng, n, groups, 0.9, 1))
    g = rng.permutation(groups)[g]  # labels not in order; rows contiguous by group, as in a typical export
    w = rng.normal(size=(groups, 3))
    x = rng.normal(size=(n, 8))
    x[:, 6] = rng.random(n) < 0.4
    x[:, 7] = rng.integers(0, 5, n)
    covariance = np.array([[1.0, 0.3, -0.2], [0.3, 0.5, 0.1], [-0.2, 0.1, 0.25]])
    u = rng.normal(size=(groups, 3)) @ np.linalg.cholesky(covariance).T
    y = 2 + x @ rng.normal(size=8) * 0.3 + w[g] @ [0.5, -0.3, 0.2]
    y = y + 0.2 * x[:, 0] * w[g, 0] - 0.1 * x[:, 1] * w[g, 0] + 0.1 * x[:, 0] * w[g, 1]
    y = y + u[g, 0] + x[:, 0] * u[g, 1] + x[:, 1] * u[g, 2] + 2 * rng.normal(size=n)
    x, w = np.round(x, 6), np.round(w, 6)
    columns: Columns = {"y": y, "g": g}
    columns |= {f"x{k + 1}": x[:, k] for k in range(8)}
    columns |= {f"w{k + 1}": w[g, k] for k in range(3)}
    columns |= {"x1w1": x[:, 0] * w[g, 0], "x2w1": x[:, 1] * w[g, 0], "x1w2": x[:, 0] * w[g, 1]}
    return rounded(columns)


def tiny_groups(n: int, groups: int, seed: int) -> Columns:
    """W3: very many groups of about three rows, a random intercept."""
    rng = np.random.default_rng(seed)
    sizes = small_sizes(rng, n, groups)
    g = np.repeat(rng.permutation(groups), sizes)
    x = rng.normal(size=(n, 5))
    x[:, 4] = rng.random(n) < 0.5
    y = 1 + x @ [0.4, -0.3, 0.2, 0.1, 0.25] + rng.normal(size=groups)[g] * 0.8 + rng.normal(size=n)
    return rounded({"y": y, "g": g} | {f"x{k + 1}": x[:, k] for k in range(5)})


def nested_groups(n: int, classes: int, schools: int, seed: int) -> Columns:
    """W4: pupils in classes in schools, intercept and slope random at both levels."""
    rng = np.random.default_rng(seed)
    class_sizes = lognormal_sizes(rng, n, classes, 0.4, 2)
    school_of_class = np.repeat(np.arange(schools), lognormal_sizes(rng, classes, schools, 0.3, 2))
    c = np.repeat(np.arange(classes), class_sizes)
    s = school_of_class[c]
    x, cw, sw = rng.normal(size=(n, 3)), rng.normal(size=(classes, 2)), rng.normal(size=(schools, 2))
    us = rng.normal(size=(schools, 2)) @ np.linalg.cholesky([[0.5, 0.1], [0.1, 0.15]]).T
    uc = rng.normal(size=(classes, 2)) @ np.linalg.cholesky([[0.3, -0.05], [-0.05, 0.1]]).T
    y = 1 + x @ [0.5, 0.2, -0.1] + cw[c] @ [0.1, 0.2] + sw[s] @ [0.3, -0.2]
    y = y + us[s, 0] + us[s, 1] * x[:, 0] + uc[c, 0] + uc[c, 1] * x[:, 0] + rng.normal(size=n)
    columns: Columns = {"y": y, "school": s, "cls": c}
    columns |= {f"x{k + 1}": x[:, k] for k in range(3)}
    columns |= {"c1": cw[c, 0], "c2": cw[c, 1], "s1": sw[s, 0], "s2": sw[s, 1]}
    return rounded(columns)


def equal_groups(n: int, groups: int, p: int, q: int, seed: int) -> Columns:
    """W7b and W8: equal groups, p fixed columns with the intercept, the first q of them random."""
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(groups), n // groups)
    x = rng.normal(size=(n, p - 1))
    u = rng.normal(size=(groups, q)) @ np.linalg.cholesky(np.eye(q) * 0.5 + 0.1).T
    z = np.c_[np.ones(n), x][:, :q]
    y = 1 + x @ np.linspace(0.5, -0.3, p - 1) + (z * u[g]).sum(1) + rng.normal(size=n)
    return rounded({"y": y, "g": g} | {f"x{k + 1}": x[:, k] for k in range(p - 1)})


def ratings(n: int, users: int, items: int, seed: int) -> Columns:
    """W6 and W6s: users who rate items, activity and popularity far from equal; who never rates is not in the data."""
    rng = np.random.default_rng(seed)
    active = rng.pareto(1.2, users) + 0.3
    active /= active.sum()
    popular = 1 / np.arange(1, items + 1) ** 0.8
    popular /= popular.sum()
    user = item = np.zeros(0, dtype=np.int64)
    while len(user) < n:  # distinct pairs, in the order in which they were drawn
        user = np.concatenate([user, rng.choice(users, n, p=active)])
        item = np.concatenate([item, rng.choice(items, n, p=popular)])
        first = np.sort(np.unique(user * items + item, return_index=True)[1])
        user, item = user[first], item[first]
    user = np.unique(user[:n], return_inverse=True)[1]
    item = np.unique(item[:n], return_inverse=True)[1]
    y = 3.4 + 0.45 * rng.normal(size=user.max() + 1)[user] + 0.55 * rng.normal(size=item.max() + 1)[item]
    return rounded({"y": y + 0.85 * rng.normal(size=n), "user": user, "item": item})
