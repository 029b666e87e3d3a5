"""Packaging of scaling_jax: the plain install is the fitter, `[plot]` adds figures, `[train]` everything else."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (HERE / "scaling_jax" / "__init__.py").read_text()).group(1)

# What a notebook that only fits needs: arrays, tables (CSV and Parquet), settings, the page, and the fit command.
FIT = [
    "numpy>=1.26",
    "scipy>=1.12",
    "jax>=0.8",
    "absl-py>=2.1",
    "pandas>=2.2",
    "pyarrow>=15",
    "pydantic>=2.10",
    "jinja2>=3.1",
    "filelock>=3.15",
]
PLOT = ["matplotlib>=3.9", "plotly>=6"]  # the figures of a fit; the library of the report's page
TRAIN = [
    *PLOT,
    "flax>=0.12",
    "optax>=0.2.6",
    "orbax-checkpoint>=0.11.30,<0.13",
    "grain>=0.2.15",
    "array_record>=0.8",
    "tensorflow-datasets>=4.9.9",
    "importlib_resources>=6",  # tensorflow-datasets 4.9.10 needs it and does not declare it
    "etils[epath]>=1.12",
    "requests>=2.31",
    "pillow>=10",
    "rich>=13",  # the table of progress
    "scikit-learn>=1.4",  # carries the digits
]
RAY = ["ray>=2.40"]
# Trained and given tokenizers, and .zst text.
TOKENIZERS = ["tokenizers>=0.20", "sentencepiece>=0.2", "zstandard>=0.22"]
PREPARE = ["tensorflow>=2.18"]  # stock TFDS builders write with it; nothing reads with it
GCS = ["gcsfs>=2025.3"]  # workdirs on gs://; brings the google-cloud-storage that orbax wants there
EXPORT = ["safetensors>=0.5", "flatbuffers>=24"]  # jax.export writes with flatbuffers
SERVE = ["starlette>=0.45", "uvicorn>=0.34"]
TENSORBOARD = ["tensorboardX>=2.6"]
WANDB = ["wandb>=0.19"]
MLFLOW = ["mlflow>=3"]
EXCEL = ["openpyxl>=3.1"]  # results tables as .xlsx
DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.5,<10", "mkdocstrings[python]>=0.27"]  # the documentation as a site
TOOLS = [
    "pytest>=8",
    "pytest-xdist>=3.8",
    "hypothesis>=6.100",
    *EXCEL,
    *TENSORBOARD,
    "ruff>=0.14,<1",
    "pyright[nodejs]==1.1.414",
    "pandas-stubs>=2.2",
    "scipy-stubs>=1.15",
    "httpx>=0.27",  # a client of what is served
    "gcp-storage-emulator>=2024.8.3",
    "websocket-client>=1.7",  # drives a headless Chromium
    "nbclient>=0.10",  # runs the notebook, with the two below
    "nbformat>=5.10",
    "ipykernel>=6.29",
]
TEST = [*TRAIN, *TOKENIZERS, *RAY, *GCS, *EXPORT, *SERVE, *TOOLS]

setup(
    name="scaling_jax",
    version=VERSION,
    description="Train a ladder of small models in JAX and learn from it what the big one should be.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["scaling_jax", "scaling_jax.*"]),
    package_data={"scaling_jax": ["py.typed", "engines/*.sbatch", "report/*.j2", "report/*.js"]},
    install_requires=FIT,
    extras_require={
        "plot": PLOT,
        "train": TRAIN,
        "ray": [*TRAIN, *RAY],
        "tokenizers": [*TRAIN, *TOKENIZERS],
        "prepare": [*TRAIN, *PREPARE],
        "gcs": [*TRAIN, *GCS],
        "excel": EXCEL,
        "export": [*TRAIN, *EXPORT],
        "serve": [*TRAIN, *SERVE],
        "tensorboard": [*TRAIN, *TENSORBOARD],
        "wandb": [*TRAIN, *WANDB],
        "mlflow": [*TRAIN, *MLFLOW],
        "docs": DOCS,
        "test": TEST,
    },
    entry_points={"console_scripts": ["scaling-jax=scaling_jax.__main__:entry"]},
)
