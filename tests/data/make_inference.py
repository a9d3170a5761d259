"""Make inference.json.gz from a folder of R's results: ``python make_inference.py FOLDER``.

Kept is what lmerTest, pbkrtest, clubSandwich and emmeans say about the fixed effects of the models in ``reference/``,
and the between-within degrees of freedom of nlme. No number is rounded.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

KEYS = ("satterthwaite", "kenward_roger", "anova", "robust", "emmeans")


def main(folder: Path) -> None:
    """Write inference.json.gz beside this script."""
    out: dict[str, dict[str, object]] = {"versions": {}, "between_within": {}}
    for path in sorted(folder.glob("*.json")):
        found = json.loads(path.read_text())
        for model in found.get("models", []):
            kept = {key: model[key] for key in KEYS if model.get(key)}
            if kept:
                out["versions"] = found["versions"]
                out[f"{found['dataset']}:{model['id']}"] = kept
        for model in found.get("nlme", []):
            if model.get("between_within"):
                out["between_within"][f"{found['dataset']}:{model['id']}"] = {
                    **{key: model.get(key) for key in ("fixed", "formula", "random")},
                    "df": model["between_within"]["df"],
                }
    text = json.dumps(out, ensure_ascii=False, separators=(",", ":"))
    Path(__file__).with_name("inference.json.gz").write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
