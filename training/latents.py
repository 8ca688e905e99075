"""Train a small network of Stable Diffusion XL's kind on latents of coloured digits.

The result is a folder in the layout of diffusers that ``sp.backends.sdxl`` reads as it reads the
big one: UNet, autoencoder, two text encoders with their tokenizers, and scheduler. Latents are of
TAESDXL (https://github.com/madebyollin/taesd, MIT), given as a folder or the id of a hub's model;
the folder that is written holds a small autoencoder for them instead, trained here. Digits as for
`training.digits`; needs ``pip install -e ".[sdxl]"``::

    python -m training.latents --data package/data --autoencoder FOLDER

An hour and a quarter on two cores.
"""

import argparse
import copy
import json
import time
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch

from training import words
from training.autoencoder import decibels, encode, small_autoencoder, train_autoencoder
from training.coloured_digits import COLOURS, DIGITS, SIZE, Pictures, caption, captions, read
from training.digits import LICENCE

FOLDER = Path(__file__).parents[1] / "case_studies" / "sdxl_latent" / "network"
NUM_IMAGES, NUM_HELD_OUT, BATCH, RATE, EMA = 32_768, 512, 128, 1.5e-3, 0.998
HELD_OUT_STEPS = (20, 100, 200, 400, 600, 800, 950)
UNET = {
    "sample_size": SIZE // 8, "in_channels": 4, "out_channels": 4, "layers_per_block": 1,
    "block_out_channels": (48, 96), "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "attention_head_dim": (2, 4),
    "transformer_layers_per_block": (1, 1), "use_linear_projection": True, "norm_num_groups": 16,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + words.WIDTH,
    "cross_attention_dim": 2 * words.WIDTH,
}  # fmt: skip
SCHEDULER = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "clip_sample": False, "steps_offset": 1,
}  # fmt: skip


def predict(
    unet: Any, x: torch.Tensor, step: torch.Tensor, said: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    """Return the noise that the network sees."""
    sizes = torch.tensor([[SIZE, SIZE, 0, 0, SIZE, SIZE]], dtype=x.dtype).expand(len(x), -1)
    added = {"text_embeds": said[1], "time_ids": sizes}
    return unet(x, step, said[0], added_cond_kwargs=added, return_dict=False)[0]


def noised(
    latents: torch.Tensor, step: torch.Tensor, scheduler: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noisy latents and their noise."""
    noise = torch.randn_like(latents)
    return scheduler.add_noise(latents, noise, step), noise


def train_unet(
    unet: Any, latents: torch.Tensor, pictures: Pictures, said: tuple, steps: int, keep: Any
) -> Any:
    """Train on the noise's squared error; return the averaged network, kept now and then."""
    average = copy.deepcopy(unet).requires_grad_(False)
    optimiser = torch.optim.AdamW(unet.parameters(), lr=RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    scheduler = diffusers.DDIMScheduler(**SCHEDULER)
    random, start, recent = np.random.default_rng(1), time.perf_counter(), []
    for step in range(1, steps + 1):
        chosen = random.integers(len(latents), size=BATCH)
        told = torch.tensor(caption(pictures.take(chosen), random))
        # Stratified over the batch.
        t = ((np.arange(BATCH) + random.random(BATCH)) / BATCH * 1000).astype(int)
        x, noise = noised(latents[chosen], torch.tensor(t), scheduler)
        found = predict(unet, x, torch.tensor(t), tuple(part[told] for part in said))
        loss = torch.mean((found - noise) ** 2)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            for mean, value in zip(average.parameters(), unet.parameters(), strict=True):
                mean.lerp_(value, 1 - EMA)
        recent.append(float(loss.detach()))
        if step % 250 == 0:
            seconds = time.perf_counter() - start
            print(f"unet {step}: {np.mean(recent):.4f} {seconds:.0f} s", flush=True)
            recent = []
        if step % 1000 == 0:
            keep(average)
    return average


@torch.no_grad()
def held_out_errors(unet: Any, latents: torch.Tensor, pictures: Pictures, said: tuple) -> list:
    """Return the noise's mean squared error by step, for full captions and for none."""
    torch.manual_seed(7)
    scheduler, rows = diffusers.DDIMScheduler(**SCHEDULER), []
    full = torch.tensor(pictures.colours * (len(DIGITS) + 1) + pictures.digits)
    none = torch.full_like(full, len(said[0]) - 1)
    for step in HELD_OUT_STEPS:
        t = torch.full((len(latents),), step)
        x, noise = noised(latents, t, scheduler)
        errors = [
            float(torch.mean((predict(unet, x, t, tuple(p[told] for p in said)) - noise) ** 2))
            for told in (full, none)
        ]
        rows.append({"step": step, "captioned": round(errors[0], 5), "plain": round(errors[1], 5)})
    return rows


def write(folder: Path, unet: Any, autoencoder: Any, pair: tuple, tokens: Any) -> None:
    """Write the folder, in half precision."""
    pipeline = diffusers.StableDiffusionXLPipeline(
        copy.deepcopy(autoencoder).half(), *(copy.deepcopy(part).half() for part in pair), tokens,
        tokens, copy.deepcopy(unet).half(), diffusers.DDIMScheduler(**SCHEDULER),
        force_zeros_for_empty_prompt=True, add_watermarker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder)


def main(data: Path, source: str, folder: Path, steps: int, autoencoder_steps: int) -> None:
    """Train everything and write it."""
    torch.manual_seed(0)
    pictures = read(data, "train", NUM_IMAGES, 0)
    held_out = read(data, "t10k", NUM_HELD_OUT, 1)
    teacher = diffusers.AutoencoderTiny.from_pretrained(source, use_safetensors=True).eval()
    latents, held_out_latents = encode(teacher, pictures), encode(teacher, held_out)
    autoencoder = small_autoencoder(0)
    train_autoencoder(autoencoder, pictures, latents, autoencoder_steps)
    # Longer words first: shorter ones would split them.
    known = sorted(["a", "digit", *DIGITS, *COLOURS], key=len, reverse=True)
    tokens = words.tokenizer(folder / "tokenizer", known)
    pair = words.encoders(tokens, 0)
    said = words.embed(tokens, pair, captions())
    torch.manual_seed(2)
    unet = diffusers.UNet2DConditionModel(**UNET)
    unet = train_unet(
        unet, latents, pictures, said, steps,
        lambda average: write(folder, average, autoencoder, pair, tokens),
    )  # fmt: skip
    write(folder, unet, autoencoder, pair, tokens)
    card = {
        "data": f"{NUM_IMAGES} MNIST digits in random colours, 64 x 64; {LICENCE}",
        "latents": "of TAESDXL, madebyollin, MIT; the autoencoder here was trained on them",
        "training": "python -m training.latents --data package/data --autoencoder FOLDER",
        "parameters": sum(value.numel() for value in unet.parameters()),
        "heldout_noise_mse": held_out_errors(unet, held_out_latents, held_out, said),
        "heldout_decibels": {
            "of the autoencoder here": decibels(autoencoder, held_out, held_out_latents),
            "of TAESDXL": decibels(teacher, held_out, held_out_latents),
        },
    }
    (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    print(json.dumps(card, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the idx files")
    parser.add_argument("--autoencoder", required=True, help="folder or hub id of TAESDXL")
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--steps", type=int, default=6_000)
    parser.add_argument("--autoencoder-steps", type=int, default=2_000)
    given = parser.parse_args()
    main(given.data, given.autoencoder, given.out, given.steps, given.autoencoder_steps)
