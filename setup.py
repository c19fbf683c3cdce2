"""Everything pip needs to know about the package, but for the Pythons that it runs on: pyproject.toml has them."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent

REQUIREMENTS = [
    # 2.13 is the newest release tried; local builds such as 2.13.0+cpu satisfy the same range.
    "torch>=2.0,<2.14",
    # Under pandas 3 RecBole's in-place fillna silently does nothing.
    "pandas>=1.5.3,<3",
    "pyyaml>=6.0.1",
    # Binds the threads of numpy's products; comes with RecBole's scikit-learn.
    "threadpoolctl>=2.2,<4",
    # Version arithmetic of `recbole-derrd doctor`.
    "packaging>=22",
    # One run at a time on a file; torch asks for it too.
    "filelock>=3.12,<5",
    # RecBole requires ray up to 2.6.3, which has no build from Python 3.12 on.
    'recbole>=1.2.1,<1.3; python_version < "3.12"',
    # RecBole's Config and ray 2.6.3 use aliases that numpy 2 removed.
    'numpy>=1.23.5,<2; python_version < "3.12"',
    # RecBole's LightGCN calls dok_matrix._update, which scipy 1.13 removed.
    'scipy>=1.10.1,<1.13; python_version < "3.12"',
    # ray 2.6.3 needs pkg_resources; setuptools 82 dropped it.
    'setuptools>=65,<82; python_version < "3.12"',
    # From 3.12 on `pip install --no-deps recbole==1.2.1` is a step of its own, and this is what it needs: its own list
    # without ray and thop, which its quick_start alone imports. What newer numpy and scipy lack is filled in here.
    'numpy>=1.26,<3; python_version >= "3.12"',
    'scipy>=1.11.4,<2; python_version >= "3.12"',
    'colorama==0.4.4; python_version >= "3.12"',
    'colorlog==4.7.2; python_version >= "3.12"',
    'plotly>=4.0.0; python_version >= "3.12"',
    'psutil>=5.9.0; python_version >= "3.12"',
    'scikit-learn>=0.23.2; python_version >= "3.12"',
    'tabulate>=0.8.10; python_version >= "3.12"',
    'tensorboard>=2.5.0; python_version >= "3.12"',
    'texttable>=0.9.0; python_version >= "3.12"',
    'tqdm>=4.48.2; python_version >= "3.12"',
]

TEST_REQUIREMENTS = [
    "pytest>=7.4",
    # .ci/run spreads the tests over the cores.
    "pytest-xdist>=3.2",
    "hypothesis>=6.100",
    # Its output changes between minor releases, so `ruff format --check` needs one of them.
    "ruff>=0.17,<0.18",
    # 1.19 is the last series for Python 3.9; newer Pythons get a 2.x.
    "mypy>=1.19,<3",
    "types-PyYAML>=6.0.12",
    # The extra `plots`, so that reports are tested and type-checked whole.
    "matplotlib>=3.7,<4",
    # The extra `tune`, so that RecBole's HyperTuning is tested; it was not tried on newer Pythons.
    'hyperopt>=0.2.5,<0.2.6; python_version < "3.12"',
]

DOCS_REQUIREMENTS = [
    "mkdocs-material>=9.5,<10",
    "mkdocstrings[python]>=0.26,<2",
    # Formulas become MathML when the site is built, so that no page needs a script.
    "latex2mathml>=3.77,<4",
    # Formats the signatures of the API page.
    "ruff>=0.17,<0.18",
]


def read_version() -> str:
    """The package's version, read as text because importing the package may need its requirements."""
    text = (HERE / "recbole_derrd" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"', text, flags=re.MULTILINE)
    if found is None:
        raise RuntimeError("recbole_derrd/__init__.py lacks its line __version__ = ...")
    return found.group(1)


def read_home() -> str:
    """The repository's address, CITATION.cff's repository-code; empty where the project has none."""
    citation = HERE / "CITATION.cff"
    text = citation.read_text(encoding="utf-8") if citation.exists() else ""
    found = re.search(r"^repository-code: *[\"']?(https://[^\s\"']+)", text, flags=re.MULTILINE)
    return found.group(1).rstrip("/") if found else ""


def read_readme() -> str:
    """The README as the long description; empty where a partial checkout lacks it."""
    readme = HERE / "README.md"
    return with_absolute_links(readme.read_text(encoding="utf-8"), read_home()) if readme.exists() else ""


def with_absolute_links(text: str, home: str) -> str:
    """Make a page's links to files of the repository absolute: a package index shows it without those files.

    Where the repository has no address, a link becomes its text, and an image is left out.
    """

    def absolute(link: re.Match[str]) -> str:
        image, words, path = link.groups()
        if not home:
            return "" if image else words
        return f"{image}[{words}]({home}/{'raw' if image else 'blob'}/HEAD/{path})"

    return re.sub(r"(!?)\[([^\]]*)\]\((?!https?://|mailto:|#)([^)\s]+)\)", absolute, text)


def project_urls() -> dict[str, str]:
    """Where the project is, for a package index."""
    home = read_home()
    files = {"Documentation": "README.md", "Changelog": "CHANGELOG.md"}
    return {"Source": home, **{name: f"{home}/blob/HEAD/{file}" for name, file in files.items()}} if home else {}


class BuildWithConfigs(build_py):
    """configs/ stays at the top of the repository, and lies in the package where that is installed."""

    def run(self) -> None:
        super().run()
        # An editable install reads the repository.
        for file in [] if self.editable_mode else sorted((HERE / "configs").rglob("*.yaml")):
            target = Path(self.build_lib) / "recbole_derrd" / file.relative_to(HERE)
            self.mkpath(str(target.parent))
            self.copy_file(str(file), str(target))


setup(
    name="recbole_derrd",
    version=read_version(),
    description="Knowledge distillation (DE, RRD, IR-RRD, HetComp, MKD and more) for RecBole's general recommenders",
    long_description=read_readme(),
    long_description_content_type="text/markdown",
    project_urls=project_urls(),
    author="The recbole_derrd authors",
    license="MIT",
    license_files=["LICENSE"],
    keywords=[
        "recommender systems",
        "knowledge distillation",
        "model compression",
        "RecBole",
        "DE-RRD",
        "HetComp",
        "MKD",
    ],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3.9",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    packages=find_packages(include=["recbole_derrd", "recbole_derrd.*"]),
    package_data={"recbole_derrd": ["py.typed"]},
    cmdclass={"build_py": BuildWithConfigs},
    zip_safe=False,
    install_requires=REQUIREMENTS,
    extras_require={
        "test": TEST_REQUIREMENTS,
        # The documentation as a site (mkdocs build).
        "docs": DOCS_REQUIREMENTS,
        # Approximate search of the teacher's lists (knowledge_search: faiss).
        "ann": ["faiss-cpu>=1.8,<2"],
        # Exports as Parquet (recbole-derrd export --format=parquet).
        # 19 is the newest that was tried with numpy 1; 26 needs numpy 2 without saying so to pip.
        "export": ["pyarrow>=14,<20"],
        # A search index in an export (recbole-derrd export --index=usearch); of faiss it is the extra ann.
        "usearch": ["usearch>=2.20,<3"],
        # Plots of `recbole-derrd report`.
        "plots": ["matplotlib>=3.7,<4"],
        # RecBole's HyperTuning; from 0.2.6 on hyperopt hands RecBole's exhaustive search another kind of generator.
        "tune": ["hyperopt>=0.2.5,<0.2.6"],
    },
    entry_points={"console_scripts": ["recbole-derrd = recbole_derrd.cli:main"]},
)
