"""Energy from the files of sensors, on made-up file systems."""

import time

import pytest

from penguin_engine.bench.energy import EnergyMeter, Reading


@pytest.fixture
def rapl(tmp_path):
    def write(zone, energy_uj, limit_uj=10_000_000, name="package-0"):
        folder = tmp_path / "sys/class/powercap" / zone
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "energy_uj").write_text(f"{energy_uj}\n")
        (folder / "max_energy_range_uj").write_text(f"{limit_uj}\n")

    return write


@pytest.fixture
def rail(tmp_path):
    def write(channel, label, millivolts, milliamperes, sensor="1-0040/hwmon/hwmon3"):
        folder = tmp_path / "sys/bus/i2c/drivers/ina3221" / sensor
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"in{channel}_label").write_text(f"{label}\n")
        (folder / f"in{channel}_input").write_text(f"{millivolts}\n")
        (folder / f"curr{channel}_input").write_text(f"{milliamperes}\n")

    return write


def without_gpu(meter):
    return [name for name in meter.sources if name != "gpu"]


def test_a_machine_without_sensors(tmp_path):
    meter = EnergyMeter(tmp_path)
    assert without_gpu(meter) == []
    with meter.measure() as reading:
        pass
    assert set(reading.joules) <= {"gpu"}


def test_processor_packages(tmp_path, rapl):
    rapl("intel-rapl:0", 1_000_000)
    rapl("intel-rapl:1", 500_000, name="package-1")
    rapl("intel-rapl:0:0", 999, name="core")
    meter = EnergyMeter(tmp_path)
    with meter.measure() as reading:
        rapl("intel-rapl:0", 3_500_000)
        rapl("intel-rapl:1", 600_000, name="package-1")
    assert reading.joules["processor"] == pytest.approx(2.6)


@pytest.mark.parametrize(("zones", "joules"), [(["package-0", "psys"], 1.0), (["psys"], 1.0)])
def test_the_platform_counts_only_without_packages(tmp_path, rapl, zones, joules):
    """Its counter includes the packages, which must not count twice."""
    for number, name in enumerate(zones):
        rapl(f"intel-rapl:{number}", 0, name=name)
    with EnergyMeter(tmp_path).measure() as reading:
        for number, name in enumerate(zones):
            rapl(f"intel-rapl:{number}", 1_000_000 * (number + 1), name=name)
    assert reading.joules["processor"] == pytest.approx(joules)


def test_a_counter_may_wrap(tmp_path, rapl):
    rapl("intel-rapl:0", 9_000_000)
    with EnergyMeter(tmp_path).measure() as reading:
        rapl("intel-rapl:0", 1_000_000)
    assert reading.joules["processor"] == pytest.approx(2.0)


def test_unreadable_counters_are_ignored(tmp_path, rapl):
    rapl("intel-rapl:0", 1)
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").write_text("")
    assert without_gpu(EnergyMeter(tmp_path)) == []


MODULES = {
    "AGX Orin": ([("VDD_GPU_SOC", 8), ("VDD_CPU_CV", 4), ("VIN_SYS_5V0", 5)], [("NC", 0), ("VDDQ_VDD2_1V8AO", 2)], 17),
    "Orin NX": ([("VDD_IN", 11), ("VDD_CPU_GPU_CV", 4), ("VDD_SOC", 2)], [], 11),
    "AGX Xavier": ([("GPU", 8), ("CPU", 4), ("SOC", 3)], [("CV", 1), ("VDDRQ", 2), ("SYS5V", 6)], 24),
}


@pytest.mark.parametrize(("first", "second", "watts"), MODULES.values(), ids=MODULES)
def test_power_of_a_jetson(tmp_path, rail, first, second, watts):
    """The energy of some work lies between the power times the time inside and outside of the measurement."""
    for sensor, labels in (("1-0040/hwmon/hwmon3", first), ("1-0041/hwmon/hwmon4", second)):
        for channel, (label, power) in enumerate(labels, 1):
            rail(channel, label, 10_000, 100 * power, sensor)
    if "NC" in dict(second):  # an unconnected channel has no readings
        (tmp_path / "sys/bus/i2c/drivers/ina3221/1-0041/hwmon/hwmon4/curr1_input").unlink()
    meter = EnergyMeter(tmp_path)
    assert without_gpu(meter) == ["board"]
    outside = time.perf_counter()
    with meter.measure() as reading:
        inside = time.perf_counter()
        sum(i * i for i in range(500_000))
        inside_s = time.perf_counter() - inside
    outside_s = time.perf_counter() - outside
    assert 0.999 * watts * inside_s <= reading.joules["board"] <= 1.001 * watts * outside_s


def test_nothing_is_counted_twice():
    assert Reading({"board": 5.0, "gpu": 3.0}).total == 5.0
    assert Reading({"processor": 5.0, "gpu": 3.0}).total == 8.0
    assert Reading().total is None
