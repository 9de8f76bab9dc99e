"""TensorRT and CUDA stand-ins for the tests of what uses them."""

import importlib
import sys
from types import SimpleNamespace

import pytest

USERS = ("penguin_engine.runtimes.tensorrt.runtime", "penguin_engine.runtimes.tensorrt.build")


@pytest.fixture(scope="module")
def stand_in():
    """Makes the modules that use TensorRT importable, on stand-ins of a given version.

    No test may lose what belongs to the GPU.
    """
    import fake_cuda
    import fake_tensorrt
    import transformers  # noqa: F401 (it looks around for tensorrt while it is imported)
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
            runtime, build = map(importlib.import_module, USERS)
            return SimpleNamespace(device=device, driver=driver, runtime=runtime, build=build)

        yield install
    for name in USERS:
        sys.modules.pop(name, None)
    assert not any(device.lost for device in devices)
