"""A foreign package that `cimport`s the kernels builds and runs against what is installed."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hlm_ext

from .dense import make_case

SOURCE = Path(__file__).with_name("cimport_package")


@pytest.mark.skipif(
    not (Path(hlm_ext.__file__).parent / "forest.pxd").exists(), reason="editable: nothing is installed"
)
def test_a_foreign_package_can_cimport(tmp_path: Path) -> None:
    shutil.copytree(SOURCE, tmp_path / "package")
    build = tmp_path / "build"
    # meson and cython of the environment that runs the tests, whether it is activated or not
    meson = [sys.executable, "-m", "mesonbuild.mesonmain"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    for arguments in (["setup", str(build), str(tmp_path / "package")], ["compile", "-C", str(build)]):
        command = [*meson, *arguments]
        environment = {**os.environ, "PATH": path}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
    library = next(path for path in build.glob("user.*") if path.suffix in (".so", ".pyd"))
    spec = importlib.util.spec_from_file_location("user", library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["user"] = module
    spec.loader.exec_module(module)
    case = make_case([2], 2, seed=0, tops=20)
    kernel = case.kernel(True)
    kernel.value(np.array([0.7, 0.2, 0.5]))
    packed = np.array([0.7, 0.0, 0.2, 0.5])
    assert module.logdet(kernel.forest, packed) == kernel.logdet
