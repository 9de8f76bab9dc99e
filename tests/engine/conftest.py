"""TensorRT and CUDA stand-ins for the tests of what uses them."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

USERS = ("penguin_engine.runtimes.tensorrt", "penguin_engine.build")


@pytest.fixture(scope="session")
def fake_gpu():
    """The module with the stand-ins."""
    spec = importlib.util.spec_from_file_location("fake_gpu", Path(__file__).parent / "fake_gpu.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["fake_gpu"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def stand_in(fake_gpu):
    """Makes the modules that use TensorRT importable, on stand-ins of a given version."""
    import transformers  # noqa: F401 (it looks around for tensorrt while it is imported)
    from transformers import Qwen3ForCausalLM  # noqa: F401

    from penguin_engine import cuda_graph

    with pytest.MonkeyPatch.context() as patch:

        def install(version="10.16.1"):
            device = fake_gpu.Device()
            driver = fake_gpu.FakeDriver(device)
            package = fake_gpu.new_module("pycuda")
            package.driver = fake_gpu.fake_pycuda(device)
            modules = {"tensorrt": fake_gpu.fake_tensorrt(device, version), "pycuda": package}
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
