"""Put the quickstart's tables and figure into the README.

::

    python -m case_studies.quickstart --out docs/quickstart
    python -m docs.scripts.update_readme
"""

from pathlib import Path

ROOT = Path(__file__).parents[2]
BEGIN, END = "<!-- begin quickstart -->", "<!-- end quickstart -->"


def main() -> None:
    """Replace what stands between the markers."""
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    _, after = rest.split(END)
    results = (ROOT / "docs" / "quickstart" / "results.md").read_text().strip()
    readme.write_text(f"{before}{BEGIN}\n{results}\n{END}{after}")


if __name__ == "__main__":
    main()
