"""``nox`` runs the tests with each supported Python found; ``nox -s pin`` renews the pins."""

import nox

nox.options.sessions = ["tests"]
PIN = ("uv", "pip", "compile", "setup.py", "--universal", "--python-version=3.11", "--quiet")
PLAIN = ("--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url", "--upgrade")


@nox.session(python=["3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """What ./ci.sh checks; ``nox -- unit`` takes a part."""
    session.run(
        "./ci.sh", *session.posargs, external=True, env={"VENV": session.virtualenv.location}
    )


@nox.session
def pin(session: nox.Session) -> None:
    """Write constraints.txt, for the daemon, and constraints-dev.txt, for all dependencies."""
    session.install("uv<0.9")  # later ones refuse the file name of txpostgres's only release
    session.run(*PIN, *PLAIN, "--output-file=constraints.txt", silent=True)
    dev = ("--extra=dev", "--constraint=constraints.txt", "--output-file=constraints-dev.txt")
    session.run(*PIN, *PLAIN, *dev, silent=True)
