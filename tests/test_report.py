"""The report of a run: its numbers where they are known, and its words."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC

from scoreppl.analytic import GaussianMixture
from scoreppl.diagnostics import LoopDefect, report
from scoreppl.diagnostics.verdict import verdict
from scoreppl.noise import VPLinear
from scoreppl.ppl.annealed import AnnealedScoreMCMC
from scoreppl.ppl.local_kernels import ScoreHMC, ScoreMALA
from scoreppl.ppl.prior import ScorePrior
from scoreppl.score import ScoreNetwork

PRECISION = jnp.array([[1.0, 0.3], [-0.3, 1.0]])
NOISE_LEVEL = 0.5
MIXTURE = GaussianMixture(jnp.array([-1.0, 1.5]), scales=0.7)


def linear_score(params, x, t, condition):
    return -params @ x


NETWORK = ScoreNetwork(
    linear_score, PRECISION, noise=VPLinear(), prediction="score", event_shape=(2,)
)


def model(y):
    """Two events of a network with a curl, one of a mixture, and an ordinary latent."""
    with numpyro.plate("pair", 2):
        x = numpyro.sample("x", ScorePrior(NETWORK, noise_level=NOISE_LEVEL))
    a = numpyro.sample("a", ScorePrior(MIXTURE))
    s = numpyro.sample("s", dist.LogNormal(0.0, 0.5))
    numpyro.sample("y", dist.Normal(x.sum() + a, s), obs=y)


def exact_model(y):
    a = numpyro.sample("a", ScorePrior(MIXTURE))
    numpyro.sample("y", dist.Normal(a, 1.0), obs=y)


Y = jnp.array(0.4)


def run(kernel, *, num_warmup=60, num_samples=20, num_chains=2, thinning=1, extra_fields=()):
    mcmc = MCMC(
        kernel,
        num_warmup=num_warmup,
        num_samples=num_samples,
        num_chains=num_chains,
        thinning=thinning,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(0), Y, extra_fields=extra_fields)
    return mcmc


class Finished:
    """What a report reads off an MCMC object, with samples of our own."""

    thinning = 1
    last_state = object()
    _args: tuple = ()
    _kwargs: dict = {}

    def __init__(self, samples, fields=None):
        self.sampler = object()
        self.samples, self.fields = samples, fields or {}

    def get_samples(self, group_by_chain):
        assert group_by_chain
        return self.samples

    def get_extra_fields(self, group_by_chain):
        assert group_by_chain
        return self.fields


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


# Kernels of this package.


def test_mala_on_a_network(capsys):
    mcmc = run(
        ScoreMALA(model),
        thinning=2,
        extra_fields=("log_ratio_error", "num_score_evaluations"),
    )
    found = report(mcmc, seconds=12.5)
    text = str(found)
    # A script prints what it returns, a notebook shows the repr: the same screen, once.
    assert capsys.readouterr().out == "" and repr(found) == text
    assert (found.kernel, found.num_chains, found.num_draws) == ("ScoreMALA", 2, 10)
    # Simpson's rule: the end and the midpoint of a chord, 20 moves of 2 chains.
    assert found.score_evaluations_per_draw == 2.0 and found.score_evaluations == 80
    fields = mcmc.get_extra_fields(group_by_chain=True)
    assert found.acceptance_rate == pytest.approx(float(fields["accept_prob"].mean()), rel=1e-5)
    error = float(fields["log_ratio_error"].mean())
    assert found.log_ratio_error == pytest.approx(error, rel=1e-5)
    assert found.num_divergent == int(fields["diverging"].sum()) and found.num_nan == 0
    assert found.path_against_chord is None
    # The mixture has a density and so no curl to be measured.
    assert set(found.loop_defects) == {"x"}
    for part in (
        "ScoreMALA: 2 chains x 10 draws, 12.5 s",
        "R-hat",
        "loop defect",
        "x: ",
        "80 score",
    ):
        assert part in text
    assert "MH-like" in found.exactness[0] and "not known" in found.exactness[0]
    assert len(text.splitlines()) < 25 and max(map(len, text.splitlines())) < 100


def test_the_loop_defect_is_that_of_the_chains_own_moves():
    """In data units the score's Jacobian is alpha^2 times the network's.

    For small moves rms = h ||M^(-1/2) (J - J^T) M^(-1/2)||, here of two events. The rms of 32
    loops has a relative standard error of 20 %; longer moves add some. A slip of alpha would be
    a factor 13.
    """
    mcmc = run(ScoreMALA(model))
    (found,) = report(mcmc).loop_defects.values()
    tuning = mcmc.last_state.adapt_state
    h = float(jnp.mean(tuning.step_size)) ** 2 / 2
    masses = np.mean(np.asarray(tuning.inverse_mass_matrix), 0)[2:]  # a and s come first
    alpha, _ = NETWORK.noise(NOISE_LEVEL)
    curl = float(alpha) ** 2 * np.asarray(PRECISION - PRECISION.T)
    both = np.kron(np.eye(2), curl) * np.sqrt(masses[:, None] * masses)
    # Its verdict is what the thresholds say of its numbers.
    nats, share = found.median, found.ratio
    words = ("ok", "approximate", "not corrected")
    assert (
        found.verdict
        == words[2 if nats > 0.2 or share > 0.5 else 1 if nats >= 0.02 or share >= 0.1 else 0]
    )
    assert found.step_size == pytest.approx(h, rel=1e-5)
    assert 0.4 < found.rms / (h * np.linalg.norm(both)) < 3.0


def defect(median, sd):
    """A loop defect of which only what decides and what is printed matters."""
    known = dict.fromkeys(LoopDefect._fields, 0.0)
    known |= {"median": median, "ratio": median / sd, "verdict": verdict(median, sd)}
    return LoopDefect(**known)


@pytest.mark.parametrize(
    "second, worst, words",
    [
        ((0.01, 0.5), "ok", "for practical purposes"),
        ((0.03, 0.5), "approximate", "corrects approximately"),
        ((0.01, 0.05), "approximate", "corrects approximately"),
        ((0.3, 3.0), "not corrected", "do not call this a Metropolis correction"),
        ((0.01, 0.015), "not corrected", "do not call this a Metropolis correction"),
    ],
)
def test_the_screen_says_the_worst_verdict_of_all_sites(second, worst, words):
    found = report(Finished({"x": normal(2, 5)}))
    found = found._replace(loop_defects={"a": defect(*second), "b": defect(0.001, 0.5)})
    text = " ".join(str(found).split())
    assert words in text and f"{worst}: the " in text
    others = {"ok", "approximate", "not corrected"} - {worst}
    assert not any(f"{other}: the " in text for other in others)


@pytest.mark.parametrize("rates, said", [((0.5, 0.02), ""), ((0.5, 0.0), "1 of 2 levels accept")])
def test_the_screen_says_how_many_levels_stand_still(rates, said):
    found = report(Finished({"x": normal(2, 5)}))
    found = found._replace(noise_levels=np.array([1.0, 0.1]), acceptance_rate_level=np.array(rates))
    text = " ".join(str(found).split())
    assert "by level, noise sd 1 to 0.1" in text
    assert said in text and ("levels accept" in text) == bool(said)


def test_hmc_on_a_network():
    with pytest.warns(UserWarning, match="curl"):
        mcmc = run(ScoreHMC(model, num_steps=3), num_chains=1)
    found = report(mcmc)
    assert found.path_against_chord.num_steps == 3 and found.path_against_chord.median > 0
    assert found.score_evaluations_per_draw == 6.0
    assert "path vs chord" in str(found) and "needs at least 2 chains" in str(found)
    assert found.convergence.max_r_hat is None


def test_a_known_density():
    found = report(run(ScoreMALA(exact_model)))
    assert found.loop_defects == {} and found.path_against_chord is None
    assert found.exactness[0].startswith("Exact") and found.log_ratio_error == 0.0
    asked = report(run(ScoreMALA(exact_model, quadrature="simpson")))
    assert "up to quadrature" in asked.exactness[0] and asked.log_ratio_error > 0


def test_split_annealing_needs_no_conservative_score():
    kernel = AnnealedScoreMCMC(model, num_levels=3, num_reverse_steps=2, num_weight_steps=3)
    mcmc = run(kernel, num_warmup=16, num_samples=16)
    found = report(mcmc)
    rates = mcmc.get_extra_fields(group_by_chain=True)["acceptance_rate_level"]
    np.testing.assert_allclose(found.acceptance_rate_level, rates.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(found.noise_levels, kernel.noise_levels(Y))
    assert found.loop_defects == {} and found.num_divergent == 0
    assert found.score_evaluations == 2 * 16 * found.score_evaluations_per_draw
    assert "No conservative score is needed" in found.exactness[0]
    assert "num_levels" in found.exactness[1] and "independent" in found.exactness[1]
    shown = " ".join(f"{rate:.2f}" for rate in found.acceptance_rate_level)
    assert shown in str(found)


@pytest.mark.slow
def test_annealing_by_line_integrals():
    kernel = AnnealedScoreMCMC(model, inner="mala", num_levels=3, steps_per_level=2)
    found = report(run(kernel, num_warmup=16, num_samples=16))
    assert set(found.loop_defects) == {"x"} and found.loop_defects["x"].median > 0
    assert "MH-like" in found.exactness[0] and "split" in found.exactness[0]
    exact = AnnealedScoreMCMC(exact_model, num_levels=3, steps_per_level=2)
    found = report(run(exact, num_warmup=16, num_samples=16))
    assert found.loop_defects == {} and found.exactness[0].startswith("Moves are exact at every")


# Convergence, on samples that are known.


def test_the_worst_quantities_are_named():
    good, bad = normal(4, 200), normal(4, 200, 3, seed=1)
    bad[2, :, 1] += 3.0
    found = report(Finished({"good": good, "bad": bad, "constant": np.ones((4, 200))})).convergence
    assert found.max_r_hat[0] == "bad[1]" and found.max_r_hat[1] > 1.3
    assert found.min_ess_bulk[0] == "bad[1]" and found.min_ess_bulk[1] < 50
    assert found.num_quantities == 4 and found.num_not_finite == 0


def test_independent_draws_pass():
    found = report(Finished({"x": normal(4, 500)})).convergence
    # R-hat - 1 of 2000 independent draws is about 1e-3; ESS about 2000 give or take 10 %.
    assert found.max_r_hat[1] < 1.02
    assert 1200 < found.min_ess_bulk[1] < 3000 and found.min_ess_tail[1] > 1000


def test_an_image_is_summarised():
    images = normal(2, 50, 28, 28)
    images[1] += 1.0
    found = report(Finished({"image": images}))
    assert found.convergence.summarised == ("image",)
    assert found.convergence.num_quantities == 17
    # Each pixel is shifted by one standard deviation, their mean by 28.
    assert found.convergence.max_r_hat[0] == "mean of image"
    assert "random subset" in str(found)


def test_values_that_are_not_finite_are_counted():
    x = normal(2, 50, 2)
    x[0, 3, 1] = np.nan
    x[1, 4] = np.inf
    found = report(Finished({"x": x, "y": normal(2, 50)}))
    assert found.convergence.num_not_finite == 2
    assert found.convergence.num_quantities == 1
    assert "2 draws hold values that are not finite" in str(found)


def test_too_few_draws():
    text = str(report(Finished({"x": normal(2, 3)})))
    assert "not available" in text


def test_a_kernel_of_another_package():
    fields = {"diverging": np.array([[True, False, False, False, False]] * 2)}
    found = report(Finished({"x": normal(2, 5)}, fields))
    assert found.num_divergent == 2 and found.score_evaluations is None
    assert found.acceptance_rate is None and found.loop_defects == {}
    assert "not a kernel of this package" in found.exactness[0]
    assert repr(found).startswith("object: 2 chains x 5 draws\n")


# What cannot be reported.


def test_what_is_no_run():
    with pytest.raises(ValueError, match="numpyro.infer.MCMC"):
        report({"x": normal(2, 5)})
    unfinished = MCMC(ScoreMALA(model), num_warmup=1, num_samples=1, progress_bar=False)
    with pytest.raises(ValueError, match="has not been run"):
        report(unfinished)
    with pytest.raises(ValueError, match="by site name"):
        report(Finished(normal(2, 5)))
