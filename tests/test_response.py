"""Responses on scans: the rules of RANO 2.0 for volumes, on courses made for them."""

import numpy as np
import pytest

from glioma_pde.response import rano

MONTH = 28.0


def response(*volumes, every=MONTH, confirm=MONTH):
    return rano([every * k for k in range(len(volumes))], volumes, confirm)


@pytest.mark.parametrize(
    ("volumes", "categories", "best", "day"),
    [
        # growth of 40 % over the smallest volume, not over the first one
        ([1000, 1300, 1399], "SD SD SD", "SD", np.inf),
        ([1000, 1400, 1500], "SD PD PD", "PD", MONTH),
        ([2000, 1000, 1400, 1500], "SD SD PD PD", "SD", 2 * MONTH),
        # a loss of 65 %, confirmed and not
        ([1000, 350, 349], "SD PR PR", "PR", np.inf),
        ([1000, 351, 351], "SD SD SD", "SD", np.inf),
        ([1000, 340, 360], "SD PR SD", "SD", np.inf),
        # gone, and back once it can be measured again
        ([1000, 0, 0, 300, 600, 700], "SD CR CR PR PD PD", "CR", 4 * MONTH),
        ([1000, 300, 0], "SD PR CR", "PR", np.inf),
        # a bump that the next scan does not confirm; one on the last scan counts
        ([1000, 1500, 1100], "SD PD SD", "SD", np.inf),
        ([1000, 1100, 1600], "SD SD PD", "SD", 2 * MONTH),
    ],
)
def test_categories_best_response_and_progression(volumes, categories, best, day):
    found = response(*volumes)
    assert " ".join(found.categories) == categories
    assert found.best == best
    assert found.progression_day == day


def test_confirmation_takes_its_time():
    fast = response(1000, 300, 290, every=7.0)
    assert fast.categories == ("SD", "PR", "PR")
    assert fast.best == "SD"
    assert response(1000, 300, 290, 280, 270, 260, every=7.0).best == "PR"
    # seen for the first time on day 7, confirmed on day 35
    grown = response(1000, 1500, 1600, 1700, 1800, 1900, every=7.0)
    assert grown.progression_day == 7.0


def test_what_cannot_be_measured_is_not_judged():
    assert response(500, 0, 5000).best == "NE"
    assert response(500, 0, 5000).progression_day == np.inf


@pytest.mark.parametrize(("days", "volumes"), [([], []), ([0, 0], [1, 1]), ([0, 1], [1])])
def test_scans_need_days_and_volumes(days, volumes):
    with pytest.raises(ValueError, match="Scans need"):
        rano(days, volumes)
