r"""Put measured tables where the documentation shows them.

::

    python -m case_studies.quickstart --out docs/quickstart
    python -m case_studies.quickstart.calibration --out docs/quickstart
    python -m case_studies.quickstart.guided --out docs/quickstart
    python -m docs.scripts.annealing_table
    python -m docs.scripts.backend_parity_table
    python -m docs.scripts.guidance_table
    python -m docs.scripts.annealing_forty_table
    python -m docs.scripts.control_variate_table
    python -m docs.scripts.estimator_error_table
    python -m docs.scripts.least_squares_table
    python -m docs.scripts.log_density_table
    python -m docs.scripts.multilevel_table
    python -m docs.scripts.particle_gibbs_table
    python -m docs.scripts.solver_table
    python -m docs.scripts.third_party_network --weights FILE --out docs
    python -m case_studies.multimodal --out docs/multimodal
    python -m case_studies.annealing --out docs/tempering
    python -m case_studies.composition --out docs/composition
    python -m case_studies.sobol --out docs/sobol
    python -m case_studies.portfolio_tail --out docs/portfolio_tail
    python -m case_studies.augmentation --out docs/augmentation
    python -m case_studies.eight_schools --out docs/eight_schools
    python -m case_studies.sdxl_latent --out docs/sdxl_latent
    python -m case_studies.rare_event --out docs/rare_event
    python -m case_studies.galaxies --full --data FILE --out docs/galaxies
    python -m case_studies.curl --galaxies --out docs/curl
    python -m case_studies.galaxies --full --parts single --noises 0.1 \
        --samplers AnnealedScoreMCMC --seed 2 --out docs/galaxies/second
    python -m case_studies.galaxies --full --parts single --noises 0.1 \
        --samplers AnnealedScoreMCMC --seed 3 --out docs/galaxies/third
    python -m case_studies.galaxies --full --parts single --samplers AnnealedScoreMCMC \
        --reverse-steps 2 --out docs/galaxies/two_steps
    python -m case_studies.galaxies --full --parts single --noises 0.1 \
        --samplers AnnealedScoreMCMC --seed 2 --reverse-steps 2 \
        --out docs/galaxies/two_steps_second
    python -m case_studies.galaxies --parts single --noises 0.1 \
        --samplers log-density-zero-NUTS --compared 3 --galaxies 3 --tree-depth 10 \
        --out docs/galaxies/deep
    python -m case_studies.tomography --out docs/tomography
    python -m case_studies.calibration --dear overlapping separated --out docs/calibration
    python -m docs.scripts.update_readme
"""

from pathlib import Path

