"""ScoreSMC through the public API: evidence and means against truth, results, bad input."""

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from blackjax.smc.resampling import systematic

import scoreppl as sp
from scoreppl.ppl.smc_result import pooled
from scoreppl.samplers import correctors
from scoreppl.samplers.guided import Particles
from scoreppl.samplers.smc import Trace
from tests.compose.laws import FIRST, GRID, LAWS, SECOND, P, reward

GUIDED = {"guidance": sp.guidance.FullCovariance()}
LAPLACIAN = {"corrector": sp.correctors.LaplacianOnly()}
VARIANCE = {"corrector": sp.correctors.VarianceControl()}


def run(name, num_runs=20, num_steps=150, seed=0, **method):
    law = LAWS[name]
    smc = sp.ScoreSMC(
        score_model=law.model, log_weight=law.log_weight, num_particles=500,
        num_steps=num_steps, num_runs=num_runs, num_pilots=64, **method,
    )  # fmt: skip
    smc.run(jax.random.key(seed))
    return law, smc


def errors(law, smc, num_runs=20):
    """Give z-scores of evidence and mean over independent runs."""
    weight = np.exp(smc.result.log_weight - smc.result.log_weight.max()).reshape(num_runs, -1)
    x = np.asarray(smc.result.samples["x"])[:, 0].reshape(num_runs, -1)
    ratio = np.exp(smc.log_evidence - law.log_evidence()) - 1.0
    means = (weight * x).sum(1) / weight.sum(1)
    bias = means - law.mean()
    return (
        ratio / smc.result.log_evidence_error_of_runs,
        bias.mean() / (bias.std(ddof=1) / np.sqrt(num_runs)),
    )


METHODS = {"laplacian": LAPLACIAN, "vcg": VARIANCE, "guided": GUIDED}
QUICK = {("product", "laplacian"), ("tilted", "vcg")}
# Each law by two methods: the cheapest, and guidance here or variance control elsewhere.
GUIDED_LAWS = {"sharpened", "product", "tilted product"}
ROWS = [
    pytest.param(name, method, marks=() if (name, method) in QUICK else pytest.mark.slow)
    for name in LAWS
    for method in METHODS
    if method == "laplacian" or (method == "guided") == (name in GUIDED_LAWS)
]


@pytest.mark.parametrize("name, method", ROWS)
def test_evidence_and_mean_over_twenty_runs(name, method):
    law, smc = run(name, **METHODS[method])
    evidence, mean = errors(law, smc)
    # Two statistics at three standard errors of twenty runs (Student's t with 19 degrees of
    # freedom): false-alarm rate 1.5 % a row with these fixed seeds.
    assert abs(evidence) < 3 and abs(mean) < 3, (evidence, mean)


def slow(*values, **options):
    return pytest.param(*values, marks=pytest.mark.slow, **options)


# Some leave hardly an ancestor, as users are warned.
@pytest.mark.filterwarnings("ignore:Only .* particles of the start:UserWarning")
@pytest.mark.parametrize(
    "rate",
    [
        lambda fields, c: c.score * fields.stein - fields.laplacian,
        slow(lambda fields, c: c.score * fields.stein - fields.laplacian + fields.disagreement),
        lambda fields, c: 0.5 * (c.score * fields.stein - fields.laplacian - fields.disagreement),
        slow(lambda fields, c: 0.0 * fields.stein),
    ],
    ids=["disagreement dropped", "its sign", "half", "no weights"],
)
def test_mutants_of_the_rate_are_caught(monkeypatch, rate):
    monkeypatch.setattr(correctors, "rate", rate)
    law, smc = run("product", num_steps=100, **LAPLACIAN)
    assert max(map(abs, errors(law, smc))) > 8


