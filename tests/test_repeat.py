"""Runs again from their own files: everything a file must hold for that, and what it must refuse."""

from __future__ import annotations

from dataclasses import replace

import equinox as eqx
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_run import TINY, Stop, check_same_bits, contents, experiment_of, interrupt_after, single_precision

from glioma_pde.build import build
from glioma_pde.config import loads
from glioma_pde.errors import GliomaError
from glioma_pde.io.hdf5 import RunFile, RunWriter
from glioma_pde.manifest import layout, unsaid
from glioma_pde.repeat import experiment_from_file
from glioma_pde.run import resume, run

__all__ = ["single_precision"]  # the state of the command line, for this file too


def given(name: str, values, sets=(), text=TINY):
    """The arm with one initial field from Python."""
    return build(loads(text, "tiny.toml", sets).arms[0], initial={name: values})


SPOTS = np.random.default_rng(0).random((24, 20))
ALONE = TINY.split("[carriers]")[0] + "[time]\nend_day = 1.0\n"
"""The tumour by itself, which compiles fast."""


def check_it_repeats(folder, experiment, name):
    run(experiment, folder / "a.h5", config_text="?")
    again = experiment_from_file(folder / "a.h5")
    assert again.initial.keys() == {name}
    np.testing.assert_array_equal(again.initial[name], experiment.initial[name], strict=True)
    run(again, folder / "b.h5", config_text="?")
    check_same_bits(folder / "a.h5", folder / "b.h5")
    assert contents(folder / "a.h5")[f"{name} 0"].max() > 0.09
    assert unsaid(experiment_from_file(folder / "b.h5")) == []


@pytest.mark.slow
def test_initial_fields_from_python_are_in_the_file(tmp_path):
    check_it_repeats(tmp_path, given("carriers", 0.1 * SPOTS), "carriers")


def test_initial_fields_are_kept_in_the_precision_of_the_run(tmp_path):
    with jax.enable_x64(True):
        check_it_repeats(tmp_path, given("tumour", 0.1 * SPOTS, ["numerics.precision=float64"], ALONE), "tumour")


def test_a_resumed_run_keeps_what_it_started_from(tmp_path):
    experiment, path = given("tumour", 0.1 * SPOTS), tmp_path / "a.h5"
    with pytest.raises(Stop):
        run(experiment, path, interrupt_after(2.0))
    resume(experiment_from_file(path), path)
    with RunFile(path) as file:
        np.testing.assert_array_equal(file.initial()["tumour"], np.float32(0.1 * SPOTS))


def test_a_formula_is_not_stored_as_numbers():
    assert layout(experiment_of(), "")["initial"] == {}


CHANGES = {
    "tumour": lambda e: eqx.tree_at(
        lambda m: m["tumour"].diffusivity_map, e.model, jnp.ones((24, 20)), is_leaf=lambda leaf: leaf is None
    ),
    "drug": lambda e: eqx.tree_at(lambda m: m["drug"].decay_per_day, e.model, jnp.float32(82.0)),
    "attractant": lambda e: eqx.tree_at(lambda m: m.modules, e.model, e.model.modules[:1]),
}


def test_what_only_python_knows_is_named():
    experiment = experiment_of()
    assert unsaid(experiment) == []
    for name, change in CHANGES.items():
        assert name in unsaid(replace(experiment, model=change(experiment))), name
    assert unsaid(replace(experiment, frames=frozenset({0}))) == ["time"]


def test_what_only_python_knows_is_not_repeated_as_something_else(tmp_path):
    experiment, path = experiment_of(), tmp_path / "a.h5"
    cells = experiment.schedule.events[0].cells
    changed = replace(experiment, schedule=eqx.tree_at(lambda s: s.events[0].cells, experiment.schedule, 2 * cells))
    with pytest.raises(Stop):
        run(changed, path, interrupt_after(2.0))
    with pytest.raises(GliomaError, match=r"comes from Python code .*\(schedule\).*resume\(…\)"):
        experiment_from_file(path)
    resume(changed, path)  # the code that made it can go on
    with RunFile(path) as file:
        assert file.attrs["status"] == "finished"


@pytest.mark.parametrize(
    "stored", ['{"prodrug.courses": 10001}', '{"schedule.injections[0]": 1e9}', '{"x": -1}', '{"x": true}', "[3]", "x"]
)
def test_lengths_of_lists_that_no_configuration_has_are_not_allocated(tmp_path, stored):
    path = tmp_path / "a.h5"
    with RunWriter.create(path, **layout(experiment_of(text=ALONE), "")) as writer:
        writer.finish("finished")
    with h5py.File(path, "r+") as file:
        file.attrs["shapes"] = stored
        del file.attrs["content_sha256"]
    with pytest.raises(GliomaError, match="lacks what is needed"):
        experiment_from_file(path)
