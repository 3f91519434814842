"""The progress bar of a calibration: stages follow each other, quiet draws nothing."""

from vq4dit.stage_bar import StageBar


def run_two_stages(quiet):
    with StageBar(quiet=quiet) as progress:
        progress("blocks", 1, 2)
        progress("blocks", 2, 2, loss=0.12345)
        progress("distillation", 30, 30, loss=1.0)


def test_each_stage_has_a_bar_with_its_numbers(capsys):
    run_two_stages(quiet=False)
    out = capsys.readouterr()
    assert out.out == ""
    assert "2/2" in out.err
    assert "30/30" in out.err
    assert "loss=0.1235" in out.err
    assert out.err.index("blocks") < out.err.index("distillation")


def test_quiet_draws_nothing(capsys):
    run_two_stages(quiet=True)
    assert capsys.readouterr() == ("", "")