@pytest.mark.slow
def test_the_trapezoid_is_worth_an_order(monkeypatch):
    """Weights taken at the start of each step alone are off by more at equal cost."""
    law, smc = run("sharpened", num_steps=50, **LAPLACIAN)
    right = abs(smc.log_evidence - law.log_evidence())
    look, move = correctors.CorrectedPaths.look, correctors.CorrectedPaths.move

    def without(self, keys, particles, level):
        found = look(self, keys, particles, level)
        return found._replace(log_increment=jnp.zeros(len(keys)))

    def twice(self, keys, particles, seen, log_weight, level):
        moved, increment = move(self, keys, particles, seen, log_weight, level)
        return moved, jnp.where(jnp.isinf(level.next_log_snr), increment, 2 * increment)

    monkeypatch.setattr(correctors.CorrectedPaths, "look", without)
    monkeypatch.setattr(correctors.CorrectedPaths, "move", twice)
    law, smc = run("sharpened", num_steps=50, **LAPLACIAN)
    assert abs(smc.log_evidence - law.log_evidence()) > 3 * right + 0.05


def noisy_sum(y, composed):
    x = numpyro.sample("x", sp.ScorePrior(composed))
    scale = numpyro.sample("scale", dist.LogNormal(-1.0, 0.5))
    numpyro.deterministic("square", x[0] ** 2)
    numpyro.sample("y", dist.Normal(x[0], scale), obs=y)


def noisy_truth(log_prior, y):
    """Evidence and posterior means of x and scale, by quadrature."""
    grid, logs = np.linspace(-8, 8, 2_001), np.linspace(-4, 2, 601)
    scale = np.exp(logs)[:, None]
    log_joint = (
        np.interp(grid, GRID, log_prior)
        - 0.5 * ((y - grid) / scale) ** 2 - np.log(scale * np.sqrt(2 * np.pi))
        - 0.5 * ((logs[:, None] + 1.0) / 0.5) ** 2 - np.log(0.5 * np.sqrt(2 * np.pi))
    )  # fmt: skip
    joint = np.exp(log_joint)
    total = joint.sum()
    cell = (grid[1] - grid[0]) * (logs[1] - logs[0])
    return np.log(total * cell), (joint * grid).sum() / total, (joint * scale).sum() / total


# The rising tilt of a likelihood costs the corrector more steps: at 100 its evidence is 5 % low.
@pytest.mark.parametrize(
    "method, num_steps",
    [pytest.param({}, 100, marks=pytest.mark.slow), (LAPLACIAN, 300)],
    ids=["guided", "laplacian"],
)
def test_a_model_with_a_composed_site_and_an_ordinary_latent(method, num_steps):
    law = LAWS["product"]
    smc = sp.ScoreSMC(
        noisy_sum, num_particles=500, num_steps=num_steps, num_runs=16, num_pilots=64, **method
    )
    smc.run(jax.random.key(3), 1.2, law.model)
    log_evidence, mean_x, mean_scale = noisy_truth(law.log_values, 1.2)
    result = smc.result
    ratio = np.exp(smc.log_evidence - log_evidence) - 1.0
    assert abs(ratio) < 4 * result.log_evidence_error_of_runs + 0.005
    share = np.exp(result.log_weight - result.log_weight.max()).reshape(16, -1)
    for values, exact in (
        (result.samples["x"][:, 0], mean_x),
        (result.samples["scale"], mean_scale),
    ):
        means = (share * np.asarray(values).reshape(16, -1)).sum(1) / share.sum(1)
        # Student's t with 15 degrees of freedom at 4: false-alarm rate 1e-3 each.
        assert abs(means.mean() - exact) < 4 * means.std(ddof=1) / 4 + 2e-3
    np.testing.assert_allclose(
        result.samples["square"], np.asarray(result.samples["x"])[:, 0] ** 2, rtol=1e-5
    )


