"""ONNX Runtime's plug-in for TensorRT for RTX: what it says without a driver, and that its GPUs are found by index."""

import ctypes
import importlib.util
from types import SimpleNamespace

import onnxruntime
import pytest

from penguin_engine.runtimes import onnx_plugin
from penguin_engine.runtimes.onnx_session import Device, open_session
from penguin_models.errors import EngineError

PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"
NEW_ENOUGH = tuple(map(int, onnxruntime.__version__.split(".")[:2])) >= (1, 30)
installed = pytest.mark.skipif(
    importlib.util.find_spec(PLUGIN) is None or not NEW_ENOUGH,
    reason="needs the extra tensorrt-rtx and ONNX Runtime 1.30",
)


@installed
def test_without_a_driver():
    """The real plug-in cannot be loaded; a second attempt says the same."""
    try:
        ctypes.CDLL("libcuda.so.1")
        pytest.skip("there is a driver here")
    except OSError:
        pass
    for device in ("tensorrt-rtx", "tensorrt-rtx:1"):
        with pytest.raises(EngineError, match=r"cannot be loaded \(libcuda\.so\.1: .*\); install the driver of your"):
            Device.parse(device)


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match=r"is not installed; run: pip install onnxruntime-ep-nv-tensorrt-rtx-cu13"):
        Device.parse("tensorrt-rtx")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(onnxruntime, "__version__", "1.23.2")
    with pytest.raises(EngineError, match=r"needs ONNX Runtime 1\.30 or newer, but 1\.23\.2 is installed; run: pip"):
        Device.parse("tensorrt-rtx")


@installed
def test_gpus_are_found_by_the_index_of_cuda(monkeypatch):
    """ONNX Runtime lists devices in any order; the plug-in is registered once."""
    registered = []

    def gpu(name, index):
        return SimpleNamespace(ep_name=name, memory_info=lambda kind: SimpleNamespace(device_id=index))

    devices = [gpu(onnx_plugin.PROVIDER, 2), gpu("OtherExecutionProvider", 1), gpu(onnx_plugin.PROVIDER, 0)]
    monkeypatch.setattr(onnxruntime, "register_execution_provider_library", lambda *names: registered.append(names))
    monkeypatch.setattr(onnxruntime, "get_ep_devices", lambda: devices)
    onnx_plugin._register.cache_clear()
    try:
        assert onnx_plugin.find_gpu(0) is devices[2] and onnx_plugin.find_gpu(2) is devices[0]
        with pytest.raises(EngineError, match=r"cannot use GPU 1: .* \(usable here: 0, 2\); use another --device"):
            Device.parse("tensorrt-rtx:1")
        assert Device.parse("tensorrt-rtx:2") == Device("tensorrt-rtx", 2)
    finally:
        onnx_plugin._register.cache_clear()
    ((name, path),) = registered
    assert name == onnx_plugin.PROVIDER and path.endswith("libonnxruntime_providers_nv_tensorrt_rtx.so")


class ClaimsPlugin(onnxruntime.InferenceSession):
    """Claims to run on the plug-in, and runs on the provider that was added to its options."""

    def get_providers(self):
        return [onnx_plugin.PROVIDER, *super().get_providers()]


@pytest.mark.skipif(not NEW_ENOUGH, reason="an older ONNX Runtime")
def test_sessions_on_the_added_provider(exported, monkeypatch):
    """Another provider than the plug-in's is an error, and so are products that run on the CPU."""
    graph, device = exported(profile="portable") / "vision.onnx", Device("tensorrt-rtx", 0)
    monkeypatch.setattr(onnx_plugin, "find_gpu", lambda index: onnxruntime.get_ep_devices()[0])  # the CPU
    with pytest.raises(EngineError, match=r"could not start NvTensorRTRTXExecutionProvider for .*vision\.onnx"):
        open_session(graph, device, 1)
    monkeypatch.setattr(onnxruntime, "InferenceSession", ClaimsPlugin)
    with pytest.raises(EngineError, match=r"would run 15 Gemm, .* its tensorrt-rtx .*; export with --profile portable"):
        open_session(graph, device, 1)


def test_a_provider_that_fails_is_not_replaced_by_the_cpu(exported, monkeypatch, capfd):
    """ONNX Runtime would print an error to standard output and load the graph on the CPU."""

    class Fails(onnxruntime.InferenceSession):
        def _create_inference_session(self, *options):
            raise RuntimeError("a.cc:71 CreateProvider failed: [ONNXRuntimeError] : 1 : FAIL : CUDA failure 100")

    monkeypatch.setattr(onnxruntime, "InferenceSession", Fails)
    with pytest.raises(EngineError, match=r"cannot load .*vision\.onnx on cuda:0: 1 : FAIL : CUDA failure 100$"):
        open_session(exported(profile="portable") / "vision.onnx", Device("cuda", 0), 1)
    assert capfd.readouterr().out == ""
