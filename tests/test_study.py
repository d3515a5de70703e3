"""Published studies: their configurations, the comparison with what was published, and the command."""

from __future__ import annotations

import csv
import itertools
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure

from glioma_pde import study_command
from glioma_pde.cli import main
from glioma_pde.config import from_json, load, loads
from glioma_pde.config.study import Measure, Published
from glioma_pde.errors import ConfigError, GliomaError
from glioma_pde.io.hdf5 import RunFile
from glioma_pde.manifest import parameter_rows
from glioma_pde.outcome import Course
from glioma_pde.parameters import PARAMETERS
from glioma_pde.plot._study import _turns
from glioma_pde.study import IN, OUT, UNKNOWN, markdown, measure, studied, study_text

STUDIES = sorted((Path(__file__).parent.parent / "configs" / "studies").glob("*.toml"))


# -- the studies that are shipped -----------------------------------------------------------------


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)
def test_every_study_is_correct_and_names_what_lies_outside_the_ranges(path):
    study = load(path)
    section = study.arms[0].study
    assert re.search(r"\b(19|20)\d\d\b", section.citation)  # a year
    chosen = {c.parameter: c for c in section.chosen}
    outside = {name for name, c in chosen.items() if c.outside}
    for arm in study.arms:
        assert from_json(arm.to_json()) == arm.model_copy(update={"folder": "."})
        assert arm.label, arm.arm
        for name, value, *_ in parameter_rows(arm):
            spread = PARAMETERS[name].spread
            if spread is not None and not spread[0] * (1 - 1e-9) <= value <= spread[1] * (1 + 1e-9):
                assert name in outside, f"{arm.arm}: {name} = {value:g} lies outside {spread}; say so in study.chosen"
        motility = arm.tumour.diffusivity_white_mm2_per_day, arm.tumour.diffusivity_grey_mm2_per_day
        assert 2.0 <= motility[0] / motility[1] <= 100.0 or "tumour.diffusivity_grey_mm2_per_day" in outside, arm.arm
        for given in arm.schedule.injections if arm.schedule else ():
            kept = f"schedule.injections[{given.route}].retained_fraction"
            usual = given.retained_fraction == PARAMETERS[kept].default or not np.any(given.cells)
            assert usual or kept in outside, f"{arm.arm}: {kept} = {given.retained_fraction:g}; say so in study.chosen"
    assert outside <= set(PARAMETERS)
    assert all(row.note for row in section.published)


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)
def test_every_study_names_what_stands_at_an_end_of_its_range(path):
    """Unless it is the default of the table; in the arm that is compared first it must not be called the middle."""
    study = load(path)
    section = study.arms[0].study
    chosen = {c.parameter: c for c in section.chosen}
    for arm in study.arms:
        for name, value, *_, default in parameter_rows(arm):
            spread = PARAMETERS[name].spread
            if spread is None or value == default or not np.any(np.isclose(value, spread, rtol=1e-6, atol=0)):
                continue
            assert name in chosen, f"{arm.arm}: {name} = {value:g} is an end of {spread}; say so in study.chosen"
            if arm.arm == section.published[0].arm:
                assert chosen[name].end != "middle", name


def test_the_studies_asked_for_are_there():
    names = {p.stem for p in STUDIES}
    assert names >= {
        "aboody2000",
        "kim2006",
        "barresi2003",
        "choi2011",
        "portnow2017",
        "stupp2005",
        "resection",
        "portnow2021",
    }


def test_ranges_are_read_from_the_table():
    found = {name: p.spread for name, p in PARAMETERS.items()}
    assert found["drug.kill.ic50_uM"] == (1.0, 30.0)
    assert found["drug.kill.emax_per_day"] == (0.25, 0.45)
    assert found["prodrug.vmax_mol_per_cell_per_day"] == pytest.approx((3.2e-14, 3.2e-12))
    assert found["malignancy.transformation_per_day"] == (0.0, 1e-8)
    assert found["tumour.diffusivity_grey_mm2_per_day"] is None
    assert found["prodrug.km_uM"] is None


# -- numbers --------------------------------------------------------------------------------------


@dataclass
class Ran:
    """What a comparison needs of a run."""

    arm: str
    course: Course
    summary: dict[str, Any] = field(default_factory=dict)


