"""Packaging; tool settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (HERE / "deepal_galot/__init__.py").read_text())[1]
RAY = "ray>=2.40"  # of the extra, and of its tests

setup(
    name="deepal-galot",
    version=VERSION,
    description="GALOT and deep-active-learning baselines on one fast harness",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    packages=find_packages(include=["deepal_galot*", "query_strategies*", "generators*"]),
    py_modules=["run_benchmark"],
    package_data={
        "deepal_galot.report": ["*.csv", "*.css", "*.html", "*.js"],
        "generators.tiny_sd": ["*.json", "*.md", "pipeline/*", "pipeline/*/*"],
    },
    entry_points={"console_scripts": ["deepal-galot = run_benchmark:main"]},
    install_requires=[
        "torch>=2.11",
        "torchvision>=0.26",
        "diffusers>=0.42",
        "transformers>=5.17",
        "numpy>=2.0",
        "scikit-learn>=1.5",
        "scipy>=1.13",
        "safetensors>=0.8",
        "Pillow>=10",
        "matplotlib>=3.9",
        "tqdm>=4.66",
    ],
    extras_require={
        "ray": [RAY],
        # Under pytest 9.2 xdist keeps no group of tests together, so their fixtures are made twice:
        # https://github.com/pytest-dev/pytest-xdist/issues/1386
        "test": [
            RAY,
            "pytest>=8",
            "pytest<9.2",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "ruff>=0.15",
        ],
        "browser": ["playwright>=1.40"],  # and chromium, for the tests of the pages
    },
)
