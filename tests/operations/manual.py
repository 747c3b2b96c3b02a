"""
The commands of the manual, run as they are written, as root on a copy of this system.

Usage: unshare --mount-proc --pid --fork --kill-child python manual.py WORK_DIRECTORY

The copy is an overlay whose changes are kept in memory and are gone afterwards. Commands that
install packages have the network; the daemon and all others have a network of their own, with the
address 10.0.0.11 of the manual. systemd is not started: the daemon runs by the unit's ExecStart.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from middlewared import __version__
from middlewared.simulator.certificates import write_service_account
from tests.documents import (
    PARSED,
    ROOT,
    RUN_BY,
    RUN_ELSEWHERE,
    Command,
    blocks_of,
    commands_of,
)

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ACCOUNT = "123456789"
MIDDLEWARED = "runuser -u middlewared -- /opt/middlewared/bin/middlewared "
LIMIT_S = 300.0
"""No command takes longer, on whatever machine."""
PASSWORD = "correct horse"
DEVICES = f"""\
sip_user_id,platform,app,token,name,os_version,client_version,sandbox,last_seen,remote_logging_id
{ACCOUNT},apns,com.example.phone,{"ab" * 32},phone,17,1,f,2026-11-01 10:00:00+00:00,
"""


class Copy:
    """The copy of the system, and what has been run in it."""

    def __init__(self, work: Path) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self.root = work / "root"
        call("mount", "-t", "tmpfs", "-o", "mode=755", "manual", str(work))
        for name in ("root", "changes", "overlay"):
            (work / name).mkdir()
        layers = f"lowerdir=/,upperdir={work / 'changes'},workdir={work / 'overlay'}"
        call("mount", "-t", "overlay", "-o", layers, "manual", str(self.root))
        call("mount", "-t", "proc", "proc", str(self.root / "proc"))
        call("mount", "--rbind", "/dev", str(self.root / "dev"))
        for name in ("hosts", "resolv.conf"):  # mounts of their own in containers
            text = Path("/etc", name).read_text()
            (self.root / "etc" / name).unlink()
            (self.root / "etc" / name).write_text(text)
        hold = "ip link set lo up && ip address add 10.0.0.11/32 dev lo && echo up && exec cat"
        self._network = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._network.stdout is not None
        assert self._network.stdout.readline() == b"up\n"
        self._daemon: subprocess.Popen[bytes] | None = None
        self.directory = "/root"
        self.environment: dict[str, str] = {}
        self.done: set[Command] = set()
        self.words = {"VERSION": __version__, "OLD": __version__}
        self.words["FILE"] = "/etc/middlewared/middlewared.ini"

    def path(self, name: str) -> Path:
        """A file of the copy."""
        return self.root / name.removeprefix("/")

    def bash(self, text: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """Run a line of bash in the copy, without a terminal; ``given`` is its standard input."""
        installs = re.search(r"\bpip install\b|^apt-get ", text) is not None
        inside = ["chroot", str(self.root), "bash", "-c", f'cd "{self.directory}" && {text}']
        environment = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8"}
        if installs:
            registries = re.compile("PIP_.*|https?_proxy|no_proxy", re.IGNORECASE)
            kept = {n: value for n, value in os.environ.items() if registries.fullmatch(n)}
            environment |= {"DEBIAN_FRONTEND": "noninteractive"} | kept | self.environment
        else:
            inside = ["nsenter", f"--net=/proc/{self._network.pid}/ns/net", *inside]
        return subprocess.run(
            ["setsid", "--wait", *inside],
            check=False,
            input=given,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            timeout=LIMIT_S,
        )

    def prepare(self, text: str) -> None:
        """Run what is not in the manual."""
        done = self.bash(text)
        assert done.returncode == 0, f"{text}\n{done.stdout}"

    def run(
        self, document: str, heading: str, *beginnings: str, code: int = 0, given: str = ""
    ) -> str:
        """
        Run the commands below a heading, or those of them that begin so; returns their output.

        :param code: the exit code that each must have.
        """
        commands = [
            command
            for command in commands_of(document)
            if command.heading == heading
            and (not beginnings or command.text.startswith(beginnings))
        ]
        assert commands, (document, heading, beginnings)
        return "".join(self._run(command, code, given) for command in commands)

    def _run(self, command: Command, code: int, given: str) -> str:
        self.done.add(command)
        if not command.run:
            if command.text.startswith("systemctl restart middlewared"):
                self.restart()
            return ""
        text = command.text
        for word, value in self.words.items():
            text = re.sub(rf"(?<![A-Z_]){word}(?![A-Z_])", value, text)
        if text.startswith("cd "):
            self.directory = f"{self.directory}/{text.removeprefix('cd ')}"
            return ""
        began = time.monotonic()
        done = self.bash(text, given)
        assert done.returncode == code, f"{command}\nexit code {done.returncode}\n{done.stdout}"
        took = f"{time.monotonic() - began:5.1f} s"
        print(f"   {took}  {command.document}: {text[:100]}", flush=True)  # noqa: T201
        return done.stdout

    def restart(self) -> None:
        """Stop the daemon, if it runs, and start it as systemd would."""
        self._stop()
        unit = self.path("/etc/systemd/system/middlewared.service").read_text()
        (start,) = re.findall(r"(?m)^ExecStart=(.*)$", unit)
        outside = ["nsenter", f"--net=/proc/{self._network.pid}/ns/net", "chroot"]
        outside += ["--userspec=middlewared:middlewared", str(self.root), "bash", "-c"]
        with self.path("/root/daemon.log").open("ab") as log:
            self._daemon = subprocess.Popen(
                [*outside, f"cd /var/lib/middlewared && exec {start}"], stdout=log, stderr=log
            )

    def _stop(self) -> None:
        """Stop the daemon, if it runs; only once it is ready SIGTERM is a drain."""
        if self._daemon is not None:
            self.prepare("until curl -fs http://10.0.0.11:8080/health/; do sleep 0.2; done")
            self._daemon.terminate()
            code = self._daemon.wait()
            assert code == 0, f"{code}\n{self.path('/root/daemon.log').read_text()[-3000:]}"

    def finish(self) -> None:
        """Stop the daemon. Everything that this program should run must have been run."""
        self._stop()
        self._network.kill()
        for (document, heading), file in RUN_BY.items():
            if file == "tests/operations/manual.py":
                left = [
                    str(command)
                    for command in commands_of(document)
                    if command.heading == heading
                    and command.run
                    and command not in self.done
                    and not PARSED.match(command.text)
                    and command.program not in RUN_ELSEWHERE
                ]
                assert not left, left


def call(*command: str) -> None:
    """Run a command of this system."""
    subprocess.run(command, check=True)


def release(copy: Copy, work: Path) -> None:
    """Commit, sign, tag and push a release; verify and unpack it."""
    source = copy.path("/root/source")
    build = (sys.executable, "-m", "build", "--no-isolation", "--sdist")
    call(*build, "--outdir", str(work / "dist"), str(ROOT))
    archive = f"middlewared-{__version__}.tar.gz"
    call("tar", "-xzf", str(work / "dist" / archive), "-C", str(copy.path("/root")))
    copy.path(f"/root/middlewared-{__version__}").rename(source)
    dist = source / "reports" / "packaging" / "dist"
    dist.mkdir(parents=True)
    shutil.copy(work / "dist" / archive, dist)
    copy.directory = "/root/source"
    copy.prepare(
        "git init -q -b main . && git config user.name R && git config user.email r@example.com"
        " && echo reports >.gitignore && git add -A && git commit -qm begin"
        " && git init -q --bare ../origin && git remote add origin ../origin"
        " && git push -q -u origin main && echo >>README.md"
        " && gpg --batch --passphrase '' --quick-generate-key 'R <r@example.com>' ed25519 sign"
        f" && (cd {dist.relative_to(source)} && sha256sum middlewared-* >SHA256SUMS)"
    )
    copy.run("RELEASING.md", "Releasing", "git ", "(cd ")
    tags = copy.bash(f"git verify-tag v{__version__} && git -C ../origin log -1 --format=%s main")
    assert f"Release {__version__}" in tags.stdout, tags.stdout
    copy.prepare(
        f"mkdir ../release && mv {dist.relative_to(source)}/* ../release"
        " && gpg --armor --export >../release/KEY.asc && gpgconf --kill all && rm -r ~/.gnupg"
    )
    copy.directory = "/root/release"
    shown = copy.run("RELEASING.md", "Verify a release")
    assert "Good signature" in shown, shown
    assert f"{archive}: OK" in shown, shown


def configure(copy: Copy) -> None:
    """Write the configuration that the manual shows, with its credentials."""
    configuration = [
        "\n".join(block.lines)
        for document, heading in (
            ("docs/install.md", "Configure"),
            ("docs/console.md", "Switch it on"),
        )
        for block in blocks_of(document)
        if block.heading == heading and not block.has_commands
    ]
    text = "\n".join(configuration).replace("10.1.0.0/24", "10.1.0.0/24, 10.0.0.11")
    copy.path("/etc/middlewared/middlewared.ini").write_text(text)
    copy.directory = "/root"
    copy.run("docs/credentials.md", "Apple, with a VoIP certificate", "openssl req")
    copy.prepare(  # Apple's part
        "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=Apple -keyout ca.key -out ca.pem &&"
        " openssl x509 -req -in voip.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 395"
        " -outform der -out voip_services.cer"
    )
    copy.run("docs/credentials.md", "Apple, with a VoIP certificate", "openssl x509", "cat")
    copy.prepare(
        "openssl pkcs12 -export -legacy -in /etc/middlewared/certs/voip.pem"
        " -passout pass: -out voip.p12"
    )
    copy.run("docs/credentials.md", "Apple, with a VoIP certificate", "openssl pkcs12", given="\n")
    write_service_account(
        copy.path("/etc/middlewared/certs"), token_uri="https://127.0.0.1/", name="firebase"
    )
    copy.run("docs/credentials.md", "Credentials of Apple and Google", "chown", "chmod")
    copy.prepare(
        "cp /usr/share/ca-certificates/mozilla/USERTrust_RSA_Certification_Authority.crt"
        " /etc/middlewared/certs/usertrust-rsa.pem"
    )
    shown = copy.run("docs/operating.md", "Apple's root certificate")
    assert shown.strip() in (ROOT / "docs" / "operating.md").read_text(), shown
    copy.run("docs/console.md", "Switch it on", given=f"{PASSWORD}\n")


def use(copy: Copy) -> None:
    """Import a device, start the daemon, and ask it what an operator asks it."""
    migrate, check = MIDDLEWARED + "migrate", MIDDLEWARED + "check --online"
    copy.run("docs/operating.md", "Several daemons", migrate)
    copy.path("/var/lib/middlewared/devices.csv").write_text(DEVICES)  # from MySQL
    copy.run("docs/upgrade.md", "From vialer-middleware")
    copy.run("docs/operating.md", "Several daemons", "sqlite3", "chown", MIDDLEWARED + "import")
    copy.run("docs/operating.md", "Reload and restart")
    for document, heading in (
        ("docs/operating.md", "Check everything online"),
        ("docs/credentials.md", "Credentials of Apple and Google"),
    ):
        shown = copy.run(document, heading, check, code=1)  # nothing else can be reached
        assert re.search(r"(?m)^\[database\] +ok ", shown), shown
    assert ACCOUNT in copy.run("docs/install.md", "Try it", MIDDLEWARED + "devices list")
    shown = copy.run("docs/install.md", "Try it", MIDDLEWARED + "push", code=1)
    assert "push-failed" in shown or "timeout" in shown, shown
    listed: list[str] = []
    while not listed:  # they are written within a second
        shown = copy.bash(f"middlewared calls --config {copy.words['FILE']} --json").stdout
        listed = re.findall(r'"unique_key": "([^"]+)"', shown)
    copy.words["UNIQUE_KEY"] = listed[0]
    assert listed[0] in copy.run("docs/history.md", "History: why didn't my phone ring?")
    copy.run("docs/operating.md", "Many phones")
    copy.run("docs/operating.md", "Back up and restore", "sqlite3")
    shown = copy.run("docs/console.md", "JSON", given=f"{PASSWORD}\n")
    assert '"detail"' not in shown, shown


def main(work: Path) -> None:
    """Everything, in the order of the life of an installation."""
    copy = Copy(work)
    copy.prepare("apt-get update -qq")  # the lists of a new system may be old
    release(copy, work)
    copy.run("docs/install.md", "Install")
    shown = copy.bash("middlewared --version && man -w middlewared").stdout
    assert shown.split()[1] == __version__, shown
    assert shown.split()[-1].endswith("/man1/middlewared.1"), shown
    configure(copy)
    copy.run("docs/install.md", "Configure")
    copy.path("/etc/middlewared/environment").write_text("REDIS_PASSWORD=secret\n")
    copy.run("docs/install.md", "Secrets", given="secret\n")
    use(copy)
    copy.directory = f"/root/release/middlewared-{__version__}"
    copy.environment["PIP_NO_COMPILE"] = "1"  # these are used once
    copy.run("docs/upgrade.md", "Between releases of middlewared")
    copy.run("README.md", "Try it", "python3 ")
    copy.finish()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
