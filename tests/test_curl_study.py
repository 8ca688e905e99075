"""The curl study: a gradient comes out as one, a rotation with its own numbers, every row is there.

The rotational score is -(I + a K) x at every noise level, with K turning pairs of coordinates by a
right angle. Its asymmetry is a, and that of its denoiser a sigma^2 / alpha^2.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scoreppl as sp
from case_studies.curl import tables
from case_studies.curl.measure import NOISIEST, Sizes, measure, times
from case_studies.curl.networks import CONTROL, chosen, from_file, from_function, shipped
from case_studies.curl.run import note, write

CURL, NUM_PAIRS = 0.4, 10
SIZES = Sizes(
    levels=2, points=32, loops=4, trajectories=1, probes=2, prior_steps=200, step_factors=(0.25,)
)


def rotational_score(curl, x, t, condition):
    turned = jnp.stack([-x.reshape(-1, 2)[:, 1], x.reshape(-1, 2)[:, 0]], 1).ravel()
    return -x - curl * turned


def rotation():
    return sp.ScoreNetwork(
        rotational_score,
        jnp.float32(CURL),
        noise=sp.noise.VPLinear(),
        prediction="score",
        event_shape=(2 * NUM_PAIRS,),
    )


@pytest.fixture(scope="module")
def found():
    """Levels and steps of the rotation and of the control, and what was reported of them."""
    said = []
    control = {named.name: named for named in shipped(False)}[CONTROL].load()
    of = [
        measure(name, model, jax.random.key(0), sizes, said.append)
        for name, model, sizes in (
            ("rotation", rotation(), SIZES),
            # Smaller steps would be compiled anew.
            (CONTROL, control, SIZES._replace(step_factors=())),
        )
    ]
    return of[0], of[1], said


def test_the_control_is_conservative(found):
    """Rounding, or quadrature: in two dimensions moves are as long as the law is wide."""
    for level in found[1][0]:
        assert level.loop.verdict == "ok" and level.loop.flips < 5e-3
        assert level.loop.median < max(1e-4, 10 * level.loop.quadrature_error) < 0.02
        assert level.path.median < max(1e-4, 10 * level.path.quadrature_error)
        assert level.loop.asymmetry < 1e-5 and level.denoiser_asymmetry < 1e-4


def test_a_rotation_is_caught_with_its_numbers(found):
    """J - J' is -2 a K and J + J' is -2 I: every probe gives the exact norms.

    For short moves the rms is h |J - J'|, here at a sixteenth of the step of 75 % acceptance; of
    128 loops it has a relative standard error below 10 %, the sum of ten pairs being nearly
    normal. Four of them fail once in 10^4.
    """
    levels, steps = found[0]
    size = 2 * CURL * math.sqrt(2 * NUM_PAIRS)
    assert len(levels) == SIZES.levels
    for level in levels:
        assert level.loop.asymmetry == pytest.approx(CURL, rel=1e-3)
        assert level.denoiser_asymmetry == pytest.approx(CURL * level.noise**2, rel=0.01)
        assert level.loop.kappa == pytest.approx(level.loop.step_size * size, rel=1e-3)
        assert level.loop.verdict == level.path.verdict == "not corrected"
        assert 0.5 < level.loop.acceptance_rate < 0.95
    assert [step.factor for step in steps] == [1.0, 0.25]
    short = steps[-1].loop
    assert short.step_size == pytest.approx(levels[0].loop.step_size / 16, rel=1e-4)
    assert short.rms == pytest.approx(short.step_size * size, rel=0.4)
    # The curl goes with h, the spread of the log acceptance with h^(3/2): the share grows.
    assert steps[0].loop.median > 8 * short.median and steps[0].loop.flips > 5 * short.flips
    assert steps[0].loop.ratio < short.ratio


def test_every_table_has_all_its_rows(found, tmp_path):
    levels, steps, said = [*found[0][0], *found[1][0]], [*found[0][1], *found[1][1]], found[2]
    write(tmp_path, levels, steps, note(levels, SIZES, 1.0))
    assert {file.name for file in tmp_path.iterdir()} == {
        *(f"{name}.md" for name in ("loops", "trajectories", "steps", "thresholds", "verdicts")),
        "levels.png",
    }
    for name, counts in (("loops", (2, 2)), ("trajectories", (2, 2)), ("steps", (2, 1))):
        text = (tmp_path / f"{name}.md").read_text()
        assert (text.count("| rotation |"), text.count(f"| {CONTROL} |")) == counts
        assert "nan" not in text
    assert "128 triangles and 32 trajectories from 32 points" in (tmp_path / "loops.md").read_text()
    assert sum("level 2 of 2" in line for line in said) == 2


def test_levels_go_from_the_cleanest_to_noise_above_the_signal():
    model = sp.pretrained.load("digits8")
    found = times(model, 6)
    assert found[0] == pytest.approx(float(model.min_time), rel=1e-4) and np.all(np.diff(found) > 0)
    log_snr = np.asarray(model.noise.log_snr(found))
    np.testing.assert_allclose(np.diff(log_snr), (NOISIEST - log_snr[0]) / 5, rtol=1e-3)


def test_what_a_threshold_means_is_read_off_the_cells(found):
    """Cells with 0.4 decisions changed a nat: 0.8 % at 0.02 nats and 8 % at 0.2, but no control."""
    level = found[0][0][0]
    cells = []
    for median in (0.01, 0.05, 0.2):
        loop, path = (
            part._replace(median=median, flips=0.4 * median, ratio=median / 0.5, verdict="ok")
            for part in (level.loop, level.path)
        )
        loop, path = loop._replace(acceptance_rate=0.75), path._replace(acceptance_path=0.75)
        cells.append(level._replace(loop=loop, path=path))
    spoiled = level.loop._replace(median=0.1, flips=0.9)
    text = tables.at_thresholds([*cells, level._replace(network=CONTROL, loop=spoiled)])
    lines = text.splitlines()
    assert "| 0.02 nats: decisions changed | 0.8 % (0.8 % to 0.8 %), 3 cells |" in lines[2]
    assert "| 0.2 nats: decisions changed | 8 % (8 % to 8 %), 3 cells |" in lines[3]
    # 10 % of sd 0.5 are 0.05 nats, hence 2 % of decisions, of which a quarter are rejections.
    assert "8 % (8 % to 8 %)" in lines[4] and "40 % (40 % to 40 %)" in lines[5]
    assert "| MALA | ok | 3 | 0.4 % | 2 % | 8 % |" in tables.by_verdict(cells)


# What the user names.


def test_a_file_is_measured_if_its_architecture_is_known(tmp_path):
    plane = {named.name: named for named in shipped(False)}[CONTROL].load()
    path = tmp_path / "mine.safetensors"
    sp.save_score_network(path, plane, architecture="plane_energy", card={"name": "mine"})
    named = from_file(path)
    assert named.name == "mine"
    assert named.load().prediction == "energy"
    np.testing.assert_array_equal(named.load().params["weight0"], plane.params["weight0"])
    names = [each.name for each in chosen([path], [f"{__name__}:rotation"])]
    assert names[:2] == ["mine", f"{__name__}:rotation"] and names[-1] == CONTROL
    with pytest.raises(ValueError, match="Two networks are called mine"):
        chosen([path, path], [])
    sp.save_score_network(path, plane, architecture="other", card={"name": "mine"})
    with pytest.raises(ValueError, match="'other' is none of .* --model"):
        from_file(path)


def test_a_file_that_is_none(tmp_path):
    with pytest.raises(ValueError, match="there is no such file"):
        from_file(tmp_path / "absent.safetensors")
    (tmp_path / "text").write_text("text")
    with pytest.raises(ValueError, match="not a safetensors file"):
        from_file(tmp_path / "text")


@pytest.mark.parametrize(
    "place, message",
    [
        ("rotation", "must be package.module:function"),
        ("no_such_package.module:load", "must be package.module:function"),
        (f"{__name__}:absent", "must be package.module:function"),
        (":load", "must be package.module:function"),
        (f"{__name__}:rotational_score", "a function of no arguments .missing"),
        (f"{__name__}:CURL", "a function of no arguments .0.4 is not a callable"),
        ("case_studies.galaxies.network:installed", "returned a bool; it must return a score"),
    ],
)
def test_a_function_that_is_none(place, message):
    with pytest.raises(ValueError, match=message):
        from_function(place)


def test_galaxies_are_left_out_or_missed(monkeypatch, capsys):
    monkeypatch.setattr("case_studies.galaxies.network.installed", lambda: False)
    assert "galaxies" not in [named.name for named in chosen([], [])]
    assert "left out" in capsys.readouterr().out
    with pytest.raises(ValueError, match="not installed"):
        chosen([], [], galaxies_needed=True)