ROOT = Path(__file__).parents[2]
PLACES = (
    ("README.md", "quickstart", "docs/quickstart/results.md"),
    ("case_studies/quickstart/README.md", "quickstart", "docs/quickstart/results.md"),
    ("docs/annealing.md", "annealing", "docs/tables/annealing.md"),
    ("docs/backends.md", "backend_parity", "docs/tables/backend_parity.md"),
    ("docs/backends.md", "third_party", "docs/tables/third_party.md"),
    ("docs/guidance.md", "guidance", "docs/tables/guidance.md"),
    ("docs/guidance.md", "guided", "docs/quickstart/guided.md"),
    ("docs/estimators.md", "control_variates", "docs/tables/control_variates.md"),
    ("docs/estimators.md", "estimator_errors", "docs/tables/estimator_errors.md"),
    ("docs/multilevel.md", "multilevel", "docs/tables/multilevel.md"),
    ("docs/least_squares.md", "least_squares", "docs/tables/least_squares.md"),
    ("docs/smc.md", "forty_modes", "docs/tables/forty_modes.md"),
    ("docs/smc.md", "log_densities", "docs/tables/log_densities.md"),
    ("docs/smc.md", "particle_gibbs", "docs/tables/particle_gibbs.md"),
    ("docs/smc.md", "composition", "docs/composition/summary.md"),
    ("case_studies/composition/README.md", "composition", "docs/composition/summary.md"),
    (
        "case_studies/composition/README.md",
        "attributions",
        "docs/composition/attributions.md",
    ),
    ("case_studies/composition/README.md", "particles", "docs/composition/particles.md"),
    ("case_studies/sobol/README.md", "summary", "docs/sobol/summary.md"),
    ("case_studies/sobol/README.md", "errors", "docs/sobol/errors.md"),
    ("case_studies/sobol/README.md", "law", "docs/sobol/law.md"),
    ("case_studies/sobol/README.md", "budgets", "docs/sobol/budgets.md"),
    ("case_studies/composition/README.md", "steps", "docs/composition/steps.md"),
    ("docs/solvers.md", "solvers", "docs/tables/solvers.md"),
    ("docs/diffusion_mh.md", "multimodal", "docs/multimodal/results.md"),
    ("case_studies/multimodal/README.md", "multimodal", "docs/multimodal/results.md"),
    *(
        ("case_studies/annealing/README.md", f"tempering_{part}", f"docs/tempering/{part}.md")
        for part in (
            "forty",
            "thirty",
            "DW4",
            "LJ13",
            "LJ13_400_steps",
            "DW4_chains",
            "LJ13_chains",
        )
    ),
    ("docs/smc.md", "tempering_forty", "docs/tempering/forty.md"),
    ("docs/smc.md", "tempering_LJ13", "docs/tempering/LJ13.md"),
    ("docs/annealing.md", "calibration", "docs/quickstart/calibration.md"),
    *(
        ("case_studies/portfolio_tail/README.md", part, f"docs/portfolio_tail/{part}.md")
        for part in (
            "fit_scaled",
            "fit_static",
            "shortfall",
            "controls",
            "steps",
            "backtest",
        )
    ),
    *(
        ("case_studies/augmentation/README.md", part, f"docs/augmentation/{part}.md")
        for part in ("sets", "accuracy", "law", "equitable")
    ),
    *(
        ("case_studies/eight_schools/README.md", part, f"docs/eight_schools/{part}.md")
        for part in ("prior", "posterior", "cost", "evidence", "schools")
    ),
    *(
        ("case_studies/sdxl_latent/README.md", part, f"docs/sdxl_latent/{part}.md")
        for part in (
            "surrogate",
            "surrogate_equal",
            "surrogate_best",
            "red",
            "equal",
            "seven",
        )
    ),
    *(
        ("case_studies/galaxies/README.md", part, f"docs/galaxies/{part}.md")
        for part in ("one_dimension", "single", "blend", "real")
    ),
    *(
        ("case_studies/galaxies/README.md", folder, f"docs/galaxies/{folder}/single.md")
        for folder in ("deep", "second", "third", "two_steps", "two_steps_second")
    ),
    *(
        ("case_studies/curl/README.md", part, f"docs/curl/{part}.md")
        for part in ("loops", "trajectories", "steps", "thresholds", "verdicts")
    ),
    *(
        ("case_studies/calibration/README.md", part, f"docs/calibration/{part}.md")
        for part in ("mixture", "digits", "references")
    ),
    *(
        ("case_studies/rare_event/README.md", part, f"docs/rare_event/{part}.md")
        for part in ("truths", "methods", "flow", "digits")
    ),
    *(
        ("case_studies/tomography/README.md", part, f"docs/tomography/{part}.md")
        for part in (
            "tuning",
            "errors_drawn",
            "intervals_drawn",
            "errors_real",
            "intervals_real",
        )
    ),
)


def main() -> None:
    """Replace what stands between the markers of each page."""
    for page, marker, source in PLACES:
        begin, end = f"<!-- begin {marker} -->", f"<!-- end {marker} -->"
        path = ROOT / page
        before, rest = path.read_text().split(begin)
        _, after = rest.split(end)
        table = (ROOT / source).read_text().strip()
        path.write_text(f"{before}{begin}\n{table}\n{end}{after}")


if __name__ == "__main__":
    main()
