"""Compiled kernels of hierarchical linear models: float64 and intp arrays in, arrays out. No names, no policy.

From rows to statistics: `hlm_ext.structure` (order and nesting of groups), `hlm_ext.gather` (`scan`, `gather`,
`transform`). From statistics to numbers: the plain functions of `hlm_ext.functions` (`profile`, `moments`, `gradient`,
`information`, `em`), or `Forest` and `Criterion`, which keep a factor between calls. For Cython:
``from hlm_ext.forest cimport Forest``.
"""

from pkgutil import extend_path

# In the root of a checkout this folder of sources hides the installed package; its kernels are to be found still.
__path__ = extend_path(__path__, __name__)

from hlm_ext.columns import Columns
from hlm_ext.criterion import Criterion, KernelError
from hlm_ext.forest import Forest
from hlm_ext.partition import get_num_threads, set_num_threads

__all__ = ["Columns", "Criterion", "Forest", "KernelError", "get_num_threads", "set_num_threads"]
