"""What every test shares: the CPU unless asked otherwise, no windows, and how many workers."""

import gc
import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

# ArviZ 0.23 writes a stamp into the user's cache at the first import of a day. Imported here, in
# the process that starts the workers, so that two workers do not race for the file.
import arviz  # noqa: E402, F401
import jax  # noqa: E402
import pytest  # noqa: E402


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two workers for the whole suite, none for chosen files, which a second start would slow.

    Not one a core: a JAX process computes on several cores by itself, and needs its gigabyte.
    """
    return 2 if config.args_source is pytest.Config.ArgsSource.TESTPATHS else 0


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Compile quick tests without most optimizations, before any fixture of theirs runs.

    Of the quick suite's time a tenth goes into running what it compiles, and three quarters into
    compiling. The slow suite keeps all optimizations: there programs run for long, and what users
    run is tested, too.
    """
    is_quick = item.get_closest_marker("slow") is None
    jax.config.update("jax_disable_most_optimizations", is_quick)


# Linux gives a process 65,530 areas of memory; a program that JAX compiles holds several.
_MAPS, _MANY_MAPS = Path("/proc/self/maps"), 20_000


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Forget compiled programs before there are so many that the next compilation crashes."""
    if _MAPS.exists() and _MAPS.read_bytes().count(b"\n") > _MANY_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(autouse=True)
def double_precision_unchanged():
    """A test that leaves x64 on would hide what the next ones do in float32."""
    before = jax.config.jax_enable_x64
    yield
    assert jax.config.jax_enable_x64 == before, "this test changed jax_enable_x64"
