"""Unconditional diffusers pipelines, written by the tests with random weights; skipped without."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scoreppl as sp
from scoreppl.backends import from_diffusers
from scoreppl.score.flow import flow_map
from scoreppl.solvers import dpm_solver

torch = pytest.importorskip("torch")
pytest.importorskip("torchax")
diffusers = pytest.importorskip("diffusers")

BLOCKS = {
    "sample_size": 16, "in_channels": 1, "out_channels": 1, "layers_per_block": 1,
    "block_out_channels": (32, 64), "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"), "norm_num_groups": 8,
}  # fmt: skip


def write(folder, scheduler=None, **blocks):
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(**(BLOCKS | blocks))
    scheduler = scheduler or diffusers.DDIMScheduler(clip_sample=False)
    diffusers.DDIMPipeline(unet, scheduler).save_pretrained(folder)
    # The pipeline makes a DDIM scheduler of any other.
    scheduler.save_pretrained(folder / "scheduler")
    return unet.eval()


@pytest.fixture(scope="module")
def micro(tmp_path_factory):
    folder = tmp_path_factory.mktemp("micro")
    return folder, write(folder)


def test_the_network_is_that_of_torch(micro):
    folder, unet = micro
    network = from_diffusers(folder)
    assert network.event_shape == (1, 16, 16) and network.prediction == "epsilon"
    steps = np.array([3, 500, 950])
    x = np.random.default_rng(0).standard_normal((3, 1, 16, 16)).astype(np.float32)
    with torch.no_grad():
        expected = unet(torch.tensor(x), torch.tensor(steps)).sample.numpy()
    sigma = np.asarray(network.noise(steps / 999)[1])[:, None, None, None]
    found = -sigma * np.asarray(jax.jit(jax.vmap(network.score))(jnp.asarray(x), steps / 999))
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("clip_sample", [False, True])
def test_a_whole_run_is_that_of_the_pipelines_sampler(micro, tmp_path, clip_sample):
    folder, unet = micro
    shutil.copytree(folder, tmp_path / "copy")
    scheduler = diffusers.DDIMScheduler(clip_sample=clip_sample, clip_sample_range=0.7)
    scheduler.save_pretrained(tmp_path / "copy" / "scheduler")
    network = from_diffusers(tmp_path / "copy")
    scheduler.set_timesteps(8)
    times = scheduler.timesteps.numpy() / 999
    z = np.random.default_rng(1).standard_normal((1, 16, 16)).astype(np.float32)
    flow = flow_map(network, num_steps=8, solver=dpm_solver(1), spacing=times)
    found = np.asarray(jax.jit(flow)(z))
    x = torch.tensor(z[None] * float(network.noise(times[0])[1]))
    with torch.no_grad():
        for step in scheduler.timesteps:
            # The noise that belongs to the clipped image, as DDPM's sampler takes it.
            x = scheduler.step(
                unet(x, step).sample, step, x, use_clipped_model_output=clip_sample
            ).prev_sample
    assert np.abs(found - x.numpy()[0]).max() < 1e-4 * np.abs(x.numpy()).max()
    assert (np.abs(found).max() <= 0.7 + 1e-4) == clip_sample


def test_schedules_and_types_are_read(micro, tmp_path):
    folder, _ = micro
    for number, (options, prediction) in enumerate(
        [
            ({"prediction_type": "v_prediction", "beta_schedule": "scaled_linear"}, "v"),
            ({"prediction_type": "sample", "beta_schedule": "squaredcos_cap_v2"}, "x0"),
            ({"trained_betas": np.linspace(1e-3, 0.1, 50).tolist()}, "epsilon"),
        ]
    ):
        copy = tmp_path / str(number)
        shutil.copytree(folder, copy)
        scheduler = diffusers.DDPMScheduler(clip_sample=False, **options)
        scheduler.save_pretrained(copy / "scheduler")
        network = from_diffusers(copy)
        assert network.prediction == prediction
        alphas = scheduler.alphas_cumprod.numpy().astype(float)
        places = np.linspace(0, 1, len(alphas))[:-1:7]
        found = np.asarray(network.noise(places)[0]) ** 2
        np.testing.assert_allclose(found, alphas[:-1:7], rtol=2e-3)


def test_classes_and_learned_variances(tmp_path):
    unet = write(tmp_path, out_channels=2, num_class_embeds=5)
    network = from_diffusers(tmp_path, class_label=3)
    x = np.random.default_rng(0).standard_normal((1, 1, 16, 16)).astype(np.float32)
    with torch.no_grad():
        expected = unet(torch.tensor(x), 500, torch.tensor([3])).sample.numpy()[0, :1]
    found = network.score(x[0], 500 / 999) * -network.noise(500 / 999)[1]
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    with pytest.raises(ValueError, match="`class_label=None` does not fit: the network has 5"):
        from_diffusers(tmp_path)


def change(folder, name, **values):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_folders_that_are_none_of_this_kind_are_refused(micro, tmp_path, monkeypatch):
    folder, _ = micro
    unet, scheduler = "unet/config.json", "scheduler/scheduler_config.json"
    weights = "unet/diffusion_pytorch_model.safetensors"

    def truncated(copy):
        (copy / weights).write_bytes((copy / weights).read_bytes()[:5_000])

    def pickled(copy):
        (copy / weights).rename(copy / "unet" / "diffusion_pytorch_model.bin")

    def index(copy, shards):
        name = "unet/diffusion_pytorch_model.safetensors.index.json"
        (copy / name).write_text(json.dumps({"weight_map": shards}))

    cases = [
        (lambda copy: (copy / unet).unlink(), "has no config.json"),
        (lambda copy: (copy / unet).write_text("{"), "is no JSON file"),
        (lambda copy: change(copy, unet, _class_name="UNet2DConditionModel"), "no UNet2DModel"),
        (lambda copy: change(copy, unet, block_out_channels=[32, 32]), "of different models"),
        (lambda copy: change(copy, unet, layers_per_block=2), "lack"),
        (lambda copy: change(copy, scheduler, prediction_type="flow"), "prediction_type='flow'"),
        (lambda copy: change(copy, scheduler, beta_schedule="exp"), "beta_schedule='exp'"),
        (lambda copy: change(copy, scheduler, thresholding=True), "dynamic thresholding"),
        (lambda copy: change(copy, scheduler, rescale_betas_zero_snr=True), "rescaled"),
        (
            lambda copy: change(copy, scheduler, _class_name="ScoreSdeVeScheduler"),
            "is a ScoreSdeVe",
        ),
        (truncated, "truncated, damaged"),
        (lambda copy: index(copy, ["a"]), "maps no tensors"),
        (lambda copy: index(copy, {"a": 3}), "maps no tensors"),
        (lambda copy: index(copy, {"a": "other.safetensors"}), "lacks other.safetensors"),
        (pickled, "pickled weights alone"),
        (lambda copy: (copy / weights).unlink(), "has no diffusion_pytorch_model.safetensors"),
    ]
    for number, (spoil, message) in enumerate(cases):
        copy = tmp_path / str(number)
        shutil.copytree(folder, copy)
        spoil(copy)
        with pytest.raises(ValueError) as error:
            from_diffusers(copy)
        assert message in str(error.value)
    with pytest.raises(ValueError, match="`nowhere` is no folder, and no hub id"):
        from_diffusers("nowhere")
    hub = pytest.importorskip("huggingface_hub")

    def unreachable(name, allow_patterns, ignore_patterns):
        assert not any("bin" in pattern for pattern in allow_patterns)
        raise OSError("no route")

    monkeypatch.setattr(hub, "snapshot_download", unreachable)
    with pytest.raises(ValueError, match="could not be fetched from the hub"):
        from_diffusers("owner/name")


def test_older_folders_have_their_parts_at_the_root(micro, tmp_path):
    folder, _ = micro
    for part in ("unet", "scheduler"):
        shutil.copytree(folder / part, tmp_path, dirs_exist_ok=True)
    x = jnp.ones((1, 16, 16))
    found, expected = (from_diffusers(each).score(x, 0.5) for each in (tmp_path, folder))
    np.testing.assert_array_equal(found, expected)


def test_wrong_data_is_noticed(micro):
    with pytest.raises(ValueError, match="by any prediction type"):
        from_diffusers(micro[0], check_data=0.01 * np.random.default_rng(0).random((8, 1, 16, 16)))
    assert isinstance(from_diffusers(micro[0]), sp.ScoreNetwork)
