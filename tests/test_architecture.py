"""The layering of docs/design.md, enforced on the source: who may import whom, and how long a file.

The rules are functions of a module's name and text, so that the tests below can also show each
of them a breach.
"""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# From the top: a layer imports only from those before it, or from itself.
LAYERS = (
    "arguments",
    "linear_algebra",
    "noise",
    "solvers",
    "score",
    "probability_flow",
    "analytic",
    "compose",
    "network_file",
    "pretrained",
    "line_integral",
    "guidance",
    "target",
    "mcmc",
    "samplers",
    "correctors",
    "estimators",
    "diagnostics",
    "inference_data",
    "plots",
    "ppl",
)
# Outside the order: it may import any layer, and none may import it.
BACKENDS = "backends"

# Third-party packages with one room each.
RESTRICTED = {
    "numpyro": "ppl",
    "torch": BACKENDS,
    "torchax": BACKENDS,
    "diffusers": BACKENDS,
    "transformers": BACKENDS,
    "flax": BACKENDS,
    "equinox": BACKENDS,
}

MAX_LINES = 400
# The classes of one letter keep these patterns from matching their own source.
UNFINISHED = re.compile(r"TO[D]O|FIX[M]E")
MACHINE_PATH = re.compile(r"/(?:work|tmp|root|home/\w+)[/\"']")
GLOBAL_X64 = re.compile(r"jax_enable_x6[4]|numpyro\.enable_x6[4]|JAX_ENABLE_X6[4]")

PACKAGE_FILES = sorted((ROOT / "scoreppl").rglob("*.py"))
ALL_FILES = PACKAGE_FILES + sorted(
    file
    for folder in ("case_studies", "docs", "tests", "training")
    for file in (ROOT / folder).rglob("*.py")
)


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str, package: str) -> set[str]:
    """Every name that the module may import, wherever the statement stands, made absolute.

    `from a import b` gives `a.b`, because `b` may be a module; `package` resolves relative ones.
    """
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base]).rstrip(".")
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def breaches(module: str, package: str, source: str) -> list[str]:
    """What a module of the package imports against the rules, each with its reason."""
    _, _, path = module.partition(".")
    room = path.partition(".")[0]  # "" for scoreppl/__init__.py
    if room and room not in (*LAYERS, BACKENDS):
        return [f"{module}: give '{room}' its place in LAYERS, and a line in docs/design.md"]
    found = []
    for name in sorted(imports(source, package)):
        top, *rest = name.split(".")
        if top in RESTRICTED and room != RESTRICTED[top]:
            found.append(f"{module}: only scoreppl/{RESTRICTED[top]} may import {top}")
        if top != "scoreppl":
            continue
        target = rest[0] if rest else ""
        if target == BACKENDS and room != BACKENDS:
            found.append(f"{module}: nothing imports scoreppl.backends")
        elif room in LAYERS and target not in LAYERS:
            found.append(f"{module}: import {name} from the module that defines it")
        elif room in LAYERS and LAYERS.index(target) > LAYERS.index(room):
            found.append(f"{module}: {name} is below it in LAYERS")
    return found


def of_file(file: Path) -> list[str]:
    module = module_name(file)
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    return breaches(module, package, file.read_text(encoding="utf-8"))


def test_there_is_something_to_check():
    assert ROOT / "scoreppl" / "__init__.py" in PACKAGE_FILES
    assert Path(__file__).resolve() in ALL_FILES


def test_imports_follow_the_layers():
    found = [breach for file in PACKAGE_FILES for breach in of_file(file)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "module, package, source, reason",
    [
        ("scoreppl.noise", "scoreppl", "import scoreppl.ppl", "below"),
        ("scoreppl.noise.grid", "scoreppl.noise", "from scoreppl.score import x", "below"),
        ("scoreppl.score.model", "scoreppl.score", "from scoreppl import mcmc", "below"),
        ("scoreppl.score.model", "scoreppl.score", "from ..target import Target", "below"),
        ("scoreppl.score", "scoreppl.score", "from .. import target", "below"),
        ("scoreppl.target", "scoreppl", "def f():\n    from . import mcmc", "below"),
        ("scoreppl.target", "scoreppl", "import scoreppl as sp", "that defines it"),
        ("scoreppl.target", "scoreppl", "from scoreppl import ScoreModel", "that defines it"),
        ("scoreppl.mcmc.hmc", "scoreppl.mcmc", "from numpyro.infer import MCMC", "only"),
        ("scoreppl", "scoreppl", "import numpyro", "only"),
        ("scoreppl.ppl.prior", "scoreppl.ppl", "import torch.nn", "only"),
        ("scoreppl", "scoreppl", "from scoreppl import backends", "nothing imports"),
        ("scoreppl.plots", "scoreppl", "import scoreppl.backends.sdxl", "nothing imports"),
        ("scoreppl.utils", "scoreppl", "import math", "LAYERS"),
    ],
)
def test_a_breach_is_seen(module, package, source, reason):
    found = breaches(module, package, source)
    assert len(found) == 1 and reason in found[0]


@pytest.mark.parametrize(
    "module, package, source",
    [
        ("scoreppl", "scoreppl", "from scoreppl import noise, ppl"),
        ("scoreppl.ppl.prior", "scoreppl.ppl", "import numpyro\nfrom scoreppl.noise import x"),
        ("scoreppl.mcmc.hmc", "scoreppl.mcmc", "from scoreppl.mcmc.nuts import x\nfrom . import y"),
        ("scoreppl.backends.torch", "scoreppl.backends", "import torch\nimport scoreppl.score"),
        ("scoreppl.backends", "scoreppl.backends", "from .torch import from_torch"),
    ],
)
def test_what_is_allowed_passes(module, package, source):
    assert breaches(module, package, source) == []


def test_files_are_short():
    lengths = {module_name(f): len(f.read_text("utf-8").splitlines()) for f in ALL_FILES}
    assert {name: count for name, count in lengths.items() if count > MAX_LINES} == {}


@pytest.mark.parametrize(
    "pattern, breach",
    [
        (UNFINISHED, "# TO" + "DO: later"),
        (UNFINISHED, "# FIX" + "ME"),
        (MACHINE_PATH, 'open("/tm' + 'p/x")'),
        (MACHINE_PATH, "folder = '/ro" + "ot'"),
        (MACHINE_PATH, "/home" + "/someone/data"),
    ],
)
def test_nothing_unfinished_and_no_machine_paths(pattern, breach):
    assert pattern.search(breach)
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in ALL_FILES
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found, "\n".join(found)


def test_no_source_sets_x64_globally():
    assert [str(file) for file in PACKAGE_FILES if GLOBAL_X64.search(file.read_text("utf-8"))] == []


def test_importing_every_module_leaves_x64_off():
    """In a fresh interpreter, so that no other test's setting is seen."""
    modules = [name for f in PACKAGE_FILES if BACKENDS not in (name := module_name(f)).split(".")]
    script = (
        f"import importlib, jax\nfor name in {modules!r}: importlib.import_module(name)\n"
        "print(jax.config.jax_enable_x64)"
    )
    environment = {k: v for k, v in os.environ.items() if "X64" not in k}
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert run.stdout.strip() == "False", run.stdout + run.stderr
