"""Stable Diffusion XL in JAX against PyTorch, part by part, on random weights.

::

    python -m docs.scripts.backend_parity_table

Writes ``docs/tables/backend_parity.md``: the micro folder of ``tests/backends/micro_sdxl.py``, of
the exact layout, read by `sp.backends.sdxl` and run by the pipeline that wrote it.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

import scoreppl as sp
from scoreppl.score.flow import flow_map
from scoreppl.solvers import dpm_solver
from tests.backends import micro_sdxl

OUT = Path(__file__).parents[1] / "tables" / "backend_parity.md"
PROMPT, SCALE, SIZE, STEP, NUM_STEPS = "a red fox", 3.0, 64, 500, 8
REPEATS = 20


class Part(NamedTuple):
    """One part of the model, computed on both sides; `in_jax` is compiled with its arguments."""

    name: str
    in_jax: Callable[..., jax.Array]
    arguments: tuple[Any, ...]
    in_torch: Callable[[], torch.Tensor]


def read(folder: Path, **options: Any) -> sp.backends.LatentDiffusion:
    """Read the folder as a score model."""
    return sp.backends.sdxl(folder, prompt=PROMPT, height=SIZE, width=SIZE, **options)


def predicted(backend: sp.backends.LatentDiffusion, x: jax.Array) -> jax.Array:
    """Return the noise that the UNet sees in one latent."""
    network, t = backend.network, jnp.asarray(STEP / 999)
    return network.apply_fn(network.params, x[None], t[None], network.condition)[0]


def network_parts(folder: Path, pipeline: Any) -> list[Part]:
    """Return the UNet's parts: a call, its gradient, a call in bfloat16."""
    draws = np.random.default_rng(0)
    backend = read(folder, guidance_scale=1.0)
    x, direction = draws.standard_normal((2, *backend.event_shape)).astype(np.float32)
    hidden, _, pooled, _ = pipeline.encode_prompt(PROMPT, do_classifier_free_guidance=False)
    added = {
        "text_embeds": pooled,
        "time_ids": torch.tensor([[SIZE, SIZE, 0, 0, SIZE, SIZE]], dtype=torch.float32),
    }

    def noise(x: torch.Tensor) -> torch.Tensor:
        return pipeline.unet(x, STEP, hidden, added_cond_kwargs=added).sample

    def gradient() -> torch.Tensor:
        start = torch.tensor(x[None], requires_grad=True)
        total = torch.sum(noise(start) * torch.tensor(direction))
        return torch.autograd.grad(total, start)[0]

    def total(x: jax.Array, backend: sp.backends.LatentDiffusion) -> jax.Array:
        return jnp.sum(predicted(backend, x) * direction)

    half = read(folder, guidance_scale=1.0, dtype=jnp.bfloat16)
    once = torch.no_grad()(lambda: noise(torch.tensor(x[None])))
    return [
        Part("UNet, one call", predicted, (backend, x), once),
        Part("gradient through the UNet", jax.grad(total), (x, backend), gradient),
        Part("UNet, bfloat16 in JAX, for information", predicted, (half, x), once),
    ]


def image_parts(folder: Path, pipeline: Any) -> list[Part]:
    """Return the autoencoder's parts: decoded, encoded, the decoder's gradient."""
    draws = np.random.default_rng(1)
    backend, vae = read(folder, guidance_scale=1.0), pipeline.vae
    latent = 0.2 * draws.standard_normal(backend.event_shape).astype(np.float32)
    pixels = draws.random((3, SIZE, SIZE)).astype(np.float32)

    def image(z: torch.Tensor) -> torch.Tensor:
        return torch.clip(0.5 * vae.decode(z / vae.config.scaling_factor).sample + 0.5, 0, 1)

    def encoded() -> torch.Tensor:
        found = vae.encode(torch.tensor(2 * pixels[None] - 1)).latent_dist.mode()
        return found * vae.config.scaling_factor

    def gradient() -> torch.Tensor:
        start = torch.tensor(latent[None], requires_grad=True)
        return torch.autograd.grad(torch.mean(image(start) ** 2), start)[0]

    def loss(z: jax.Array, backend: sp.backends.LatentDiffusion) -> jax.Array:
        return jnp.mean(backend.decode(z) ** 2)

    without = torch.no_grad()
    return [
        Part(
            "decoder", lambda backend, z: backend.decode(z), (backend, latent),
            without(lambda: image(torch.tensor(latent[None]))),
        ),
        Part("gradient through the decoder", jax.grad(loss), (latent, backend), gradient),
        Part(
            "encoder", lambda backend, image: backend.encode(image), (backend, pixels),
            without(encoded),
        ),
    ]  # fmt: skip


