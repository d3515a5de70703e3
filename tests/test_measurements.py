"""Tables of measurements: what is read, and what is told of a bad one, all at once and with row numbers."""

from __future__ import annotations

import numpy as np
import pytest

from glioma_pde.calibrate.data import Measurements, check
from glioma_pde.calibrate.noise import LEFT, Noise
from glioma_pde.errors import ConfigError

GOOD = """# volumes
subject,arm,time,observable,value,sd,censoring
b,treated,3,volume,30,2,
b,treated,0,volume,16,,left

a,control,0,volume,10,,
a,control,2.5,volume,20,,none
"""


def test_rows_are_sorted_within_subjects_and_remember_their_lines():
    data = Measurements.parse(GOOD)
    assert data.subjects == ("b", "a")
    assert list(data.where(data.subject == "b").time) == [0.0, 3.0]
    assert sorted(data.row) == [3, 4, 6, 7]
    assert data.censoring[data.row == 4] == LEFT
    assert np.isnan(data.sd[data.row == 7])
    assert data.arm_of("b") == "treated"


def test_petab_names_are_understood():
    text = "subject,simulationConditionId,time,observableId,measurement,noiseParameters\nx,c,1,volume,2,0.1\n"
    data = Measurements.parse(text)
    assert (data.arm[0], data.observable[0], data.value[0], data.sd[0]) == ("c", "volume", 2.0, 0.1)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", ["no table"]),
        ("subject,time,value\na,1,2\n", ["column 'observable' is missing"]),
        ("subject,time,observable,value,colour\na,1,v,2,red\n", ["column 'colour' is unknown"]),
        ("subject,time,observable,value\na,1,v\n", ["row 2: has 3 cells, the head has 4"]),
        ('subject,time,observable,value\n\na,1,v,2\na,2,"v,2\nb,1,v,3\n', ["row 4: cannot be read as CSV"]),
        ('subject,time,observable,value\n"a\nb",1,v,2\nc,x,v,3\n', ["row 4: time must be"]),
        (
            "subject,time,observable,value,sd,censoring\na,x,v,2,1,\n,1,v,nan,-1,up\n",
            ["row 2: time must be a finite number", "row 3: subject is empty", "row 3: value must be", "row 3: sd must be",
             "row 3: censoring is 'up'"],
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_told_at_once(text, sentences):
    with pytest.raises(ConfigError) as error:
        Measurements.parse(text)
    assert len(error.value.problems) == len(sentences)
    for problem, sentence in zip(error.value.problems, sentences, strict=True):
        assert sentence in problem


def test_what_a_fit_cannot_use_is_told_at_once():
    text = """subject,arm,time,observable,value
a,control,0,volume,10
a,control,0,volume,11
a,treated,2,volume,-3
b,contol,1,volume,5
b,control,400,weight,7
c,control,1,volume,4
"""
    noise = Noise("lognormal", "s")
    problems = check(Measurements.parse(text), ["volume"], [noise], ["control", "treated"], (0.0, 100.0))
    said = "\n".join(problems)
    for sentence in (
        "rows 2, 3: subject 'a' has 2 values of volume on day 0",
        "row 4: volume is -3, but log-normal noise needs a positive value",
        "rows 2, 3, 4: subject 'a' is in arms control, treated",
        "row 5: unknown arm 'contol'",
        "row 6: unknown observable 'weight'",
        "row 6: day 400 lies outside the simulated days 0 to 100",
        "row 7: subject 'c' has 1 measurement; at least 2 are needed",
    ):
        assert sentence in said
    assert not check(Measurements.parse(GOOD), ["volume"], [noise], ["control", "treated"], (0.0, 3.0))


def test_one_arm_alone_needs_no_column_and_several_do():
    text = "subject,time,observable,value\na,0,volume,10\na,3,volume,20\n"
    data = Measurements.parse(text, arms=["control"])
    assert list(data.arm) == ["control", "control"]
    assert not check(data, ["volume"], [Noise("lognormal", "s")], ["control"], (0.0, 3.0))
    with pytest.raises(ConfigError, match="column 'arm' is missing; the configuration has the arms control, treated"):
        Measurements.parse(text, arms=["control", "treated"])
    named = "subject,arm,time,observable,value\na,contrl,0,volume,10\na,contrl,3,volume,20\n"
    assert list(Measurements.parse(named, arms=["control"]).arm) == ["contrl", "contrl"]  # not silently another