DAYS = np.arange(0.0, 11.0, 2.0)
RUNS = {
    "control": Ran("control", Course("control", "", DAYS, {"burden_cells": 8.0 * np.ones(6), "c": DAYS}), {"day_x": 20.0}),
    "treated": Ran("treated", Course("treated", "", DAYS, {"burden_cells": 1.0 * np.ones(6), "c": 2 * DAYS}), {"day_x": 50.0}),
    "cured": Ran("cured", Course("cured", "", DAYS, {"burden_cells": np.zeros(6)}), {"day_x": math.inf, "said": "CR"}),
}  # fmt: skip


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ({"arm": "treated", "against": "control", "day": 3.0}, -0.875),
        ({"arm": "treated", "against": "control", "day": 3.0, "power": 2 / 3}, -0.75),
        ({"arm": "treated", "against": "control", "day": 3.0, "form": "ratio"}, 0.125),
        ({"arm": "treated", "quantity": "c", "day": 3.0}, 6.0),
        ({"arm": "treated", "quantity": "c", "between": (3.0, 8.0)}, 11.0),
        ({"arm": "treated", "quantity": "c", "peak": True}, 20.0),
        ({"arm": "treated", "against": "control", "quantity": "day_x", "form": "difference"}, 30.0),
        ({"arm": "cured", "against": "control", "quantity": "day_x", "form": "difference"}, math.inf),
        ({"arm": "control", "against": "cured", "quantity": "day_x", "form": "difference"}, math.nan),
        ({"arm": "treated", "against": "cured", "day": 3.0}, math.nan),
        ({"arm": "treated", "quantity": "c", "day": 30.0}, math.nan),
    ],
)
def test_a_measure_is_the_number_that_it_says(said, number):
    assert measure(Measure(**said), RUNS) == pytest.approx(number, nan_ok=True)


@pytest.mark.parametrize("said", [{"quantity": "d", "day": 3.0}, {"quantity": "said"}, {"quantity": "d"}])
def test_a_quantity_that_is_not_there_is_named(said):
    with pytest.raises(GliomaError, match=r"cured .*burden_cells|has no number .*day_x"):
        measure(Measure(arm="cured", **said), RUNS)


@pytest.mark.parametrize(
    ("kind", "value", "low", "high", "verdict"),
    [
        ("target", -0.8, -0.9, -0.7, IN),
        ("target", -0.5, -0.6, -0.4, OUT),
        ("order_of_magnitude", 3.0, None, None, OUT),
        ("at_least", -0.9, None, None, IN),
        ("at_most", -0.9, None, None, OUT),
    ],
)
def test_agreement_is_a_matter_of_the_range(kind, value, low, high, verdict):
    row = Published(what="x", arm="treated", against="control", day=3.0, kind=kind, value=value, low=low, high=high)
    assert compared(row).rows[0].verdict == verdict


def compared(*rows: Published):
    """A study of these rows and of the runs above."""
    text = STUDY.partition("[[study.published]]")[0] + STUDY[STUDY.index("[[study.chosen]]") :]
    arm = loads(
        text.replace("[study]", "[study]\npublished = [{ what = 'x', arm = 'rt', value = 1, kind = 'at_least' }]")
    ).arms[0]
    section = arm.study.model_copy(update={"published": rows})
    arms = [arm.model_copy(update={"arm": name, "study": section}) for name in RUNS]
    return studied("s", list(RUNS.values()), arms, "A study")


def test_what_is_never_reached_shows_the_end_of_the_run():
    row = Published(what="x", arm="cured", quantity="day_x", kind="at_least", value=30.0, unit="days")
    gain = Published(
        what="y", arm="cured", against="control", quantity="day_x", form="difference", kind="at_most", value=3.0
    )
    nothing = Published(what="z", arm="treated", against="cured", day=3.0, kind="at_most", value=0.0)
    study = compared(row, gain, nothing)
    assert [r.shown for r in study.rows] == ["> 10 days", "> −10", "–"]
    assert [r.verdict for r in study.rows] == [IN, OUT, UNKNOWN]
    assert "at least 30 days" in study_text(study)
    assert markdown([study]).count("\n") == 4


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0639, "0.0639"), (314.2, "314"), (1000.0, "1000"), (8691.0, "8690"), (9999.0, "10000"), (12345.0, "1.23e+04")],
)
def test_numbers_are_shown_with_three_digits(value, text):
    row = Published(what="x", arm="treated", quantity="day_x", kind="at_least", value=value)
    assert compared(row).rows[0].text == f"at least {text}"


def test_curves_that_no_eye_tells_apart_take_turns():
    axes, days = Figure().add_subplot(), np.arange(4.0)
    axes.set_yscale("log")
    axes.set_ylim(1.0, 100.0)
    grows, close, other, short = 2.0**days, 1.01 * 2.0**days, 3.0**days, 2.0 ** days[:2]
    first, apart, second, alone = _turns(axes, [(days[: len(c)], c) for c in (grows, other, close, short)])
    assert apart == alone == "-"
    (start, dashes), (later, same) = first, second
    on, off = dashes
    assert (dashes, later - start) == (same, on) and on == off


