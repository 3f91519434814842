"""Parts of the whole-step benchmark; `benchmarks/dit_xl_step.py` is the program."""
