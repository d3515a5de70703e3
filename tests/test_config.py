"""Configuration files: what is right is read, what is wrong is named, and nothing else ever escapes."""

from __future__ import annotations

import copy
import json
import os
import random
import re
import resource
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from glioma_pde.cli import main
from glioma_pde.config import Config, from_json, load, loads
from glioma_pde.config.fit_loading import is_fit_config, load_fit, loads_fit
from glioma_pde.config.loading import DEEPEST, MOST_ARMS, MOST_BYTES
from glioma_pde.config.sections import SECTIONS
from glioma_pde.errors import ConfigError, one_line
from glioma_pde.parameters import PARAMETERS

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(p for p in (ROOT / "configs").glob("*.toml") if not p.stem.startswith("fit_"))
SHIPPED = CONFIGS[0].read_text(encoding="utf-8")

TINY = """
[tissue]
kind = "phantom"
shape = [24, 20]
[tumour]
initial = { kind = "gaussian", centre_mm = [4.0, 0.0], sigma_mm = 1.5, peak = 0.5 }
[time]
end_day = 4.0
"""
TREATED = (
    TINY
    + """
[carriers]
[attractant]
[prodrug]
[drug]
[[schedule.injections]]
days = [1.0]
cells = 1e5
sites_mm = [[-6.0, 1.0]]
sigma_mm = 1.5
"""
)


def problems_of(text: str, sets=()) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loads(text, "x.toml", sets)
    assert caught.value.exit_code == 2
    shown = str(caught.value)
    assert shown.startswith("x.toml: ")
    assert all(p in shown for p in caught.value.problems)
    return caught.value.problems


def only(text: str, sets=()) -> str:
    found = problems_of(text, sets)
    assert len(found) == 1, found
    return found[0]


# -- what is right --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_shipped_configurations_load(path):
    study = load_fit(path).study if is_fit_config(path) else load(path)
    assert study.arms
    assert study.title
    assert study.text == path.read_text(encoding="utf-8")
    assert len({a.arm for a in study.arms}) == len(study.arms)


def test_there_are_shipped_configurations():
    assert CONFIGS


@pytest.mark.parametrize("text", [SHIPPED, TINY, TREATED], ids=["shipped", "tiny", "treated"])
def test_an_arm_goes_through_json_unchanged(text):
    for arm in loads(text).arms:
        again = from_json(arm.to_json())
        assert again == arm
        assert again.to_json() == arm.to_json()


def test_json_of_a_damaged_arm_is_a_config_error():
    data = json.loads(loads(TINY).arms[0].to_json())
    data["time"]["end_day"] = -1
    with pytest.raises(ConfigError, match=r"time\.end_day"):
        from_json(json.dumps(data))


def test_defaults_are_the_parameter_table():
    arm = loads(TREATED).arms[0]
    seen = 0
    for key, parameter in PARAMETERS.items():
        node = arm
        for part in key.split("."):
            node = getattr(node, part, None)
        if node is not None:
            seen += 1
            assert node == parameter.default, key
    assert seen > 25


def test_sections_that_are_not_there_are_off():
    arm = loads(TINY).arms[0]
    assert arm.arm == "run"
    assert [arm.carriers, arm.attractant, arm.prodrug, arm.drug] == [None] * 4
    assert arm.schedule.injections == []


def test_the_range_of_the_attractant_may_be_given_in_mm():
    for more, range_mm, decay in (("", 3.0, 1.7), ("decay_per_day = 17.0", 0.5, 17.0), ('range = "short"', 0.3, 17.0)):
        text = TREATED.replace("[attractant]", f"[attractant]\nrange_mm = {range_mm}\n{more}")
        attractant = loads(text).arms[0].attractant
        assert attractant.decay_per_day == decay
        assert attractant.diffusivity_mm2_per_day == pytest.approx(range_mm**2 * decay, rel=1e-12)
    with pytest.raises(ConfigError, match=r"attractant: range_mm = 3 contradicts .* = 1 mm; leave out one"):
        loads(TREATED.replace("[attractant]", "[attractant]\nrange_mm = 3.0\ndiffusivity_mm2_per_day = 1.7"))


