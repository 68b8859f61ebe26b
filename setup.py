"""latentflow: dataset-scale latent analysis of image generators."""

from setuptools import find_packages, setup

ROOMS = ("schemas", "generators", "transforms", "pipelines")

setup(
    name="latentflow",
    version="0.1.0",
    description="Dataflow pipeline for dataset-scale latent analysis of image generators",
    python_requires=">=3.11,<3.13",
    packages=[
        *find_packages(include=[p for room in ROOMS for p in (room, f"{room}.*")]),
        "conformance",
    ],
    package_dir={"conformance": "tests/conformance"},
    package_data={
        "generators": ["bundled/*/*", "obtained/*.json"],
        "pipelines": ["templates/*", "specs/*"],
    },
    install_requires=[
        "apache-beam>=2.77,<3",
        "google-crc32c>=1.5",
        "jinja2>=3.1",
        "matplotlib>=3.10",
        "numcodecs>=0.14",
        "numpy>=2.0",
        "onnxruntime>=1.20",
        "pandas>=2.2",
        "pillow>=11",
        "psutil>=6",
        "pyarrow>=18",
        "pydantic>=2.10",
        "pyyaml>=6",
        "ray>=2.50",
        "rich>=13",
        "safetensors>=0.5",
        "scikit-learn>=1.6",
        "scipy>=1.14",
        "torch>=2.6",
        "typer>=0.15",
        "zarr>=3.1.6,<3.2",
    ],
    extras_require={
        "test": [
            "dask",
            "datasets",
            "duckdb",
            "hypothesis",
            "mypy",
            "onnx",
            "pytest",
            "ruff",
            "xarray",
        ],
        "docs": ["mkdocs-material>=9.6", "mkdocstrings[python]>=1.0"],
        "train": ["onnx"],
        "bench": ["tensorly"],
        "orchestrate": ["dagster>=1.13,<2", "dagster-webserver>=1.13,<2"],
    },
    entry_points={"console_scripts": ["latentflow=pipelines.cli:main"]},
)
