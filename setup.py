"""Package `lib` and command `oceankit` for `pip install .`, or `-e .`; nothing is compiled."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
LINES = (HERE / "requirements.txt").read_text(encoding="utf-8").splitlines()
EXPORT = ["onnx>=1.17", "onnxscript>=0.3", "onnxruntime>=1.20"]  # onnxruntime-gpu in its place for a GPU
TUNE = ["optuna>=4.0", "plotly>=5.20"]
TIMM = ["timm>=1.0.10"]
# Toolkits 0.8.1 and 0.9.0 cannot run their own multistart experiments (VOT2020 to 2022); attributee 0.1.10 does not
# import on Python 3.11.
VOT = ["vot-toolkit>=0.7.4,<0.8", "attributee>=0.1.8,!=0.1.10"]

setup(
    name="oceankit",
    version="0.1.0",
    description="Training and evaluation of the Ocean tracker and its variants",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    # The import name is lib. A wheel holds experiments/ as lib/experiments: lib.files looks in both places.
    packages=[*find_packages(include=["lib", "lib.*"]), "lib.experiments"],
    package_dir={"lib.experiments": "experiments"},
    package_data={"lib.benchmarks": ["facts.ini"], "lib.eval_toolkit": ["assets/*"],
                  "lib.experiments": ["**/*.yaml", "weights/*"]},
    py_modules=["oceankit"],
    entry_points={"console_scripts": ["oceankit = oceankit:main"]},
    python_requires=">=3.10",
    install_requires=[line for line in LINES if line and not line.startswith("#")],
    extras_require={
        "browser": ["playwright>=1.45"],  # lets the tests drive an installed Chromium
        "export": EXPORT,  # tracking/export.py and --arch OceanONNX
        "docs": ["mkdocs-material>=9.5", "mkdocstrings[python]>=0.26"],  # mkdocs build --strict
        "loggers": ["wandb>=0.17", "mlflow-skinny>=2.14"],  # LOGGER: wandb, LOGGER: mlflow
        "timm": TIMM,  # BACKBONE: timm
        "tune": TUNE,  # tracking/tune.py
        "vot": VOT,  # VOT2020 and later; tracking/vot_ocean.py itself needs vot-trax alone
        "test": ["pytest>=8", "pytest-xdist>=3.5", "hypothesis>=6.100", "ruff>=0.6", "mypy>=1.11", "types-PyYAML",
                 *EXPORT, *TIMM, *TUNE],
    },
)