def test_short_range_attractant_is_a_preset_that_single_values_override():
    text = TREATED.replace("[attractant]", '[attractant]\nrange = "short"\ndecay_per_day = 9.0')
    a = loads(text).arms[0].attractant
    assert (a.diffusivity_mm2_per_day, a.decay_per_day, a.release_per_day) == (1.5, 9.0, 17.0)


def test_repeated_doses_are_spelled_out():
    text = TREATED.replace("days = [1.0]", "every = { from_day = 0.5, days = 1.0, count = 3 }")
    assert loads(text).arms[0].schedule.injections[0].all_days() == [0.5, 1.5, 2.5]


@pytest.mark.parametrize(
    ("taxis", "kind"),
    [
        ("{ kind = 'none' }", "none"),
        ("{ kind = 'linear', sensitivity_mm2_per_day = 0.2 }", "linear"),
        ("{ kind = 'receptor', receptor_constant = 2.0 }", "receptor"),
        ("{ kind = 'logarithmic', offset_relative = 0.01 }", "logarithmic"),
        ("{ kind = 'flux_limited', speed_mm_per_day = 0.5 }", "flux_limited"),
    ],
)
def test_each_kind_of_taxis_takes_its_own_parameters(taxis, kind):
    assert loads(TREATED, sets=[f"carriers.taxis={taxis}"]).arms[0].carriers.taxis.kind == kind


@pytest.mark.parametrize(
    ("tissue", "point"),
    [
        ('kind = "radial"\nradius_mm = 10.0\nspacing_mm = 0.5', "[0.0]"),
        ('kind = "mni152"', "[4.0, 0.0, 0.0]"),
        ('kind = "nifti"\nwhite = "w.nii"\ngrey = "g.nii"', "[4.0, 0.0, 0.0]"),
    ],
)
def test_each_kind_of_tissue_loads_without_its_data(tissue, point):
    text = TINY.replace('kind = "phantom"\nshape = [24, 20]', tissue).replace("[4.0, 0.0]", point)
    assert loads(text).arms[0].tissue.kind in tissue


# -- overrides ------------------------------------------------------------------------------------


def test_set_takes_toml_values_and_bare_words():
    sets = ["tumour.proliferation_per_day=0.5", "tumour.growth=gompertz", "time.frames_days=[1.0, 2.0]"]
    sets += ["numerics.ledger=false", 'title = "A = B"', "capacity_cells_per_mm3=2e5"]
    study = loads(TINY, sets=sets)
    arm = study.arms[0]
    assert arm.tumour.proliferation_per_day == 0.5
    assert arm.tumour.growth == "gompertz"
    assert arm.time.frames_days == [1.0, 2.0]
    assert arm.numerics.ledger is False
    assert study.title == "A = B"
    assert arm.capacity_cells_per_mm3 == 2e5


def test_set_makes_a_section_that_was_not_there():
    assert loads(TINY, sets=["outcome.fatal_cells=1e7"]).arms[0].outcome.fatal_cells == 1e7


@pytest.mark.parametrize(
    ("item", "part"),
    [
        ("tumour", "write section.key=value"),
        ("=3", "write section.key=value"),
        ("tumour..x=3", "write section.key=value"),
        ("title.x=3", "title is not a table"),
        ("tumour.proliferation_per_day.x=3", "tumour.proliferation_per_day is not a table"),
        ("tumour.prolifration_per_day=3", "did you mean 'proliferation_per_day'?"),
        ("time.end_day=nan", "time.end_day"),
    ],
)
def test_wrong_sets_are_named(item, part):
    found = problems_of('title = "t"\n' + TINY.replace("[tumour]", "[tumour]\nproliferation_per_day = 0.1"), [item])
    assert any(part in p for p in found), found


def test_arms_merge_tables_replace_lists_and_leave_the_others_alone():
    text = TREATED + (
        "[arms.base]\n[arms.other]\n[arms.other.tumour]\nproliferation_per_day = 0.5\n"
        "[[arms.other.schedule.injections]]\ndays = [2.0]\ncells = 5.0\nsites_mm = [[0.0, 8.0]]\nsigma_mm = 2.0\n"
        "[arms.none]\nwithout = ['carriers', 'attractant', 'prodrug', 'drug', 'schedule']\n"
    )
    base, other, none = loads(text).arms
    assert base == loads(TREATED).arms[0].model_copy(update={"arm": "base", "title": base.title})
    assert other.tumour.proliferation_per_day == 0.5
    assert other.tumour.initial == base.tumour.initial
    assert [i.days for i in other.schedule.injections] == [[2.0]]
    assert none.carriers is None
    assert none.schedule.injections == []
    assert base.tumour.proliferation_per_day == PARAMETERS["tumour.proliferation_per_day"].default


