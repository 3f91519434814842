"""Power sources on made-up sysfs trees, and the energy that adds up from them."""

import os

import pytest

from vq4dit.runtime.profiling.energy import _Sampler, measure_energy
from vq4dit.runtime.profiling.power import HwmonRails, RaplZone, power_sources, total_of


def write(folder, values):
    folder.mkdir(parents=True)
    for name, value in values.items():
        (folder / name).write_text(f"{value}\n")


def jetson(root):
    """An INA3221 as on Orin NX: channel 4 is the sum of shunts, a voltage without a current."""
    write(
        root / "sys/class/hwmon/hwmon3",
        {
            "name": "ina3221",
            "in1_label": "VDD_IN", "in1_input": 5040, "curr1_input": 1200,
            "in2_label": "VDD_CPU_GPU_CV", "in2_input": 5000, "curr2_input": 500,
            "in3_label": "VDD_SOC", "in3_input": 5000, "curr3_input": 300,
            "in4_label": "sum of shunt voltages", "in4_input": 10,
        },
    )  # fmt: skip
    write(root / "sys/class/hwmon/hwmon0", {"name": "thermal-fan-est", "curr1_input": 7})


def test_jetson_rails(tmp_path):
    jetson(tmp_path)
    sources, why_not = power_sources(tmp_path)
    assert [source.name for source in sources] == ["ina3221"] and why_not == []
    assert not sources[0].is_counter
    watts = sources[0].read()
    assert watts == pytest.approx({"VDD_IN": 6.048, "VDD_CPU_GPU_CV": 2.5, "VDD_SOC": 1.5})
    assert total_of(watts) == pytest.approx(6.048)


def test_rails_without_a_total_add_up():
    assert total_of({"VDD_GPU_SOC": 3.0, "VDD_CPU_CV": 1.5, "VIN_SYS_5V0": 4.0}) == 8.5


def test_monitors_that_give_power_themselves(tmp_path):
    write(tmp_path / "hwmon1", {"name": "ina226", "power1_input": 2_500_000})
    rails = HwmonRails(tmp_path / "hwmon1")
    assert rails.has_rails and rails.read() == {"ina226.1": 2.5}


def rapl(root, zone, name, joules=100.0, limit=262_143.0):
    write(
        root / f"sys/class/powercap/{zone}",
        {"name": name, "energy_uj": int(joules * 1e6), "max_energy_range_uj": int(limit * 1e6)},
    )


def test_powercap_packages_and_memory_count_but_parts_of_a_package_do_not(tmp_path):
    rapl(tmp_path, "intel-rapl:0", "package-0")
    rapl(tmp_path, "intel-rapl:0:0", "core")
    rapl(tmp_path, "intel-rapl:0:1", "dram", joules=7.0)
    sources, _ = power_sources(tmp_path)
    values = [source.read() for source in sources]
    assert values == [{"package-0 (0)": 100.0}, {"dram (0:1)": 7.0}]
    assert all(source.is_counter for source in sources)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_counter_that_is_closed_to_us_is_told(tmp_path):
    rapl(tmp_path, "intel-rapl:0", "package-0")
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").chmod(0)
    sources, why_not = power_sources(tmp_path)
    assert sources == [] and "Permission denied" in why_not[0]


def test_a_source_that_holds_no_number_is_told(tmp_path):
    rapl(tmp_path, "intel-rapl:0", "package-0")
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").write_text("none")
    sources, why_not = power_sources(tmp_path)
    assert sources == [] and why_not[0].startswith("rapl: ")


def test_a_machine_without_sources_says_what_was_looked_for(tmp_path):
    sources, why_not = power_sources(tmp_path)
    assert sources == [] and "hwmon" in why_not[0] and "powercap" in why_not[0]


class Scripted:
    """A source that gives one value after another."""

    name = "scripted"

    def __init__(self, values, *, is_counter, wraps_at=None):
        self.values, self.is_counter, self.wraps_at = list(values), is_counter, wraps_at

    def read(self):
        value = self.values.pop(0)
        if isinstance(value, Exception):
            raise value
        return {"rail": value}


def joules_of(source, times):
    clock = iter(times)
    sampler = _Sampler(source, lambda: next(clock))
    for _ in times:
        sampler.sample()
    return sampler


def test_gauges_add_up_as_trapezoids():
    sampler = joules_of(Scripted([10.0, 20.0, 20.0], is_counter=False), [0.0, 2.0, 3.0])
    assert sampler.result(3.0)["joules"] == pytest.approx(15.0 * 2 + 20.0)
    assert sampler.result(3.0)["watts"] == pytest.approx(50.0 / 3)


def test_counters_are_differences_also_over_their_end():
    sampler = joules_of(Scripted([90.0, 97.0, 4.0], is_counter=True, wraps_at=100.0), [0, 1, 2])
    assert sampler.result(2.0)["joules"] == pytest.approx(7.0 + 7.0)


def test_a_counter_that_falls_without_an_end_adds_nothing():
    sampler = joules_of(Scripted([90.0, 4.0, 5.0], is_counter=True), [0, 1, 2])
    assert sampler.result(2.0)["joules"] == pytest.approx(1.0)


def test_a_source_that_fails_meanwhile_is_left_out(tmp_path):
    rapl(tmp_path, "intel-rapl:0", "package-0")
    good = RaplZone(tmp_path / "sys/class/powercap/intel-rapl:0")
    bad = Scripted([1.0, *[OSError("gone")] * 1000], is_counter=False)
    rows = measure_energy([bad, good], lambda: None)
    assert [row["source"] for row in rows] == ["rapl"]
    assert rows[0]["joules"] == 0.0


def test_work_is_done_once_and_sources_are_read_around_it(tmp_path):
    rapl(tmp_path, "intel-rapl:0", "package-0")
    folder, calls = tmp_path / "sys/class/powercap/intel-rapl:0", []

    def work():
        calls.append(1)
        (folder / "energy_uj").write_text(str(int(112.5e6)))

    row = measure_energy([RaplZone(folder)], work)[0]
    assert calls == [1] and row["joules"] == pytest.approx(12.5)
    assert row["watts"] == pytest.approx(12.5 / row["seconds"])
