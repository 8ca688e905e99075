"""A small autoencoder for the latents of another one, as an ``AutoencoderTiny`` of diffusers.

Its encoder learns the latents that the other gives its pictures, and its decoder the pictures from
those latents; it serves the pictures it was trained on and no others.
"""

import time

import diffusers
import torch
from torch.nn.functional import l1_loss, mse_loss

from training.coloured_digits import Pictures, draw

WIDTH, BLOCKS, BATCH, RATE = 32, (1, 1, 1, 1), 32, 2e-3


def small_autoencoder(seed: int) -> diffusers.AutoencoderTiny:
    """Return one with random weights, a sixteenth of TAESD's work."""
    torch.manual_seed(seed)
    return diffusers.AutoencoderTiny(
        encoder_block_out_channels=(WIDTH,) * 4, decoder_block_out_channels=(WIDTH,) * 4,
        num_encoder_blocks=BLOCKS, num_decoder_blocks=BLOCKS,
    )  # fmt: skip


@torch.no_grad()
def encode(autoencoder: diffusers.AutoencoderTiny, pictures: Pictures) -> torch.Tensor:
    """Return the latents of pictures."""
    parts = []
    for start in range(0, len(pictures.digits), 256):
        parts.append(autoencoder.encode(draw(pictures.take(slice(start, start + 256)))).latents)
        if start % 4096 == 0:
            print(f"encoded {start + len(parts[-1])}", flush=True)
    return torch.cat(parts)


def train_autoencoder(
    autoencoder: diffusers.AutoencoderTiny, pictures: Pictures, latents: torch.Tensor, steps: int
) -> None:
    """Train it in place."""
    optimiser = torch.optim.AdamW(autoencoder.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    autoencoder.train()
    start = time.perf_counter()
    for step in range(1, steps + 1):
        chosen = torch.randint(len(latents), (BATCH,))
        images, latent = draw(pictures.take(chosen.numpy())), latents[chosen]
        decoded = autoencoder.decode(latent).sample
        pixels = mse_loss(decoded, images) + 0.1 * l1_loss(decoded, images)
        encoded = mse_loss(autoencoder.encode(images).latents, latent)
        optimiser.zero_grad()
        (pixels + encoded).backward()
        optimiser.step()
        schedule.step()
        if step % 100 == 0:
            seconds = time.perf_counter() - start
            print(f"autoencoder {step}: pixels {pixels:.4f} latents {encoded:.4f} {seconds:.0f} s",
                  flush=True)  # fmt: skip
    autoencoder.eval()


@torch.no_grad()
def decibels(
    autoencoder: diffusers.AutoencoderTiny, pictures: Pictures, latents: torch.Tensor
) -> float:
    """Return the peak signal-to-noise ratio of decoded latents against their pictures."""
    decoded = autoencoder.decode(latents).sample.clip(-1, 1)
    error = mse_loss(0.5 * decoded, 0.5 * draw(pictures))
    return float(-10 * torch.log10(error))