def test_an_arm_may_change_the_kind_of_a_union_whole():
    text = TREATED.replace("[carriers]", "[carriers]\ntaxis = { kind = 'flux_limited', speed_mm_per_day = 1.0 }")
    text += "[arms.a]\n[arms.b.carriers]\ntaxis = { kind = 'linear' }\n"
    text += "[arms.c.carriers.taxis]\nspeed_mm_per_day = 2.0\n"
    a, b, c = (arm.carriers.taxis for arm in loads(text).arms)
    assert (a.speed_mm_per_day, b.kind, c.kind, c.speed_mm_per_day) == (1.0, "linear", "flux_limited", 2.0)


def test_an_arm_may_leave_out_a_section_and_bring_its_own():
    text = TREATED.replace("[prodrug]", "[prodrug]\nkm_uM = 7.0")
    text += "[arms.a]\nwithout = ['prodrug']\n[arms.a.prodrug]\nbioavailability = 0.5\n"
    prodrug = loads(text).arms[0].prodrug
    assert prodrug.bioavailability == 0.5
    assert prodrug.km_uM == PARAMETERS["prodrug.km_uM"].default


# -- what is wrong --------------------------------------------------------------------------------

WRONG = {
    "unknown key": ("growth_rate = 1", "[tumour]", "tumour.growth_rate: unknown key; did you mean 'growth'?"),
    "misspelt key": ("proliferation_per_dy = 1", "[tumour]", "did you mean 'proliferation_per_day'?"),
    "out of range": ("proliferation_per_day = -1", "[tumour]", "tumour.proliferation_per_day: "),
    "wrong type": ("proliferation_per_day = 'fast'", "[tumour]", "(it is 'fast')"),
    "infinite": ("proliferation_per_day = inf", "[tumour]", "tumour.proliferation_per_day: "),
    "wrong choice": ("growth = 'logistik'", "[tumour]", "tumour.growth: "),
    "wrong kind": ("taxis = { kind = 'linaer' }", "[carriers]", "'linaer' is not one of"),
    "nearest kind": ("taxis = { kind = 'linaer' }", "[carriers]", "did you mean 'linear'?"),
    "another kind's key": (
        "taxis = { kind = 'linear', speed_mm_per_day = 1.0 }",
        "[carriers]",
        "carriers.taxis.speed_mm_per_day: unknown key",
    ),
    "in a list": (
        "boluses = [{ day = 0.0, dose_mg_per_kg = 1.0 }, { day = 1.0 }]",
        "[prodrug]",
        "prodrug.boluses[1].dose_mg_per_kg: is missing",
    ),
    "reversed course": (
        "courses = [{ start_day = 2.0, end_day = 1.0, dose_mg_per_kg_per_day = 1.0 }]",
        "[prodrug]",
        "prodrug.courses[0]: end_day must come after start_day",
    ),
    "late course": (
        "courses = [{ start_day = 9.0, end_day = 10.0, dose_mg_per_kg_per_day = 1.0 }]",
        "[prodrug]",
        "prodrug.courses[0]: day 9",
    ),
    "late bolus": ("boluses = [{ day = 9.0, dose_mg_per_kg = 1.0 }]", "[prodrug]", "prodrug.boluses[0]: day 9"),
    "both whens": ("every = { days = 1.0, count = 2 }", "[[schedule.injections]]", "give either days"),
    "long step": ("step_days = 5.0", "[time]", "time.step_days: 5 is longer than the run of 4 days"),
    "late frame": ("frames_days = [1.0, 5.0]", "[time]", "time.frames_days[1]: day 5 is after"),
    "too many steps": ("step_days = 1e-8", "[time]", "time: more than 10⁷ time steps: lengthen step_days"),
    "too many": ("observe_every_days = 1e-9", "[time]", "more than 10⁶ observations"),
}


