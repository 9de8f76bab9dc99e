"""Real TensorRT for RTX, which builds without a GPU, and fakes of CUDA and of what runs plans, which need one."""

import importlib
import sys
from types import SimpleNamespace

import pytest

from penguin_engine.runtimes.tensorrt import flavour
from penguin_engine.runtimes.tensorrt.flavour import Flavour

TENSORRT = "penguin_engine.runtimes.tensorrt"
USERS = tuple(f"{TENSORRT}.{name}" for name in ("cuda_device", "loaded_plan", "steps", "runtime"))
"""Modules that import pycuda, directly or not, in import order."""


@pytest.fixture(scope="session")
def rtx():
    """The real TensorRT for RTX, which parses and builds without a GPU."""
    if flavour.RTX not in flavour.installed():
        pytest.skip("TensorRT for RTX is not installed: make test installs it")
    return flavour.load(flavour.RTX)


@pytest.fixture(scope="module")
def stand_in():
    """Returns a function that imports the modules that use a GPU with fakes, of a flavour and version of TensorRT.

    At the end it checks that no object of a GPU leaked.
    """
    import fake_cuda
    import fake_tensorrt

    from penguin_engine.runtimes.tensorrt import cuda_graph

    devices = []
    with pytest.MonkeyPatch.context() as patch:

        def install(name="tensorrt", version="10.16.1"):
            device = fake_cuda.Device()
            devices.append(device)
            driver = fake_cuda.FakeDriver(device)
            package = fake_cuda.new_module("pycuda")
            package.driver = fake_cuda.fake_pycuda(device)
            for module_name, module in {"pycuda": package, "pycuda.driver": package.driver}.items():
                patch.setitem(sys.modules, module_name, module)
            for user in USERS:
                patch.delitem(sys.modules, user, raising=False)
            patch.setattr(cuda_graph, "load_driver", lambda: driver)
            api = fake_tensorrt.fake_tensorrt(device, version)
            patch.setattr(flavour, "installed", lambda: [name])
            patch.setattr(flavour, "load", lambda wanted: Flavour(wanted, api))
            _, loaded_plan, _, runtime = map(importlib.import_module, USERS)
            return SimpleNamespace(device=device, driver=driver, api=api, loaded_plan=loaded_plan, runtime=runtime)

        yield install
    for user in USERS:
        sys.modules.pop(user, None)
    assert not any(device.lost for device in devices)