def test_results_are_weighted_particles_resampled_draws_and_inference_data(capsys):
    _, smc = run("tilted product", num_runs=2, num_steps=40, **LAPLACIAN)
    samples, log_weight = smc.get_weighted_samples()
    assert samples["x"].shape == (1_000, 1) and log_weight.shape == (1_000,)
    np.testing.assert_allclose(
        np.logaddexp.reduce(log_weight) - np.log(1_000), smc.log_evidence, atol=1e-6
    )
    draws = smc.get_samples(jax.random.key(1), 400)["x"]
    share = np.exp(log_weight - np.logaddexp.reduce(log_weight))
    mean = share @ np.asarray(samples["x"])[:, 0]
    assert abs(float(jnp.mean(draws)) - mean) < 0.1
    data = smc.to_inference_data()
    assert data["posterior"]["x"].shape == (1, 1_000, 1)
    particle = np.asarray(data["sample_stats"]["particle"])[0]
    np.testing.assert_allclose(
        np.asarray(data["posterior"]["x"])[0, :, 0], np.asarray(samples["x"])[particle, 0]
    )
    of_draws = np.asarray(data["sample_stats"]["log_weight"])[0]
    np.testing.assert_allclose(of_draws, log_weight[particle])
    assert data.attrs["log_evidence"] == smc.log_evidence and data.attrs["kernel"] == "ScoreSMC"
    assert np.isfinite(az.summary(data)["mean"].astype(float)).all()
    smc.print_summary()
    text = capsys.readouterr().out
    assert "log evidence" in text and "between runs" in text and "Pareto k" in text
    # 40 levels, two models, a Jacobian-vector product of cost 2 in one dimension.
    assert smc.result.num_score_evaluations == 1_000 * 40 * 2 * 2


@pytest.mark.slow
def test_the_errors_of_one_run_are_those_between_runs():
    """Within a factor of two, over forty runs, whose own error has a relative error of 11 %."""
    for method in (LAPLACIAN, GUIDED):
        _, smc = run("tilted and sharpened", num_runs=40, num_steps=60, seed=4, **method)
        ratio = smc.log_evidence_error / smc.result.log_evidence_error_of_runs
        assert 0.5 < ratio < 2.0, ratio


@pytest.mark.slow
def test_the_same_key_gives_the_same_result():
    first, second = (run("product", num_runs=1, num_steps=20, **LAPLACIAN)[1] for _ in range(2))
    assert first.log_evidence == second.log_evidence
    np.testing.assert_array_equal(first.result.samples["x"], second.result.samples["x"])
    assert np.isnan(first.result.log_evidence_error_of_runs)


def test_a_weight_without_numbers_somewhere_counts_as_none_there():
    def weight(x):
        return jnp.sum(jnp.where(x < 0.0, jnp.nan, -0.5 * (x - 1.0) ** 2))

    values = np.where(GRID < 0, 0.0, np.exp(P - 0.5 * (GRID - 1) ** 2))
    smc = sp.ScoreSMC(
        score_model=FIRST, log_weight=weight, guidance=sp.guidance.Unguided(),
        num_particles=2_000, num_steps=60,
    )  # fmt: skip
    smc.run(jax.random.key(5))
    assert abs(smc.log_evidence - np.log(np.trapezoid(values, GRID))) < 0.1
    assert float(np.min(smc.get_samples(jax.random.key(0), 500)["x"])) >= 0.0


@pytest.mark.parametrize("guidance", [None, sp.guidance.LineSearch()])
def test_a_weight_with_hard_edges_has_its_evidence(guidance):
    """Two windows: where the denoised event has no weight, a path may still end in one of them."""

    def weight(x):
        is_inside = jnp.all((x > 0.2) & (x < 0.5)) | jnp.all((x < -1.0) & (x > -1.4))
        return jnp.where(is_inside, -8.0 * jnp.sum((x - 1.0) ** 2), -jnp.inf)

    inside = ((GRID > 0.2) & (GRID < 0.5)) | ((GRID < -1.0) & (GRID > -1.4))
    values = np.where(inside, np.exp(P - 8.0 * (GRID - 1) ** 2), 0.0)
    smc = sp.ScoreSMC(
        score_model=FIRST, log_weight=weight, guidance=guidance, num_particles=1_000,
        num_steps=60, num_runs=10, resampling=sp.correctors.Resampling(0.9, -4.0),
    )  # fmt: skip
    smc.run(jax.random.key(6))
    error = smc.log_evidence - np.log(np.trapezoid(values, GRID))
    # False-alarm rate 1e-4, and the grid's edges and the discretised prior's.
    assert abs(error) < 4.5 * smc.result.log_evidence_error_of_runs + 0.03


