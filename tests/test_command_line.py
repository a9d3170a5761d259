"""`python -m hlm`."""

from pathlib import Path

import pytest

import hlm
from hlm.__main__ import main


def test_the_main_job(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mathach ~ cses * (meanses + sector) + (cses | school)", "hsb"]) == 0
    out = capsys.readouterr().out
    assert "criterion 46503.66" in out
    assert "7185 rows" in out
    assert "optimal" in out


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_files(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    path = tmp_path / f"sleep.{kind}"
    data = hlm.datasets.load("sleepstudy")
    if kind == "csv":
        data.to_csv(path, index=False)
    else:
        data.to_parquet(path)
    assert main(["Reaction ~ Days + (Days | Subject)", str(path), "--ml", "--method", "ecme", "--trace"]) == 0
    out = capsys.readouterr().out
    assert "ML by ECME" in out
    assert "1751.9393" in out
    assert "iteration" in out


def test_html(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["Reaction ~ Days + (Days | Subject)", "sleepstudy", "--html"]) == 0
    assert capsys.readouterr().out.startswith('<div class="hlm-summary">')


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["y ~ x + (1 | g)", "no_such_file.csv"], "no file 'no_such_file.csv'"),
        (["Reaction ~ Dayz + (1 | Subject)", "sleepstudy"], "'Dayz'"),
        (["Reaction ~ Days + (1 | Subject", "sleepstudy"], "^"),
    ],
)
def test_errors_go_to_stderr(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert "Traceback" not in captured.err
