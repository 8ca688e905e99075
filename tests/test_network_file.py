"""Score networks on disk: round trips, and one clear error for every way to be damaged."""

import dataclasses
import json
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from scoreppl import noise
from scoreppl.network_file import load_score_network, read_card, save_score_network
from scoreppl.score import ScoreNetwork

SCHEDULES = [
    noise.VPLinear(0.2, 15.0),
    noise.VPCosine(-9.0, 11.0),
    noise.VE(0.03, 30.0),
    noise.EDM(0.01, 50.0, 5.0),
    noise.FlowMatching(),
    noise.DiscreteVP.scaled_linear(),
]
CARD = {"name": "toy", "licence": "CC0", "heldout": {"0.5": 0.01}}
X = jnp.linspace(-1, 1, 3)


def linear(params, x, t, condition):
    return params["layer.weight"].astype(jnp.float32) @ x + params["bias"] * t


def network(**changes):
    params = {
        "layer.weight": jnp.asarray(np.random.default_rng(0).normal(size=(3, 3)), jnp.bfloat16),
        "bias": jnp.float32(0.3),
    }
    arguments = {"noise": noise.VPLinear(), "prediction": "v", "event_shape": (3,)}
    return ScoreNetwork(linear, changes.pop("params", params), **(arguments | changes))


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "toy.safetensors"
    save_score_network(file, network(), architecture="linear", card=CARD)
    return file


def load(path):
    return load_score_network(path, apply_fns={"linear": linear})


