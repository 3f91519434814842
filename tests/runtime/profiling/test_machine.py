"""Facts of a machine on made-up trees: a Jetson, a server, nothing at all."""

from vq4dit.runtime.profiling.machine import clocks, machine_facts, power_mode


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_jetson(tmp_path):
    write(tmp_path / "proc/device-tree/model", "NVIDIA Jetson AGX Orin Developer Kit\0")
    write(tmp_path / "proc/meminfo", "MemTotal:       31371892 kB\nMemFree: 1 kB\n")
    write(tmp_path / "proc/cpuinfo", "processor\t: 0\nmodel name\t: ARMv8 Processor rev 1 (v8l)\n")
    write(tmp_path / "var/lib/nvpmodel/status", "pmode:0002 fmode:quiet\n")
    cpu = tmp_path / "sys/devices/system/cpu/cpu0/cpufreq"
    write(cpu / "scaling_governor", "schedutil\n")
    write(cpu / "scaling_cur_freq", "1190400\n")
    write(cpu / "scaling_max_freq", "2201600\n")
    gpu = tmp_path / "sys/class/devfreq/17000000.gpu"
    write(gpu / "governor", "nvhost_podgov\n")
    write(gpu / "cur_freq", "306000000\n")
    write(gpu / "max_freq", "1300500000\n")
    facts = machine_facts(tmp_path)
    assert facts["board"] == "NVIDIA Jetson AGX Orin Developer Kit"
    assert facts["processor"] == "ARMv8 Processor rev 1 (v8l)"
    assert facts["memory_bytes"] == 31371892 * 1024
    assert facts["power_mode"] == "mode 2"
    assert facts["clocks"] == [
        {"of": "cpu0", "governor": "schedutil", "mhz": 1190.4, "max_mhz": 2201.6},
        {"of": "17000000.gpu", "governor": "nvhost_podgov", "mhz": 306.0, "max_mhz": 1300.5},
    ]
    assert facts["devices"] == []


def test_an_empty_tree(tmp_path):
    facts = machine_facts(tmp_path)
    assert facts["board"] is facts["power_mode"] is facts["memory_bytes"] is None
    assert facts["clocks"] == clocks(tmp_path) == []
    assert facts["versions"]["vq4dit"]


def test_a_status_file_without_a_mode(tmp_path):
    write(tmp_path / "var/lib/nvpmodel/status", "nothing here\n")
    assert power_mode(tmp_path) is None


def test_this_machine():
    facts = machine_facts()
    assert facts["processors"] >= 1 and facts["processor"]
