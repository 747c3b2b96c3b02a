"""Under systemd: notifications, the watchdog, passed sockets, and log rotation."""

from __future__ import annotations

import os
import signal
import socket
import tempfile

from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredQueue
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from middlewared.service.service_manager import ServiceManager
from middlewared.simulator.daemon_process import DaemonProcess
from tests.daemons import PORTS, DaemonTestCase


class Manager(DatagramProtocol):
    """The service manager's end of NOTIFY_SOCKET."""

    def __init__(self) -> None:
        self.received: DeferredQueue[dict[str, str]] = DeferredQueue()

    def datagramReceived(self, datagram: bytes, addr: object) -> None:
        self.received.put(dict(line.split("=", 1) for line in datagram.decode().split("\n")))


class NotificationTests(DaemonTestCase):
    """A daemon that is started by a service manager."""

    async def start(self, address: str, **environ: str) -> DaemonProcess:
        """A daemon with NOTIFY_SOCKET."""
        self.manager = Manager()
        name = "\0" + address[1:] if address.startswith("@") else address
        port = reactor.listenUNIXDatagram(name, self.manager, 8192)
        self.addCleanup(port.stopListening)
        daemon = DaemonProcess(
            reactor=reactor,
            config=self.write_config(PORTS),
            environ={"NOTIFY_SOCKET": address, **environ},
        )
        self.addCleanup(lambda: Deferred.fromCoroutine(daemon.stop()))
        await daemon.start()
        return daemon

    async def test_life(self) -> None:
        """Ready, a reload with its time, ready again, stopping with the time it may take."""
        daemon = await self.start(f"@middlewared-test-{os.getpid()}")
        self.assertEqual(await self.manager.received.get(), {"READY": "1"})
        daemon.signal(signal.SIGHUP)
        reloading = await self.manager.received.get()
        self.assertEqual(reloading.pop("RELOADING"), "1")
        self.assertGreater(int(reloading["MONOTONIC_USEC"]), 0)
        self.assertEqual(await self.manager.received.get(), {"READY": "1"})
        daemon.signal(signal.SIGTERM)
        self.assertEqual(
            await self.manager.received.get(), {"STOPPING": "1", "EXTEND_TIMEOUT_USEC": "40000000"}
        )

    async def test_refused_reload_ends_too(self) -> None:
        """A broken configuration leaves the manager with a service that is ready."""
        daemon = await self.start(f"@middlewared-test-broken-{os.getpid()}")
        await self.manager.received.get()
        self.write_config("[nonsense]\n")
        daemon.signal(signal.SIGHUP)
        self.assertIn("RELOADING", await self.manager.received.get())
        self.assertEqual(await self.manager.received.get(), {"READY": "1"})

    async def test_watchdog(self) -> None:
        """The daemon feeds the watchdog, at once and again."""
        # A socket's path is at most 107 bytes, the test's directory may be deeper.
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        await self.start(f"{directory.name}/notify", WATCHDOG_USEC="200000")
        self.assertEqual(await self.manager.received.get(), {"READY": "1"})
        for _ in range(3):
            self.assertEqual(await self.manager.received.get(), {"WATCHDOG": "1"})


class PassedSocketTests(DaemonTestCase):
    """Endpoints ``systemd:`` take the sockets that systemd passes."""

    async def test_passed_sockets(self) -> None:
        """Each listener has the socket of its index or name; a reload keeps them."""
        with (
            socket.create_server(("127.0.0.1", 0)) as api,
            socket.create_server(("127.0.0.1", 0)) as metrics,
        ):
            daemon = DaemonProcess(
                reactor=reactor,
                config=self.write_config(
                    "[http]\nlisten = systemd:domain=INET:index=0\n"
                    "[metrics]\nlisten = systemd:domain=INET:name=socket1\n"
                ),
                sockets=[api, metrics],
            )
            self.addCleanup(lambda: Deferred.fromCoroutine(daemon.stop()))
            await daemon.start()
            ports = [each.getsockname()[1] for each in (api, metrics)]
        health = await self.get(f"http://127.0.0.1:{ports[0]}/health/")
        self.assertEqual(health.status, 200)
        daemon.signal(signal.SIGHUP)
        await self.has_logged(daemon, "configuration reloaded")
        scraped = await self.get(f"http://127.0.0.1:{ports[1]}/metrics")
        self.assertIn("middlewared_build_info", scraped.text)
        self.assertEqual(await daemon.stop(), 0)

    async def test_socket_that_was_not_passed(self) -> None:
        """Without systemd such an endpoint is a plain line and exit code 1."""
        code, output = await self.refused_start(
            "[http]\nlisten = systemd:domain=INET:index=0\n[metrics]\nlisten =\n"
        )
        self.assertEqual(code, 1)
        self.assertIn("index=0: systemd passed no such socket", output)
        self.assertNotIn("Traceback", output)


class RotationTests(DaemonTestCase):
    """logrotate moves a file away and then signals the daemon."""

    async def test_rotated_file_is_released(self) -> None:
        """SIGUSR1 opens the files again; nothing else changes."""
        daemon = await self.start_daemon(f"{PORTS}[log]\nmetrics_file = reports.jsonl\n")
        reports = self.directory / "reports.jsonl"
        reports.rename(self.directory / "reports.jsonl.1")
        daemon.signal(signal.SIGUSR1)
        await self.has_logged(daemon, "log files reopened")
        self.assertTrue(reports.exists())


class WatchdogTests(SynchronousTestCase):
    """When the watchdog is fed."""

    def timers(self, **environ: str) -> int:
        """How many timers run after ready."""
        clock = Clock()
        manager = ServiceManager(clock=clock, environ=environ)
        manager.ready()
        manager.ready()
        running = len(clock.getDelayedCalls())
        manager.stop()
        self.assertEqual(clock.getDelayedCalls(), [])
        return running

    def test_without_a_manager(self) -> None:
        """No one is notified, and nothing runs."""
        self.assertEqual(self.timers(WATCHDOG_USEC="1000000"), 0)

    def test_watchdog_of_another_process(self) -> None:
        """WATCHDOG_PID of another process is not ours to feed."""
        self.assertEqual(
            self.timers(NOTIFY_SOCKET="/nowhere", WATCHDOG_USEC="1000000", WATCHDOG_PID="1"), 0
        )

    def test_fed_once_however_often_ready(self) -> None:
        """A reload starts no second feeding; a manager that is gone does no harm."""
        self.assertEqual(self.timers(NOTIFY_SOCKET="/nowhere", WATCHDOG_USEC="1000000"), 1)
