"""deepinv's DPS and DiffPIR on the same network and matrix, with the noise scale given.

Chung et al. (arXiv:2209.14687) and Zhu et al. (arXiv:2305.08995), by deepinv's own classes. Each
run is one draw; a batch of runs makes as many draws as our kernel does. deepinv recommends
operators of norm one, so that matrix, line integrals and noise are all divided by the norm of the
matrix, which leaves the problem as it is.
"""

from typing import NamedTuple

import deepinv
import numpy as np
import torch

from case_studies.tomography.denoiser import Denoiser


class Seen(NamedTuple):
    """What is seen of a digit, as deepinv takes it.

    Attributes
    ----------
    y
        Line integrals over the norm of the matrix, shape ``(rays,)``.
    physics
        The matrix over its norm, with the noise scale.
    shape
        Of an image: channel, rows, columns.
    """

    y: torch.Tensor
    physics: deepinv.physics.LinearPhysics
    shape: tuple[int, int, int]


def seen(transform: np.ndarray, y: np.ndarray, noise_scale: float) -> Seen:
    """Return deepinv's form of line integrals `y` with noise of a known scale."""
    norm = float(np.linalg.norm(transform, 2))
    operator = torch.tensor(transform / norm, dtype=torch.float32)
    size = round(np.sqrt(transform.shape[1]))
    physics = deepinv.physics.LinearPhysics(
        A=lambda x, **_: x.flatten(1).to(operator) @ operator.T,
        A_adjoint=lambda y, **_: (y.to(operator) @ operator).reshape(-1, 1, size, size),
        img_size=(1, size, size),
        noise_model=deepinv.physics.GaussianNoise(noise_scale / norm),  # type: ignore[arg-type]
    )
    return Seen(torch.tensor(y / norm, dtype=torch.float32), physics, (1, size, size))


class DPS(NamedTuple):
    """Diffusion posterior sampling, with the residual's norm as guidance as in the paper.

    Attributes
    ----------
    weight
        Of the guidance; deepinv says that it is typically in the hundreds.
    num_steps
        One more than the network calls, each of which costs a forward and a backward pass.
    """

    weight: float
    num_steps: int = 100

    def draw(self, denoiser: Denoiser, seen: Seen, num_draws: int, seed: int) -> np.ndarray:
        """Return reconstructions, shape ``(num_draws, size, size)``, ink in [0, 1]."""
        rng = torch.Generator().manual_seed(seed)
        sampler = deepinv.sampling.DPS(
            denoiser,  # type: ignore[arg-type]
            weight=self.weight,
            num_steps=self.num_steps,
            rng=rng,
        )
        found = sampler(seen.y.expand(num_draws, -1), seen.physics, x_init=(num_draws, *seen.shape))
        return _images(found)


class DiffPIR(NamedTuple):
    """Denoising diffusion for plug-and-play restoration.

    Attributes
    ----------
    lambda_
        How much the prior counts in each proximal step.
    zeta
        Share of fresh noise in each step; 0 is deterministic.
    max_iter
        Network calls.
    """

    lambda_: float
    zeta: float
    max_iter: int = 100

    def draw(self, denoiser: Denoiser, seen: Seen, num_draws: int, seed: int) -> np.ndarray:
        """Return reconstructions as in `DPS.draw`."""
        torch.manual_seed(seed)
        sampler = deepinv.sampling.DiffPIR(
            denoiser,
            deepinv.optim.data_fidelity.L2(),
            max_iter=self.max_iter,
            zeta=self.zeta,
            lambda_=self.lambda_,
        )
        return _images(sampler(seen.y.expand(num_draws, -1), seen.physics))


Peer = DPS | DiffPIR


def _images(found: torch.Tensor) -> np.ndarray:
    return found.detach().numpy()[:, 0].astype(np.float32)
