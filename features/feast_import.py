"""Importing Feast without torch.

`feast.torch_wrapper` imports torch the moment Feast is imported, only to be able to answer `to_tensor()`. The request path must not
carry torch (seconds of start, hundreds of megabytes a replica), so this module puts a wrapper in its place that imports torch when a
tensor is really asked for. Import Feast through here, first.
"""

from __future__ import annotations

import importlib
import sys
import types
import warnings
from typing import Any


class _TorchWrapper(types.ModuleType):
    """Stand-in for `feast.torch_wrapper` with the one function that Feast uses."""

    @staticmethod
    def get_torch() -> Any:
        return importlib.import_module("torch")


sys.modules.setdefault("feast.torch_wrapper", _TorchWrapper("feast.torch_wrapper"))
with warnings.catch_warnings():
    # Feast's own modules use deprecated corners of pydantic and protobuf; nothing that a user of ours could act on.
    warnings.simplefilter("ignore")
    # Feast sets PROMETHEUS_MULTIPROC_DIR; imported before that, the process's own metrics stay in memory rather than in files.
    import prometheus_client  # noqa: F401
    import feast  # isort: skip

__all__ = ["feast"]