def run_parts(folder: Path, pipeline: Any) -> list[Part]:
    """Return a guided run of DDIM as a latent and as an image."""
    backend = read(folder, guidance_scale=SCALE)
    pipeline.scheduler.set_timesteps(NUM_STEPS)
    times = pipeline.scheduler.timesteps.numpy() / 999
    z = np.random.default_rng(2).standard_normal(backend.event_shape).astype(np.float32)
    start = torch.tensor(z[None] * float(backend.noise(times[0])[1]))
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds")
    names = (*names, "negative_pooled_prompt_embeds")
    embeddings = pipeline.encode_prompt(PROMPT, do_classifier_free_guidance=True)
    given = dict(zip(names, embeddings, strict=True))

    def latent(backend: sp.backends.LatentDiffusion, z: jax.Array) -> jax.Array:
        flow = flow_map(backend, num_steps=NUM_STEPS, solver=dpm_solver(1), spacing=times)
        return flow(z)

    def image(backend: sp.backends.LatentDiffusion, z: jax.Array) -> jax.Array:
        return backend.decode(latent(backend, z))

    def by_pipeline(kind: str) -> torch.Tensor:
        return pipeline(
            **given, latents=start, output_type=kind, num_inference_steps=NUM_STEPS,
            guidance_scale=SCALE, height=SIZE, width=SIZE,
        ).images  # fmt: skip

    name = f"guided run of {NUM_STEPS} DDIM steps"
    return [
        Part(f"{name}, latent", latent, (backend, z), lambda: by_pipeline("latent")),
        Part(f"{name}, image", image, (backend, z), lambda: by_pipeline("pt")),
    ]


def embedding_rows(folder: Path, pipeline: Any) -> list[str]:
    """Compare text embeddings; PyTorch's encoders make them on both sides, once a prompt."""
    hidden, pooled = map(np.asarray, read(folder, guidance_scale=1.0).network.condition)
    with torch.no_grad():
        wanted, _, wanted_pooled, _ = pipeline.encode_prompt(
            PROMPT, do_classifier_free_guidance=False
        )
    wanted, width = wanted.numpy(), pipeline.text_encoder.config.hidden_size
    parts = (
        ("text, hidden states of encoder 1", hidden[..., :width], wanted[..., :width]),
        ("text, hidden states of encoder 2", hidden[..., width:], wanted[..., width:]),
        ("text, pooled", pooled, wanted_pooled.numpy()),
    )
    return [f"| {name} | {difference(*both)} | | | |" for name, *both in parts]


def difference(found: np.ndarray, wanted: np.ndarray) -> str:
    """Return the columns of absolute difference, size and relative difference."""
    if found.shape != wanted.shape:
        raise ValueError(f"JAX gave shape {found.shape}, and PyTorch {wanted.shape}.")
    error, size = np.abs(found - wanted).max(), np.abs(wanted).max()
    return f"{error:.1e} | {size:.3g} | {error / size:.1e}"


def row(part: Part) -> str:
    """Compare one part's values, and then its times, call by call in turn."""
    compiled = jax.jit(part.in_jax)
    found = np.asarray(compiled(*part.arguments), np.float32)
    wanted = part.in_torch().detach().numpy()[0]
    pairs = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        jax.block_until_ready(compiled(*part.arguments))
        middle = time.perf_counter()
        part.in_torch()
        pairs.append((middle - begin, time.perf_counter() - middle))
    jax_times, torch_times = np.array(pairs).T
    ratio = np.median(jax_times / torch_times)
    seconds = [f"{1e3 * np.median(times):.3g}" for times in (jax_times, torch_times)]
    return (
        f"| {part.name} | {difference(found, wanted)} | {seconds[0]} | {seconds[1]} | {ratio:.2f} |"
    )


def main() -> None:
    """Measure every part and write the table."""
    rows = [
        "| part | largest difference | size of the output | relative | JAX, ms | PyTorch, ms "
        "| ratio (median) |",
        "|" + "---|" * 7,
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pipeline = micro_sdxl.write(folder)
        rows += embedding_rows(folder, pipeline)
        for parts in (network_parts, image_parts, run_parts):
            for part in parts(folder, pipeline):
                rows.append(row(part))
                print(rows[-1], flush=True)
    rows.append("")
    rows.append(
        f"Random weights, image of {SIZE} x {SIZE}, float32 where nothing else is said; difference "
        f"and size are largest absolute values. Times are medians of {REPEATS} calls a side, in "
        f"turn, after compilation, on {os.cpu_count()} CPU cores with other work beside, PyTorch "
        f"on {torch.get_num_threads()} of them; they say nothing of the full size. Text is "
        "embedded by PyTorch on both sides, once a prompt."
    )
    OUT.write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
