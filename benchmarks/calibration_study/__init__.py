"""Parts of the calibration study; `benchmarks/calibration.py` is the program."""
