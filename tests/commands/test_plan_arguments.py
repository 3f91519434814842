"""Options of `vq4dit build` for plans."""

import argparse

import pytest

from vq4dit.commands.plan_arguments import add_plan_arguments, plan_options
from vq4dit.engines.plan_options import PlanOptions
from vq4dit.errors import OptionError


def parsed(target, *arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument("--target")
    add_plan_arguments(parser)
    return plan_options(parser.parse_args(["--target", target, *arguments]))


def test_nothing_given_is_a_static_batch_of_one():
    assert parsed("tensorrt") == PlanOptions() and PlanOptions().batch == (1, 1, 1)
    assert parsed("cpu") is None


def test_all_options():
    options = parsed("tensorrt-rtx", "--batch", "1:4:8", "--compute-capability", "8.6,12.0",
                     "--no-cache")  # fmt: skip
    assert (options.batch, options.compute_capabilities) == ((1, 4, 8), ("8.6", "12.0"))
    assert not options.use_cache and options.linears == "auto"
    assert parsed("tensorrt", "--linears", "decode").linears == "decode"
    assert parsed("tensorrt", "--batch", "8", "--version-compatible").batch == (8, 8, 8)


@pytest.mark.parametrize(
    ("target", "arguments", "message"),
    [
        ("cpu", ["--batch", "4"], "--batch is for targets tensorrt and tensorrt-rtx, not for cpu"),
        ("onnx", ["--no-cache"], "--no-cache is for targets"),
        ("cpu", ["--linears", "gather"], "--linears is for target tensorrt, not for cpu"),
        ("tensorrt-rtx", ["--linears", "auto"], "--linears is for target tensorrt, not for tens"),
        ("tensorrt", ["--batch", "1:8"], "--batch is '1:8', needed a number, or MIN:OPT:MAX"),
        ("tensorrt", ["--batch", "many"], "--batch is 'many'"),
        ("tensorrt-rtx", ["--compute-capability", "sm_86"], "is 'sm_86', needed numbers such as"),
    ],
)
def test_what_does_not_parse(target, arguments, message):
    with pytest.raises(OptionError, match=message):
        parsed(target, *arguments)
