"""The private attributes of other libraries that the package uses are there."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

from twisted.python.reflect import namedAny
from twisted.trial.unittest import SynchronousTestCase

import middlewared

PACKAGE = Path(middlewared.__file__).parent
# By the class that sets or defines them. Read its changes before a new version comes into
# constraints.txt.
ATTRIBUTES = {
    "h2.connection.H2Connection": "_closed_streams",
    "prometheus_client.metrics.Counter": "_value",
    "prometheus_client.metrics.Histogram": "_buckets _sum",
    "twisted.internet._sslverify.OpenSSLCertificateAuthorities": "_addCACertsToContext",
    "twisted.internet._sslverify.OpenSSLDefaultPaths": "_addCACertsToContext",
    "twisted.internet.epollreactor.EPollReactor": "_doReadOrWrite _poller _selectables",
    "twisted.internet.tcp.Connection": "_tempDataBuffer",
    "twisted.protocols.basic.LineReceiver": "_buffer",
    "twisted.web.http.HTTPChannel": (
        "_abortingCall _command _dataBuffer _handlingRequest _maybeChooseTransferDecoder"
        " _networkProducer _optimisticEagerReadSize _path _receivedHeaderCount"
        " _receivedHeaderSize _respondToBadRequestAndDisconnect _savedTimeOut"
        " _send100Continue _version _waitingForTransport"
    ),
    "txpostgres.txpostgres.Connection": "_connection _cursors",
}
NAMED = set(" ".join(ATTRIBUTES.values()).split())
PUBLIC = {"_exit"}  # of os, and documented
OWNERS = {"self", "cls", "super"}


class PrivateAttributeTests(SynchronousTestCase):
    """An upgrade that takes one away is found here by its name."""

    def test_each_is_still_there(self) -> None:
        """Its class, or a base of it, defines or sets it."""
        gone = [
            f"{path}.{name}"
            for path, names in ATTRIBUTES.items()
            for name in names.split()
            if not any(has(base, name) for base in inspect.getmro(namedAny(path)))
        ]
        self.assertEqual(gone, [])

    def test_each_is_named(self) -> None:
        """No module of the package uses another one."""
        ours = set().union(*map(defined_in, modules().values()))
        foreign = {
            name
            for module in modules().values()
            for owner, name in used_in(module)
            if owner not in OWNERS
        }
        self.assertEqual(foreign - ours - NAMED - PUBLIC, set())

    def test_each_inherited_one_is_named(self) -> None:
        """No class of the package uses or replaces another one of its base classes."""
        unknown = {
            f"{ours.__name__}: {base.__module__}.{base.__name__}.{name}"
            for ours, node in classes()
            for base in inspect.getmro(ours)[1:]
            if base.__module__.split(".")[0] != "middlewared"
            for name in inherited_by(node) - NAMED
            if has(base, name)
        }
        self.assertEqual(unknown, set())


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package by its name, parsed."""
    return {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): ast.parse(
            path.read_text(encoding="utf-8")
        )
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def classes() -> Iterator[tuple[type, ast.ClassDef]]:
    """Every class of the package that stands in no other."""
    for module, source in modules().items():
        for node in source.body:
            if isinstance(node, ast.ClassDef):
                yield getattr(import_module(module), node.name), node


def is_private(name: str) -> bool:
    return re.match("_[a-zA-Z]", name) is not None


def used_in(source: ast.AST) -> Iterator[tuple[str, str]]:
    """Each private attribute with the name, or the function's, that it is taken from."""
    for node in ast.walk(source):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            yield owner(node.value), node.attr
        elif isinstance(node, ast.Call) and owner(node) == "getattr":
            name = ast.unparse(node.args[1]).strip("'")
            if is_private(name):
                yield owner(node.args[0]), name


def owner(node: ast.expr) -> str:
    if isinstance(node, ast.Call):
        return owner(node.func)
    return node.id if isinstance(node, ast.Name) else ""


def defined_in(source: ast.AST) -> set[str]:
    """The names that functions, class bodies and ``self`` define."""
    found = set()
    for node in ast.walk(source):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node, ast.Name):
                found.add(node.id)
            elif owner(node.value) == "self":
                found.add(node.attr)
    return found


def inherited_by(ours: ast.ClassDef) -> set[str]:
    """The private names that a class uses of itself or defines."""
    used = {name for owner, name in used_in(ours) if owner in OWNERS}
    return used | set(filter(is_private, defined_in(ours)))


def has(base: type, name: str) -> bool:
    """Whether a class itself defines an attribute, or one of its methods sets it."""
    return name in vars(base) or re.search(rf"\bself\.{name}\b[^=\n]*=", text(base)) is not None


@cache
def text(each: type) -> str:
    try:
        return inspect.getsource(each)
    except (OSError, TypeError):  # built in
        return ""
