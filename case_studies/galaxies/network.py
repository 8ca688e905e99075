r"""The galaxy network of galaxygrad 0.2.1, as a score model in its own coordinates.

ScoreNet32 was trained on galaxies of the Hyper Suprime-Cam survey, 32 pixels wide and with peaks
near one, in the coordinates :math:`u = \log(1 + x) / 0.1`. Its noise has the rate beta = 1 over
times in (0, 10]: :math:`\bar\alpha_t = e^{-t}`. Its output is the score in u. The weights state no
licence, so that they are read where the package is installed, and no copy is kept here.

Importing the package fails on Linux, where one of its file names differs in case, so its module of
architectures is loaded alone.
"""

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from numpyro.distributions.transforms import AffineTransform, ComposeTransform, ExpTransform

import scoreppl as sp

SIZE, PATCH = 32, 4
DURATION = 10.0  # of the network's time, which is the rate's integral
# Where the authors stop: at 0.02 of their time, noise of 0.14 in u, of 0.014 in dim pixels.
MIN_TIME = 0.002
INSTALL = "Install it with `pip install -e '.[galaxies]'`."


def to_flux() -> ComposeTransform:
    """Return the transform from the network's coordinates u to pixels, x = exp(0.1 u) - 1."""
    return ComposeTransform([AffineTransform(0.0, 0.1), ExpTransform(), AffineTransform(-1.0, 1.0)])


def installed() -> bool:
    """Whether the network and what reads it are there."""
    return all(importlib.util.find_spec(name) for name in ("galaxygrad", "equinox", "einops"))


@cache
def original() -> Any:
    """Return the package's own module, called as ``module(u[None], 10 t)[0]``.

    Raises
    ------
    ValueError
        If a package is missing.
    """
    if not installed():
        raise ValueError(f"The galaxy network needs galaxygrad, equinox and einops. {INSTALL}")
    import equinox

    folder = _folder()
    skeleton = _architectures(folder).ScoreNet(
        (1, SIZE, SIZE), PATCH, 64, 512, 512, 4, DURATION, key=jax.random.key(0)
    )
    return equinox.tree_deserialise_leaves(folder / "eqx_hsc_ScoreNet32.eqx", skeleton)


@cache
def load() -> sp.ScoreNetwork:
    """Return the network as a score model on u, shape (32, 32).

    Raises
    ------
    ValueError
        If a package is missing.
    """
    module = original()
    import equinox

    params, static = equinox.partition(module, equinox.is_array)

    def apply(params: Any, u: Array, t: Array, condition: None) -> Array:
        return evaluate(equinox.combine(params, static), u, DURATION * t)

    return sp.ScoreNetwork(
        apply, params, noise=sp.noise.VPLinear(DURATION, DURATION), prediction="score",
        event_shape=(SIZE, SIZE), min_time=MIN_TIME,
    )  # fmt: skip


def evaluate(module: Any, u: Array, time: Array) -> Array:
    """Evaluate the package's module on one event, its convolutions as matrix products.

    A stride as wide as the kernel makes them products over patches. XLA's own convolutions with
    channels first are slow on processors.
    """
    count = SIZE // PATCH
    patches = u.reshape(count, PATCH, count, PATCH).transpose(0, 2, 1, 3).reshape(count**2, -1)
    # The second channel is the time, the same at every pixel.
    weight = module.conv_in.weight.reshape(-1, 2, PATCH**2)
    given_time = weight[:, 1].sum(-1) * time / module.t1 + module.conv_in.bias.ravel()
    y = weight[:, 0] @ patches.T + given_time[:, None]
    for block in module.blocks:
        y = block(y)
    # Written as a correlation, a transposed convolution has its kernel turned round.
    weight = module.conv_out.weight[0, :, ::-1, ::-1].reshape(-1, PATCH**2)
    out = module.norm(y).T @ weight + module.conv_out.bias.ravel()
    return out.reshape(count, count, PATCH, PATCH).transpose(0, 2, 1, 3).reshape(SIZE, SIZE)


def _folder() -> Path:
    spec = importlib.util.find_spec("galaxygrad")
    if spec is None or spec.origin is None:
        raise ValueError(f"The galaxy network needs galaxygrad. {INSTALL}")
    return Path(spec.origin).parent


def _architectures(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("galaxygrad_models", folder / "models_eqx.py")
    if spec is None or spec.loader is None:
        raise ValueError(f"{folder} holds no models_eqx.py. {INSTALL}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def score_in_flux(x: Array, time: float = DURATION * MIN_TIME) -> Array:
    """Return what the package offers: the score of u times du/dx, a gradient in pixels.

    The Jacobian's own gradient, -1 / (1 + x), is not in it, as it is not in the package.
    """
    u = 10.0 * jnp.log1p(x)
    return load().score(u, time / DURATION) * 10.0 / (1.0 + x)