def plain(y):
    x = numpyro.sample("x", sp.ScorePrior(FIRST))
    numpyro.sample("y", dist.Normal(x[0], 0.5), obs=y)


def two_sites(y):
    x = numpyro.sample("x", sp.ScorePrior(FIRST))
    z = numpyro.sample("z", sp.ScorePrior(SECOND))
    numpyro.sample("y", dist.Normal(x[0] + z[0], 0.5), obs=y)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"model": plain, "score_model": FIRST}, "not both"),
        ({"model": plain, "log_weight": reward}, "`log_weight` goes with `score_model=`"),
        ({"score_model": 3.0}, "`score_model` of type float"),
        ({"score_model": FIRST, "num_particles": 1}, "`num_particles=1`"),
        ({"score_model": FIRST, "num_steps": 1}, "`num_steps=1`"),
        ({"score_model": FIRST, "num_runs": 0}, "`num_runs=0`"),
        ({"score_model": FIRST, "num_probes": 0}, "`num_probes=0`"),
        ({"score_model": FIRST, "max_shift": -1.0}, "`max_shift=-1.0`"),
        ({"score_model": FIRST, "resampling": 0.5}, "`resampling` of type float"),
        ({"model": plain, "corrector": sp.correctors.LaplacianOnly}, "add parentheses"),
        ({"model": plain, "corrector": "laplacian"}, "`corrector` of type str"),
        ({"model": plain, "guidance": "LAGS"}, "`guidance` of type str"),
        ({"model": plain, **GUIDED, **LAPLACIAN}, "not both"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError) as caught:
        sp.ScoreSMC(**options)
    assert message in str(caught.value)


def test_bad_models_are_named():
    with pytest.raises(ValueError, match="call `run"):
        _ = sp.ScoreSMC(plain).log_evidence
    with pytest.raises(ValueError, match="one score site without plates"):
        sp.ScoreSMC(two_sites, **LAPLACIAN).run(jax.random.key(0), 1.0)
    with pytest.raises(ValueError, match="no ScorePrior site"):
        sp.ScoreSMC(lambda: numpyro.sample("a", dist.Normal())).run(jax.random.key(0))
    with pytest.raises(ValueError, match="must return a scalar"):
        sp.ScoreSMC(score_model=FIRST, log_weight=lambda x: x).run(jax.random.key(0))
    # An event that no noisy particle, or no path, meets.
    few = {
        "score_model": FIRST,
        "log_weight": lambda x: jnp.sum(jnp.where(x > 30.0, 0.0, -jnp.inf)),
        **dict(num_particles=10, num_steps=5, num_pilots=4),
    }
    with pytest.raises(ValueError, match="`corrector=LaplacianOnly`.*`corrector=None`.*RandomNumb"):
        sp.ScoreSMC(**few, **LAPLACIAN).run(jax.random.key(0))
    with pytest.raises(ValueError, match="Every particle has weight zero.*LimitState"):
        sp.ScoreSMC(**few, guidance=sp.guidance.Unguided()).run(jax.random.key(0))
    # NumPyro warns of the value, too.
    with pytest.warns(UserWarning, match="support"), pytest.raises(ValueError, match="NaN"):
        sp.ScoreSMC(plain).run(jax.random.key(0), np.nan)


def test_a_run_without_weight_counts_as_zero_and_is_reported():
    trace = Trace(*[jnp.ones((2, 3))] * 5)
    log_weight = jnp.stack([jnp.zeros(4), jnp.full(4, -jnp.inf)])
    runs = Particles(
        {"x": jnp.zeros((2, 4))}, log_weight, jnp.array([1.0, -jnp.inf]),
        jnp.tile(jnp.arange(4), (2, 1)), trace,
    )  # fmt: skip
    found = pooled(runs, {"x": jnp.zeros(8)}, 7, systematic, np.zeros(1))
    np.testing.assert_allclose(found.log_evidence, 1.0 - np.log(2.0))
    assert found.num_lost_runs == 1 and abs(found.ess - 4.0) < 1e-9
    assert "runs without weight  1" in found.summary()