@pytest.mark.parametrize("name", WRONG)
def test_each_mistake_is_one_sentence_with_its_path(name):
    line, after, expected = WRONG[name]
    assert expected in only(TREATED.replace(after, f"{after}\n{line}", 1))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("[tumour]", "[tumor]", "tumor: unknown; did you mean 'tumour'?"),
        ("[time]\nend_day = 4.0", "", "time: this section is missing"),
        ("peak = 0.5", "peak = 0.5, cells = 1e5", "give either peak"),
        (", peak = 0.5", "", "give either peak"),
        ("[4.0, 0.0]", "[4.0, 0.0, 0.0]", "tumour.initial.centre_mm: [4.0, 0.0, 0.0] has 3 coordinates"),
        ("[4.0, 0.0]", "[40.0, 0.0]", "is outside the phantom"),
        ("[-6.0, 1.0]", "[-6.0, 10.5]", "schedule.injections[0].sites_mm[0]: "),
        ("shape = [24, 20]", "shape = [24]", "tissue.shape: "),
        ("shape = [24, 20]", "shape = [1024, 1024, 1024]", "more than 10⁹ cells"),
        ("days = [1.0]", "days = [4.0]", "day 4 is not before time.end_day = 4"),
        ("days = [1.0]", "days = []", "days is empty"),
        ("days = [1.0]", "", "give either days"),
        ("[attractant]\n", "", "carriers.taxis: needs the section [attractant]"),
        ("[prodrug]\n", "", "drug: has no source"),
        ("[tissue]", "capacity_cells_per_mm3 = true\n[tissue]", "capacity_cells_per_mm3: must be a number"),
        ("[tissue]", "title = 3\n[tissue]", "title: must be a string"),
        ("[tissue]", "label = 3\n[tissue]", "label: must be a string"),
        ("[tissue]", "arms = 3\n[tissue]", "arms: must hold one table per arm"),
        ("[tissue]", "tumour\n[tissue]", "not valid TOML"),
        ("[carriers]", "[carriers]\nproliferation_per_day = 0.3", "carriers.proliferation_per_day: 0.3 is more than loss"),
        ("[carriers]", "[carriers]\nproliferation_per_day = 0.3\ncrowding = 0.4", "nothing caps the carriers; set"),
        ("[time]", "[numerics]\nstepper = 'rkl2'\n[time]", "numerics.stepper: 'rkl2' is for diffusion"),
        ("[time]", "[numerics]\nelliptic_tolerance = 1e-9\n[time]", "needs precision = 'float64'"),
        ("[time]", "[outcome]\nt1gd_threshold = 0.1\n[time]", "outcome.t1gd_threshold: must be above"),
    ],
)  # fmt: skip
def test_mistakes_across_keys_and_sections(old, new, expected):
    assert old in TREATED
    found = problems_of(TREATED.replace(old, new, 1))
    assert any(expected in p for p in found), found


@pytest.mark.parametrize("cap", ["volume_filling = true", "crowding = 0.5", "loss_per_day = 0.3"])
def test_carriers_that_something_caps_may_multiply(cap):
    assert loads(TREATED.replace("[carriers]", f"[carriers]\nproliferation_per_day = 0.3\n{cap}"), "x.toml").arms


def test_sections_that_need_carriers_say_so():
    found = problems_of(TREATED.replace("[carriers]\n", ""))
    assert {p.split(":")[0] for p in found} >= {"prodrug", "drug", "schedule.injections"}


def test_everything_wrong_is_reported_at_once():
    text = TREATED.replace("end_day = 4.0", "end_day = 4.0\nstep = 1").replace("[drug]", "[drug]\ndecay_per_day = -1")
    found = problems_of(text.replace("sigma_mm = 1.5, peak", "sigma = 1.5, peak") + "[colour]\nx = 1\n")
    starts = {p.split(":")[0] for p in found}
    assert starts >= {"time.step", "drug.decay_per_day", "tumour.initial.sigma", "tumour.initial.sigma_mm", "colour"}


