"""The program: a digit of the prior, weighed by the probability of its class and by its rarity."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import Array

import scoreppl as sp
from case_studies.augmentation.classifier import log_probabilities
from case_studies.augmentation.data import NUM_CLASSES

# Of `sp.guidance.minority_log_weight`: a level with as much noise as signal, and a strength that
# leaves about two thirds of the prior's draws effective.
RARITY_STRENGTH, RARITY_LOG_SNR = 0.5, 0.0


def digit(prior: sp.ScoreModel, classifier: dict[str, Array], label: Array) -> None:
    """Draw a digit with the weight p(label | x) of a classifier."""
    x = numpyro.sample("x", sp.ScorePrior(prior))
    numpyro.factor("class", log_probabilities(classifier, jnp.asarray(x))[label])


def undo_frequencies(classifier: dict[str, Array], labels: np.ndarray) -> dict[str, Array]:
    """Divide a classifier's probabilities by the frequencies of its training labels.

    Where all classes are as frequent, p(c | x) is proportional to the classifier's over n_c.
    """
    counts = np.bincount(labels, minlength=NUM_CLASSES)
    return classifier | {"bias1": classifier["bias1"] - jnp.log(jnp.asarray(counts, float))}


def equitable_log_weight(log_probability: np.ndarray, log_weight: np.ndarray) -> np.ndarray:
    """Return log weights under which all classes are equally probable.

    Parameters
    ----------
    log_probability
        Of each class at each draw, shape ``(n, classes)``.
    log_weight
        Log weights that the draws have already, shape ``(n,)``; they are kept as a factor.

    Returns
    -------
    numpy.ndarray
        The log of the given weight times the sum over c of p(c | x) / P(c), where P(c) is the
        weighted mean of p(c | x).
    """
    share = log_weight - np.logaddexp.reduce(log_weight)
    log_mean = np.logaddexp.reduce(log_probability + share[:, None], axis=0)
    return log_weight + np.logaddexp.reduce(log_probability - log_mean, axis=1)


@jax.jit
def rarity(prior: sp.ScoreNetwork, images: Array) -> Array:
    """Return the log weight that prefers images of low density, for shape ``(n, 8, 8)``."""

    def of(x: Array) -> Array:
        return sp.guidance.minority_log_weight(
            prior, x, strength=RARITY_STRENGTH, log_snr=RARITY_LOG_SNR
        )

    return jax.lax.map(of, images, batch_size=256)
