"""Runs for ArviZ: ``az.from_numpyro`` with noise levels named and the run's cost attached."""

from importlib.metadata import version
from typing import Any

from scoreppl.diagnostics.run import Run, read_run

_LEVEL_FIELD = "acceptance_rate_level"


def to_inference_data(mcmc: Any, *, log_likelihood: bool = True) -> Any:
    """Convert a run of NumPyro's ``MCMC`` for ArviZ.

    As ``arviz.from_numpyro``, which works on every kernel of this package too, and besides

    * ``acceptance_rate_level`` of annealed kernels has the dimension ``noise_level``, whose
      coordinates are the noise standard deviations sigma / alpha in data units;
    * ``tree_depth`` is only there for kernels that build trees;
    * the attributes of the result name the kernel (``kernel``), this package's version
      (``scoreppl_version``) and the score evaluations after warm-up, of all chains together
      (``num_score_evaluations``, where known: NUTS must record the extra field of that name).

    There is no ``lp`` and no ``energy``: a prior known by its score gives neither.

    Parameters
    ----------
    mcmc
        A ``numpyro.infer.MCMC`` object after its run.
    log_likelihood
        Whether to evaluate the likelihood of every draw, for ``arviz.loo``.

    Returns
    -------
    arviz.InferenceData or xarray.DataTree
        What ArviZ 0.23 or 1.x works with.

    Raises
    ------
    ValueError
        If `mcmc` is no MCMC object or has not been run.
    """
    import arviz as az  # costs a second, which importing the package should not

    run = read_run(mcmc)
    data = az.from_numpyro(mcmc, log_likelihood=log_likelihood)
    if "sample_stats" in data:
        _replace_group(data, "sample_stats", _sample_stats(data["sample_stats"], run))
    data.attrs.update(_attributes(run))
    return data


def _sample_stats(stats: Any, run: Run) -> Any:
    # A group is a Dataset in ArviZ 0.23 and a node of a tree in 1.x.
    dataset = stats.to_dataset() if hasattr(stats, "to_dataset") else stats
    if run.noise_levels is not None and _LEVEL_FIELD in dataset:
        unnamed = dataset[_LEVEL_FIELD].dims[-1]
        dataset = dataset.drop_vars(unnamed, errors="ignore").rename({unnamed: "noise_level"})
        dataset = dataset.assign_coords(noise_level=run.noise_levels)
        dataset["noise_level"].attrs["description"] = (
            "noise standard deviation sigma / alpha in data units"
        )
    if not run.builds_trees:
        dataset = dataset.drop_vars("tree_depth", errors="ignore")
    return dataset


def _replace_group(data: Any, name: str, dataset: Any) -> None:
    if hasattr(data, "children"):
        data[name].dataset = dataset
    else:
        setattr(data, name, dataset)


def _attributes(run: Run) -> dict[str, Any]:
    attributes: dict[str, Any] = {"kernel": run.kernel, "scoreppl_version": version("scoreppl")}
    if (total := run.score_evaluations()) is not None:
        attributes["num_score_evaluations"] = total
    return attributes