def test_what_the_arms_share_is_reported_once_and_what_is_their_own_with_their_name():
    text = TREATED.replace("end_day = 4.0", "end_day = -4.0") + (
        "[arms.a]\n[arms.b.drug]\ndecay_per_day = -1\n[arms.c.drug]\ndecay_per_day = -1\n"
        "[arms.d]\nwithout = ['drugs']\n[arms.e.drug]\nspeed = 1\n[arms.f]\nwithout = ['prodrug']\n"
    )
    found = problems_of(text)
    assert [p.split(":")[0] for p in found] == [
        "time.end_day", "arms.b.drug.decay_per_day", "arms.c.drug.decay_per_day", "arms.d.without",
        "arms.e.drug.speed", "arms.f.drug",
    ]  # fmt: skip
    assert "did you mean 'drug'?" in found[3]
    assert "unknown key" in found[4]
    assert "has no source" in found[5]


def test_a_wrong_value_in_base_and_arm_is_named_in_both_places():
    text = TREATED.replace("[drug]", "[drug]\ndecay_per_day = -1") + "[arms.a]\n[arms.b.drug]\ndecay_per_day = -1\n"
    assert [p.split(":")[0] for p in problems_of(text)] == ["drug.decay_per_day", "arms.b.drug.decay_per_day"]


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ("[attractant]\n", "", "carriers.taxis"),
        ("[time]\n", "[time]\nframes_days = [9.0]\n", "time.frames_days[0]"),
        ("end_day = 4.0", "", "time.end_day"),
        ("[4.0, 0.0]", "[4.0]", "tumour.initial.centre_mm"),
        ("[time]\nend_day = 4.0", "", "time"),
        ("[tissue]", "label = 3\n[tissue]", "label"),
    ],
)
def test_no_problem_is_repeated_for_every_arm(old, new, path):
    found = problems_of(TREATED.replace(old, new, 1) + "[arms.a]\n[arms.b]\n[arms.c]\n")
    assert [p.split(":")[0] for p in found] == [path]


@pytest.mark.parametrize("name", ["a b", "ä", "x" * 65, "../up", ""])
def test_arm_names_must_be_fit_for_file_names(name):
    assert "arm names are letters" in only(TINY + f'[arms."{name}"]\n')


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="does not exist") as caught:
        load(tmp_path / "none.toml")
    assert caught.value.exit_code == 2
    (tmp_path / "latin.toml").write_bytes(b'title = "\xe4"\n')
    for bad in (tmp_path / "latin.toml", "a\0b", "x" * 300):
        with pytest.raises(ConfigError, match=r"1 problem\n.*(cannot be read as UTF-8|does not exist)"):
            load(bad)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs Unix")
def test_files_without_an_end_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for bad in (tmp_path, tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(ConfigError, match="not a regular file"):
            load(bad)
    (tmp_path / "long.toml").write_text(TINY + "#" * MOST_BYTES)
    with pytest.raises(ConfigError, match="larger than the 256 KiB"):
        load(tmp_path / "long.toml")


LONG = "1" * 5000
DEEP = ".".join("a" * 3000)


@pytest.mark.parametrize(
    ("text", "sets", "expected"),
    [
        (f"x = {LONG}", (), "not valid TOML"),
        (f"{TINY}step_days = 0x{'f' * 6000}", (), "time.step_days: should be a valid number (it is a number of thousands"),
        (f"capacity_cells_per_mm3 = 0x{'f' * 6000}\n{TINY}", (), "capacity_cells_per_mm3: must be"),
        (TINY, [f"time.end_day={LONG}"], "time.end_day: should be a finite number (it is '1111"),
        (f"{DEEP} = 1", (), "a key has more than 32 parts"),
        (TINY, [f"{DEEP}=1"], "a: nested too deeply"),
        (f"x = {'[' * (DEEPEST + 1)}{']' * (DEEPEST + 1)}\n{TINY}", (), "x: nested too deeply"),
        (TINY + "".join(f"[arms.a{i}]\n" for i in range(MOST_ARMS + 1)), (), "arms: 501 are more than"),
        (
            TREATED + "[temozolomide]\ndoses = [{ every = { days = 1e-3, count = 1000 }, dose_mg_per_m2 = 1 }"
            + ", { every = { days = 1e-3, count = 1000 }, dose_mg_per_m2 = 1 }" * 10 + "]", (),
            "temozolomide.doses: 11000 are more than the 10000 times",
        ),
        (f"{TREATED}[temozolomide]\ndoses = [{'{},' * 2001}]", (), "temozolomide: 2001 tables are more than the 2000"),
        (f'title = "a\\u0000b"\n{TINY}', (), "title: must be one line without control characters"),
        (f'label = "a\\nb"\n{TINY}', (), "label: must be one line without control characters"),
        (f'title = "{"a" * 501}"\n{TINY}', (), "title: must have at most 500 characters"),
        (f'{TINY}[arms.a]\nlabel = "a\\u0000b"', (), "arms.a.label: must be one line"),
        (f'{TINY}[output]\ndirectory = "a\\u0000b"', (), "output.directory: must be one line"),
        (f"{TINY}[output]\ndirectory = '{'a' * 501}'", (), "output.directory: must have at most 500 characters"),
    ],
    ids=range(16),
)  # fmt: skip
def test_what_is_far_too_long_too_deep_or_unprintable_is_named(text, sets, expected):
    found = only(text, sets)
    assert expected in found
    assert found.isprintable()
    assert len(found) < 650


def test_values_and_names_are_shown_short_and_printable():
    found = problems_of(f'{TINY}[output]\nfigures = "{"x" * 400}"\n"a\\u001b[2J" = 1\n"{"y" * 400}" = 2\n')
    assert all(p.isprintable() and len(p) < 350 for p in found)
    assert any("a\\x1b[2J: unknown key" in p for p in found)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"arm": "../../up"}, "arm: arm names are letters"),
        ({"arm": 3}, "arm: arm names are letters"),
        ({"title": 3}, "title: must be a string"),
        ({"title": "a\ud800"}, "title: must be one line"),
        ({"label": ["x"]}, "label: must be a string"),
        ({"x": [[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]}, "not a table of tables"),
    ],
)
def test_a_stored_arm_is_checked_as_strictly(change, expected):
    data = json.loads(loads(TINY).arms[0].to_json())
    with pytest.raises(ConfigError, match=re.escape(expected)):
        from_json(json.dumps(data | change))