def rewrite(path, *, edit_card=None, edit_tensors=None, text=None):
    """Change a file's card or tensors behind the card's back, keeping it a sound safetensors."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    card = json.loads(header["__metadata__"]["card"])
    tensors = {"layer.weight": np.ones((3, 3), np.float32), "bias": np.float32(0.3)[None]}
    if edit_tensors is None:
        if edit_card:
            edit_card(card)
        header["__metadata__"] = {"card": json.dumps(card) if text is None else text}
        encoded = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data[8 + size :])
    else:
        edit_tensors(tensors)
        save_file(tensors, path, metadata={"card": json.dumps(card)})


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)
@pytest.mark.parametrize("prediction, batched", [("v", False), ("edm", False), ("epsilon", True)])
def test_round_trip_is_exact(tmp_path, schedule, prediction, batched):
    model = network(noise=schedule, prediction=prediction, sigma_data=0.7, batched=batched)
    path = tmp_path / "toy.safetensors"
    save_score_network(path, model, architecture="linear", card=CARD)
    loaded = load(path)
    assert loaded.prediction == prediction and loaded.batched == batched
    assert loaded.event_shape == (3,) and loaded.condition is None
    assert type(loaded.noise) is type(schedule)
    # Everything that was stored is a float32 or a float64 written with all its digits.
    for stored, read in zip(jax.tree.leaves(model), jax.tree.leaves(loaded), strict=True):
        np.testing.assert_array_equal(stored, read)
        assert jnp.shape(stored) == jnp.shape(read)
    assert loaded.params["layer.weight"].dtype == jnp.bfloat16
    if not batched:
        np.testing.assert_array_equal(loaded.score(X, 0.5), model.score(X, 0.5))


def test_card_says_what_the_file_holds(path):
    card = read_card(path)
    assert card["name"] == "toy" and card["licence"] == "CC0" and card["heldout"] == {"0.5": 0.01}
    assert card["architecture"] == "linear" and card["prediction"] == "v"
    assert card["event_shape"] == [3] and card["sigma_data"] == 0.5
    assert card["schedule"]["type"] == "VPLinear"
    assert card["schedule"]["params"] == {"beta_min": 0.1, "beta_max": 20.0}
    assert card["tensors"] == {"layer.weight": [3, 3], "bias": []}
    np.testing.assert_allclose(card["min_time"], noise.VPLinear().time(8.0))


def test_saving_again_replaces_the_file(path):
    save_score_network(path, network(prediction="x0"), architecture="linear", card=CARD)
    assert load(path).prediction == "x0"


def test_params_may_be_numpy_arrays_in_any_memory_order(tmp_path):
    weight = np.asfortranarray(np.arange(9.0, dtype=np.float32).reshape(3, 3))
    params = {"layer.weight": weight.T[::-1], "bias": np.zeros(3, np.float32)}
    file = tmp_path / "order.safetensors"
    save_score_network(file, network(params=params), architecture="linear", card=CARD)
    np.testing.assert_array_equal(load(file).params["layer.weight"], weight.T[::-1])


@pytest.mark.parametrize(
    "changes, card, message",
    [
        ({"condition": jnp.ones(2)}, CARD, "`network.condition` is not stored"),
        ({"params": {"a": {"b": X}}}, CARD, "`network.params` must be a flat dictionary"),
        ({"params": [X]}, CARD, "`network.params` must be a flat dictionary"),
        ({"params": {1: X}}, CARD, "`network.params` must be a flat dictionary"),
        ({}, {}, "`card` must give the network a 'name'"),
        ({}, {"name": 3}, "`card` must give the network a 'name'"),
        ({}, CARD | {"prediction": "v", "tensors": {}}, r"repeats \['prediction', 'tensors'\]"),
        ({}, CARD | {"data": X}, "`card` must hold JSON values only"),
    ],
)
def test_what_cannot_be_stored_is_named_and_nothing_is_written(tmp_path, changes, card, message):
    path = tmp_path / "toy.safetensors"
    with pytest.raises(ValueError, match=message):
        save_score_network(path, network(**changes), architecture="linear", card=card)
    assert not path.exists()


def test_a_schedule_of_the_users_own_is_refused(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class VPLinear(noise.VPLinear):
        pass

    with pytest.raises(ValueError, match="`network.noise` is a VPLinear; only"):
        save_score_network(
            tmp_path / "toy", network(noise=VPLinear()), architecture="linear", card=CARD
        )


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`path='.*nowhere'`: there is no such file"):
        load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        read_card(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: b"no network at all", id="text"),
        pytest.param(lambda data: data[:100], id="header cut off"),
        pytest.param(lambda data: data[:-5], id="tensors cut off"),
        pytest.param(lambda data: data + b"more", id="too long"),
        pytest.param(lambda data: data[:20] + b"\xff" + data[21:], id="header overwritten"),
    ],
)
def test_damaged_files_are_named(path, damage):
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="toy.safetensors: not a safetensors file, or a damaged"):
        load(path)


def test_a_flipped_bit_in_the_tensors_is_noticed(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="the tensors' checksum is not the card's"):
        load(path)


def test_a_file_without_a_card_is_named(tmp_path):
    path = tmp_path / "bare.safetensors"
    save_file({"a": np.ones(2)}, path)
    with pytest.raises(ValueError, match="bare.safetensors: the file has no card"):
        load(path)
    save_file({"a": np.ones(2)}, path, metadata={"format": "np"})
    with pytest.raises(ValueError, match="the file has no card"):
        read_card(path)


@pytest.mark.parametrize("text, message", [("{", "is not JSON"), ("[1]", "the card lacks 'name'")])
def test_a_card_that_is_no_object_is_named(path, text, message):
    rewrite(path, text=text)
    with pytest.raises(ValueError, match=message):
        load(path)


FIELDS = (
    "name",
    "architecture",
    "prediction",
    "event_shape",
    "batched",
    "schedule",
    "min_time",
    "sigma_data",
    "sha256",
    "tensors",
)


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_of_the_card_is_needed_and_typed(path, field):
    sound = path.read_bytes()
    rewrite(path, edit_card=lambda card: card.pop(field))
    with pytest.raises(ValueError, match=f"the card lacks '{field}'"):
        load(path)
    path.write_bytes(sound)
    rewrite(path, edit_card=lambda card: card.update({field: None}))
    with pytest.raises(ValueError, match=f"the card's '{field}' cannot be None"):
        load(path)


def change(**values):
    return lambda card: card.update(values)


@pytest.mark.parametrize(
    "edit_card, message",
    [
        (change(architecture="resnet"), "architecture 'resnet' is not among `apply_fns`"),
        (change(prediction="eps"), "describes no network. `prediction='eps'` is not known"),
        (change(event_shape=["a"]), "describes no network. `event_shape"),
        (change(event_shape=[-3]), "describes no network. `event_shape"),
        (change(min_time=True), "'min_time' cannot be True"),
        (change(min_time=-0.5), "`min_time=-0.5`"),
        (change(schedule={"type": "Linear"}), "Schedule type 'Linear' is not known; use one of"),
        (change(schedule={}), "Schedule type None is not known"),
        (
            change(schedule={"type": "VE", "params": {"sigma_min": 1.0}}),
            "Schedule VE has other parameters: .*sigma_max",
        ),
        (
            change(schedule={"type": "VE", "params": {"sigma_min": 2.0, "sigma_max": 1.0}}),
            "describes no network. `sigma_min=2.0`",
        ),
        (
            change(schedule={"type": "VE", "params": {"sigma_min": "a", "sigma_max": 1.0}}),
            "describes no network. could not convert string to float: 'a'",
        ),
        (change(schedule={"type": "VE", "params": [1.0, 2.0]}), "Schedule VE"),
        (
            change(tensors={"layer.weight": [3, 4], "bias": []}),
            r"1 tensors are not as the card says; 'layer.weight' has shape \[3, 3\] .*\[3, 4\]",
        ),
        (change(tensors={"bias": []}), r"'layer.weight' has shape \[3, 3\].*absent"),
        (
            change(tensors={"layer.weight": [3, 3], "bias": [], "last": [2]}),
            r"'last' has shape none \(it is absent\) in the file and \[2\]",
        ),
    ],
)
def test_a_card_that_does_not_describe_its_file_is_named(path, edit_card, message):
    rewrite(path, edit_card=edit_card)
    with pytest.raises(ValueError, match="toy.safetensors: .*" + message):
        load(path)


def test_tensors_of_another_network_are_named(path):
    rewrite(path, edit_tensors=lambda tensors: tensors.pop("bias"))
    with pytest.raises(ValueError, match=r"'bias' has shape none \(it is absent\) in the file"):
        load(path)


def test_without_apply_fns_the_error_shows_what_to_pass(path):
    with pytest.raises(ValueError, match=r"Pass apply_fns=\{'linear': apply_fn\}"):
        load_score_network(path)
