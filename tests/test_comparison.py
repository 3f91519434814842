"""The comparison picture: every picture is in it, at its place, enlarged without blur."""

import numpy as np
import pytest

from vq4dit.comparison import comparison_picture


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_stand_in_rows_and_columns(channels):
    levels = np.array([[40, 90, 140], [60, 110, 160]], np.uint8)
    rows = [
        (f"row {r}", np.full((3, 8, 8, channels), 0, np.uint8) + levels[r][:, None, None, None])
        for r in range(2)
    ]
    sheet = comparison_picture(rows, ["a", "b", "a name much too long for its column"])
    assert sheet.dtype == np.uint8
    assert sheet.shape[2] == 3
    places = {}
    for value in levels.reshape(-1):
        where = np.argwhere((sheet == value).all(axis=2))
        assert len(where) >= 96 * 96  # text edges may have the same grey
        places[int(value)] = np.median(where, axis=0)
    for row in levels.tolist():
        assert places[row[0]][1] < places[row[1]][1] < places[row[2]][1]
    for column in levels.T.tolist():
        assert places[column[0]][0] < places[column[1]][0]


def test_large_pictures_are_not_enlarged():
    rows = [("fp", np.zeros((1, 128, 128, 3), np.uint8))]
    sheet = comparison_picture(rows, ["x"])
    assert (sheet == 0).all(axis=2).sum() == pytest.approx(128 * 128, rel=0.02)