@pytest.mark.parametrize("text", ["x = " + "[" * 5000, "x = " + "{a=" * 5000, "", "[tissue", "\x00", "a.b.c = 1"])
def test_texts_that_are_no_configuration(text):
    assert problems_of(text)


# -- mutations ------------------------------------------------------------------------------------

ODD = [
    None, 0, -1, 1, 10**30, 1.5, -1e300, 1e300, float("nan"), float("inf"), "", "x", "none", "linear", True, False,
    [], [[]], [1.0], [[1.0]], {}, {"kind": "none"}, {"kind": 3}, {"x": {"y": {}}}, [{}], "a" * 300,
]  # fmt: skip


def places(node, path=()):
    """Every key path and index path of a nested document."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def mutate(document: dict, random_: random.Random) -> dict:
    document = copy.deepcopy(document)
    for _ in range(random_.choice([1, 1, 1, 2, 4])):
        all_places = list(places(document))
        if not all_places:
            break
        *parents, last = random_.choice(all_places)
        node = document
        for key in parents:
            node = node[key]
        action = random_.randrange(5)
        if action == 0:
            del node[last]
        elif action == 1:
            node[last] = copy.deepcopy(random_.choice(ODD))
        elif action == 2 and isinstance(node, dict):
            node[str(last) + random_.choice("xyz_ ")] = node.pop(last)
        elif action == 3:  # a value from elsewhere in the document
            other = document
            for key in random_.choice(all_places):
                try:
                    other = other[key]
                except (KeyError, IndexError, TypeError):
                    break
            node[last] = copy.deepcopy(other)
        elif isinstance(node[last], int | float):
            node[last] = node[last] * random_.choice([-1, 0, 1e-12, 1e12])
        else:
            node[last] = [node[last]]
    return document


def check_sentences(problems: list[str]) -> None:
    assert problems
    assert len(set(problems)) == len(problems), problems
    assert all(0 < len(p) < 2000 and "\n" not in p for p in problems), problems


def survive(count: int, seed: int, monkeypatch) -> tuple[int, int]:
    """Numbers of mutants that load and that are refused; anything else is an exception and a failure."""
    random_ = random.Random(seed)
    document = tomllib.loads(SHIPPED)
    loaded = refused = 0
    for i in range(count):
        mutant = mutate(document, random_)
        # there is no TOML writer at hand, and TOML has no null: hand the document over behind the parser
        monkeypatch.setattr(tomllib, "loads", lambda text, mutant=mutant: copy.deepcopy(mutant))
        try:
            study = loads("", "x.toml")
        except ConfigError as error:
            refused += 1
            check_sentences(error.problems)
        except Exception as error:
            raise AssertionError(f"mutant {i} of seed {seed} escaped: {error!r}\n{mutant}") from error
        else:
            loaded += 1
            assert all(isinstance(arm, Config) for arm in study.arms)
    return loaded, refused


def test_mutated_configurations_load_or_are_refused(monkeypatch):
    loaded, refused = survive(300, 1, monkeypatch)
    assert loaded > 10
    assert refused > 100


@pytest.mark.slow
def test_many_mutated_configurations_load_or_are_refused(monkeypatch):
    survive(10_000, 2, monkeypatch)


def test_mutated_stored_arms_load_or_are_refused():
    random_ = random.Random(3)
    document = json.loads(loads(SHIPPED).arms[1].to_json())
    for i in range(200):
        mutant = mutate(document, random_)
        try:
            from_json(json.dumps(mutant))
        except ConfigError:
            pass
        except Exception as error:
            raise AssertionError(f"mutant {i} escaped: {error!r}\n{mutant}") from error


# -- mutated text ---------------------------------------------------------------------------------

INSERTS = [
    b"1" * 5000, b"0x" + b"f" * 5000, b"\\u0000", b"\\ud800", b"\x00", b"\xff", b"\x1b[2J", b"a." * 3000, b"[" * 2000,
    b"{a=" * 2000, b"[[", b"]]", b'"', b"'" * 3, b"=", b"\n", b"\r", b"#", b"nan", b"-inf", b"1979-05-27", b"\n[arms.x]\n",
    b"\n[[schedule.injections]]\n", b"\\e", b"\xe2\x80\xa8", b"z" * 2000,
]  # fmt: skip


def mutate_text(whole: bytes, random_: random.Random) -> bytes:
    data = whole
    for _ in range(random_.choice([1, 1, 1, 2, 4])):
        data = data or b" "
        at = random_.randrange(len(data))
        lines = data.split(b"\n")
        n = random_.randrange(len(lines))
        action = random_.randrange(8)
        if action == 0:
            data = data[:at] + bytes([data[at] ^ 1 << random_.randrange(8)]) + data[at + 1 :]
        elif action == 1:
            data = data[:at] + data[at + random_.choice([1, 3, 20]) :]
        elif action == 2:
            data = data[:at] + random_.choice(INSERTS) + data[at:]
        elif action == 3:  # where a value stands
            at = random_.choice([m.end() for m in re.finditer(rb'= ?["\[]?', data)] or [at])
            data = data[:at] + random_.choice(INSERTS) + data[at:]
        elif action == 4:
            data = data[:at]
        elif action == 5:
            data = b"\n".join(lines[:n] + lines[n + 1 :])
        elif action == 6:
            data = b"\n".join([*lines[:n], random_.choice(lines), *lines[n:]])
        else:
            number = random_.choice([b"1e400", b"-1", b"0", b"9" * 30, b"1e-12"])
            data = re.sub(rb"\d+\.?\d*", lambda m, to=number: random_.choice([m[0], m[0], m[0], to]), data)
    return data


def fault_of_answer(path: Path, code: int, shown: str) -> str | None:
    """What is wrong with how ``check`` answered."""
    if code == 0:
        return shown or None
    lines = shown.split("\n")[:-1]
    if code != 2 or "Traceback" in shown or not lines[0].startswith(f"glioma-pde: {path}: "):
        return f"code {code}: {shown}"
    count = int(lines[0].split(": ")[2].split()[0])
    if len(lines) != 1 + count or not all(line.startswith("  - ") and line.isprintable() for line in lines[1:]):
        return shown
    try:
        keys = {one_line(key, 80) for key in tomllib.loads(path.read_text("utf-8"))}
    except (ValueError, RecursionError):
        keys = set()
    known = [*SECTIONS, "arms", "title", "label", "capacity_cells_per_mm3", *keys]
    general = ("not valid TOML: ", "the file cannot be read as UTF-8", "not a configuration: ")
    heads = (*general, *(f"{key}{mark}" for key in known for mark in ".[:"))
    strange = [line for line in lines[1:] if not line.removeprefix("  - ").startswith(heads)]
    return f"no path: {strange}" if strange else None


def survive_text(count: int, seed: int, folder: Path, capsys) -> tuple[int, int]:
    """Numbers of mutants that are correct and that are wrong in more than their syntax."""
    random_, path = random.Random(seed), folder / "mutant.toml"
    correct = understood = 0
    for i in range(count):
        path.write_bytes(mutate_text(SHIPPED.encode(), random_))
        began = time.process_time()
        code = main(["check", str(path)])
        seconds = time.process_time() - began
        shown = capsys.readouterr().err
        fault = fault_of_answer(path, code, shown) or (f"it took {seconds:.1f} s" if seconds > 2 else None)
        assert fault is None, f"mutant {i} of seed {seed}: {fault}\n{path.read_bytes()!r}"
        correct += code == 0
        understood += code == 2 and "not valid TOML" not in shown
    return correct, understood


def test_mutated_texts_are_checked_with_a_code_and_sentences(tmp_path, capsys):
    correct, understood = survive_text(250, 4, tmp_path, capsys)
    assert correct > 10
    assert understood > 50


@pytest.mark.slow
def test_many_mutated_texts_are_checked_with_a_code_and_sentences(tmp_path, capsys):
    survive_text(10_000, 5, tmp_path, capsys)


# -- speed ----------------------------------------------------------------------------------------


MANY_KEYS = SHIPPED.replace("[tumour]", "[tumour]\n" + "".join(f"k{i} = 1\n" for i in range(200)), 1)
LARGEST = "\n".join(f"x{i} = {{ a.b.c = [{i}, 'x'] }}" for i in range(40_000))[: MOST_BYTES - 1]

CHECKED = {
    "right": (SHIPPED, 0),
    "many unknown keys in five arms": (MANY_KEYS + "[arms.a]\n[arms.b]\n", 2),
    "many arms with a mistake each": (SHIPPED + "".join(f"[arms.a{i}.drug]\nspeed = 1\n" for i in range(300)), 2),
    "as large as may be": (LARGEST[: LARGEST.rindex("\n")], 2),
    "one long key": (".".join("a" * (MOST_BYTES // 2)) + "=1", 2),
}


@pytest.mark.parametrize("name", CHECKED)
def test_a_check_imports_nothing_heavy_and_takes_no_time(name, tmp_path):
    text, expected = CHECKED[name]
    path = tmp_path / "checked.toml"
    path.write_text(text, encoding="utf-8")
    code = (
        "import sys; from glioma_pde.cli import main; code = main(['check', sys.argv[1]]); "
        "heavy = {'jax', 'jaxlib', 'nilearn', 'h5py', 'equinox', 'matplotlib', 'nibabel', 'scipy'} & set(sys.modules); "
        "print('heavy', sorted(heavy)); sys.exit(code)"
    )
    # Its own time, since others share the machine.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == expected, done.stderr
    assert "heavy []" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2.0


FIT = """
title = "t"
[fit]
data = "d.csv"
geometry = "well_mixed"
[tumour]
diffusivity_white_mm2_per_day = 0.0
diffusivity_grey_mm2_per_day = 0.0
[time]
end_day = 10.0
[observables.v]
quantity = "fraction"
noise = { kind = "additive", a = "s" }
[parameters]
s = { bounds = [0.1, 1.0] }
"""


@pytest.mark.parametrize(
    ("sets", "sentence"),
    [
        (["fit.starts=0"], "fit.starts: should be greater than or equal to 1"),
        (["parameters.s={bounds=[1.0, 2.0], level='subject', population=true, prior={centre=1.0, width=1.0}}"],
         "a parameter with a population distribution takes no prior"),
        (["fit.method='lm'", "parameters.s={bounds=[1.0, 2.0], level='subject', population=true}"],
         "fit.method: a population has a search of its own"),
    ],
)  # fmt: skip
def test_bad_calibrations_are_told_in_one_sentence(sets, sentence):
    assert loads_fit(FIT).parameters["s"].bounds == (0.1, 1.0)
    with pytest.raises(ConfigError) as caught:
        loads_fit(FIT, "x.toml", sets)
    assert len(caught.value.problems) == 1 and sentence in caught.value.problems[0]