# -- configuration --------------------------------------------------------------------------------

STUDY = """
title = "A study: of the test"
label = "toy scale"
[tissue]
kind = "radial"
radius_mm = 12.0
spacing_mm = 1.0
[tumour]
initial = { kind = "gaussian", centre_mm = [0.0], sigma_mm = 3.0, peak = 0.5 }
[radiotherapy]
fractions = [{ days = [1.0, 2.0], dose_gy = 2.0 }]
[time]
end_day = 4.0
[output]
animation = false
[arms.control]
label = "nothing"
without = ["radiotherapy"]
[arms.rt]
label = "two fractions"
[study]
citation = "Nobody (2000)"
fitted = "nothing"
predicted = "everything"
fails = "nowhere"
exposure = "radiation_dose"
[[study.published]]
what = "burden"
arm = "rt"
against = "control"
day = 4.0
value = -0.17
low = -0.2
high = -0.1
[[study.published]]
what = "dose"
arm = "rt"
quantity = "radiation_dose"
value = 5.0
kind = "at_least"
unit = "Gy"
[[study.chosen]]
parameter = "radiotherapy.alpha_per_gy"
how = "recollected"
why = "a default"
[[study.chosen]]
parameter = "two fractions"
how = "assumed"
end = "favourable"
why = "few"
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('arm = "rt"\nagainst', 'arm = "tr"\nagainst', "study.published[0].arm: there is no arm 'tr'"),
        ("day = 4.0\nvalue", "day = 5.0\nvalue", "study.published[0]: day 5 is after the end of arm 'rt', day 4"),
        ("low = -0.2\n", "", "study.published[0]: a target needs low and high around its value"),
        ("high = -0.1", "high = -0.18", "study.published[0]: a target needs low and high around its value"),
        ("day = 4.0\nvalue", "day = 4.0\npeak = true\nvalue", "study.published[0]: give one of day, between and peak"),
        ('against = "control"\n', "form = 'ratio'\n", "study.published[0]: against goes with form"),
        ('how = "recollected"', 'how = "guessed"', "study.chosen[0].how: should be 'measured', 'recollected', 'assumed' or 'fitted'"),
        ('fails = "nowhere"\n', "", "study.fails: is missing"),
        ('fails = "nowhere"', f'fails = "{2001 * "x"}"', "study.fails: must have at most 2000 characters"),
        ('parameter = "radiotherapy.alpha_per_gy"', 'parameter = "radiotherapy.alfa_per_gy"',
         "study.chosen[0].parameter: no arm has 'radiotherapy.alfa_per_gy'; did you mean 'radiotherapy.alpha_per_gy'?"),
        ('parameter = "radiotherapy.alpha_per_gy"', 'parameter = "carriers.loss_per_day"',
         "study.chosen[0].parameter: no arm has 'carriers.loss_per_day'"),
        ('why = "few"', 'why = "few"\nwho = "me"', "study.chosen[1].who: unknown key"),
        ("[output]", "[sensitivity]\noutcome = { arm = 'rt', day = 4.0 }\nfactors = [{ parameter = 'tumour.rho' }]\n[output]",
         "parameter: 'tumour.rho' is not in the table"),
        ("[output]", "[sensitivity]\noutcome = { arm = 'rt', day = 4.0 }\nfactors = [{ parameter = 'prodrug.km_uM' }]\n[output]",
         "low and high are missing; the table gives no range of prodrug.km_uM"),
        ("[output]", "[sensitivity]\noutcome = { arm = 'rt' }\nfactors = [{ parameter = 'drug.kill.ic50_uM' }]\n[output]",
         "sensitivity: outcome needs a day after 0"),
        ("[output]", "[sensitivity]\noutcome = { arm = 'rt', day = 0.0 }\nfactors = [{ parameter = 'drug.kill.ic50_uM' }]\n[output]",
         "sensitivity: outcome needs a day after 0"),
        ("[output]", "[sensitivity]\nlevels = 3\noutcome = { arm = 'rt', day = 1.0 }\nfactors = [{ parameter = 'drug.kill.ic50_uM' }]\n[output]",
         "sensitivity: levels must be even"),
        ("[output]", "[sensitivity]\nsamples = 48\noutcome = { arm = 'rt', day = 1.0 }\nfactors = [{ parameter = 'drug.kill.ic50_uM' }]\n[output]",
         "sensitivity: samples must be a power of two, or 0"),
    ],
)  # fmt: skip
def test_a_wrong_study_is_told_in_one_sentence(old, new, message):
    assert STUDY.count(old) == 1
    with pytest.raises(ConfigError) as caught:
        loads(STUDY.replace(old, new))
    assert len(caught.value.problems) == 1, caught.value.problems
    assert message in caught.value.problems[0]


# -- the command ----------------------------------------------------------------------------------


@pytest.fixture
def single_precision():
    with jax.enable_x64(False):
        yield


def test_a_small_study_end_to_end(tmp_path, capsys, single_precision):
    source, out = tmp_path / "small.toml", tmp_path / "out"
    source.write_text(STUDY)
    assert main(["study", str(tmp_path), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "in range" in said and "out of range" in said and "a default" in said
    assert "toy scale" in said  # although each arm has a label of its own
    with (out / "studies.csv").open(encoding="utf-8") as file:
        burden, dose = csv.DictReader(file)
    assert float(burden["ours"]) == pytest.approx(math.exp(-2 * (0.08 + 0.016)) - 1.0, abs=0.01)
    assert (burden["verdict"], dose["verdict"], dose["ours"]) == (IN, OUT, "4")
    assert (out / "small.png").stat().st_size > 20000
    assert (out / "studies.md").read_text(encoding="utf-8").startswith("| study |")
    with RunFile(out / "small" / "rt.h5") as file:
        assert json.loads(file.config_json)["study"]["published"][1]["value"] == 5.0
    written = (out / "small" / "rt.h5").stat().st_mtime_ns
    assert main(["study", str(source), "--out", str(out), "--keep", "--format", "pdf"]) == 0
    assert (out / "small" / "rt.h5").stat().st_mtime_ns == written
    assert (out / "small.pdf").exists()


def test_what_is_no_study_is_refused(tmp_path, capsys):
    plain = tmp_path / "plain.toml"
    plain.write_text(STUDY.partition("[study]")[0])
    assert main(["study", str(plain), "--out", str(tmp_path)]) == 2
    assert "study: this section is missing" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["study", str(tmp_path / "empty")]) == 2
    assert main(["study", str(plain), str(plain)]) == 2
    assert "two configurations are called plain" in capsys.readouterr().err


def test_a_study_that_cannot_be_built_is_refused_before_any_runs(tmp_path, capsys):
    (tmp_path / "a.toml").write_text(STUDY)
    (tmp_path / "b.toml").write_text(STUDY.replace("peak = 0.5", "cells = 1e12"))
    out = tmp_path / "out"
    assert main(["study", str(tmp_path), "--out", str(out)]) == 2
    assert "tumour.initial" in capsys.readouterr().err
    assert not list(out.rglob("*.h5"))


def test_an_interrupted_study_says_how_to_go_on(tmp_path, capsys, monkeypatch, single_precision):
    for name in "ab":
        (tmp_path / f"{name}.toml").write_text(STUDY)
    out, drawn = tmp_path / "out", []

    def interrupt(sources, study, path):
        if drawn:
            raise KeyboardInterrupt
        drawn.append(path)
        return path

    with monkeypatch.context() as patch:
        patch.setattr(study_command, "save_page", interrupt)
        assert main(["study", str(tmp_path), "--out", str(out), "--format", "svg"]) == 130
    said = capsys.readouterr().err
    assert f"glioma-pde study {tmp_path} --out {out} --keep --format=svg" in said
    assert [path.name for path in drawn] == ["a.svg"]  # before the second study ran
    assert not (out / "studies.md").exists()


def cells_of(text: str) -> list[list[str]]:
    """The lines of a table of studies, without its head, cell by cell."""
    lines = text.split("| study | | published | ours | | |\n|---|---|---|---|---|---|\n")[1].splitlines()
    table = itertools.takewhile(lambda line: line.startswith("|"), lines)
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table]


@pytest.mark.slow
def test_the_shipped_studies_compare_as_the_readme_says(tmp_path, capsys, single_precision):
    assert main(["study", str(STUDIES[0].parent), "--out", str(tmp_path)]) == 0
    readme = (STUDIES[0].parents[2] / "README.md").read_text(encoding="utf-8")
    told, found = cells_of(readme), cells_of((tmp_path / "studies.md").read_text(encoding="utf-8"))
    assert len(told) == len(found)
    number = r"−?\d+(?:\.\d+)?(?:e[+−]?\d+)?"
    for mine, theirs in zip(found, told, strict=True):
        assert UNKNOWN not in mine[4]
        assert [*mine[:3], *mine[4:]] == [*theirs[:3], *theirs[4:]]
        ours, said = mine[3], theirs[3]  # in the last digit machines may differ
        assert re.sub(number, "#", ours) == re.sub(number, "#", said)
        for x, y in zip(re.findall(number, ours), re.findall(number, said), strict=True):
            size = float(y.replace("−", "-"))
            assert float(x.replace("−", "-")) == pytest.approx(size, rel=0.02, abs=1.0 if "%" in said else 0.0), theirs
