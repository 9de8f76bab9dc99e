"""Installs fakes of TensorRT and CUDA, which need an NVIDIA GPU, for the tests of the modules that use them."""

import importlib
import sys
from types import SimpleNamespace

import pytest

TENSORRT = "penguin_engine.runtimes.tensorrt"
USERS = tuple(f"{TENSORRT}.{name}" for name in ("cuda_device", "loaded_plan", "runtime", "build"))
"""Modules that import tensorrt or pycuda, in import order."""


@pytest.fixture(scope="module")
def stand_in():
    """Returns a function that imports the modules that use TensorRT with a fake TensorRT of the given version.

    At the end it checks that no object of a GPU leaked.
    """
    import fake_cuda
    import fake_tensorrt
    import transformers  # noqa: F401 (looks for tensorrt when it is imported, so it must be imported first)
    from transformers import Qwen3ForCausalLM  # noqa: F401

    from penguin_engine.runtimes.tensorrt import cuda_graph

    devices = []
    with pytest.MonkeyPatch.context() as patch:

        def install(version="10.16.1"):
            device = fake_cuda.Device()
            devices.append(device)
            driver = fake_cuda.FakeDriver(device)
            package = fake_cuda.new_module("pycuda")
            package.driver = fake_cuda.fake_pycuda(device)
            modules = {"tensorrt": fake_tensorrt.fake_tensorrt(device, version), "pycuda": package}
            for name, module in (modules | {"pycuda.driver": package.driver}).items():
                patch.setitem(sys.modules, name, module)
            for name in USERS:
                patch.delitem(sys.modules, name, raising=False)
            patch.setattr(cuda_graph, "load_driver", lambda: driver)
            *_, runtime, build = map(importlib.import_module, USERS)
            return SimpleNamespace(device=device, driver=driver, runtime=runtime, build=build)

        yield install
    for name in USERS:
        sys.modules.pop(name, None)
    assert not any(device.lost for device in devices)
