"""Reading an ini file: its syntax, the environment, paths, and how problems are reported."""

from __future__ import annotations

import itertools
import os
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from middlewared.config import AndroidApp, AppleApp, Config, GcmApp, HttpSettings, read_config
from middlewared.errors import ConfigError
from middlewared.model import Platform

APPLE = "[app:com.x:apns]\ncertificate = voip.pem\n"


class ConfigCase(SynchronousTestCase):
    """Writes ini files and reads them."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self._numbers = itertools.count()

    def write(self, content: str | bytes) -> Path:
        path = self.folder / f"{next(self._numbers)}.ini"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def read(self, content: str | bytes, **environ: str) -> Config:
        return read_config(self.write(content), environ)

    def problems(self, content: str | bytes, **environ: str) -> list[str]:
        """The problems' lines without the file's name, which each must begin with."""
        path = self.write(content)
        error = self.assertRaises(ConfigError, read_config, path, environ)
        for line in error.lines:
            self.assertTrue(line.startswith(f"{path}: "), line)
            self.assertNotIn("\n", line)
        return [line.removeprefix(f"{path}: ") for line in error.lines]

    def assert_one_problem(self, content: str | bytes, *parts: str, **environ: str) -> None:
        """Exactly one problem, which has all ``parts``."""
        found = self.problems(content, **environ)
        self.assertEqual(1, len(found), found)
        for part in parts:
            self.assertIn(part, found[0])


class SyntaxTests(ConfigCase):
    def test_no_file_gives_the_defaults(self) -> None:
        """Without a file the built-in defaults hold, relative to the current directory."""
        config = read_config(None, {})
        self.assertEqual(HttpSettings(), config.http)
        assert config.database.sqlite_file is not None
        self.assertEqual(Path.cwd(), config.database.sqlite_file.parent)
        self.assertEqual({}, config.apps)

    def test_an_empty_file_gives_the_defaults(self) -> None:
        """No section is required."""
        self.assertEqual(read_config(None, {}).calls, self.read("").calls)

    def test_comments_and_blank_lines_are_left_out(self) -> None:
        """; and # begin comment lines, blank and ; a comment behind a value."""
        text = "; a\n# b\n\n[log] ; c\n  ; d\nlevel = debug ; e\nfile =   ; nothing\n"
        log = self.read(text).log
        self.assertEqual(("debug", None), (log.level, log.file))

    def test_a_semicolon_without_blank_and_a_hash_belong_to_the_value(self) -> None:
        """Passwords may hold ; and #."""
        redis = self.read("[redis]\nusername = u\npassword = a;b#c # d\n").redis
        self.assertEqual("a;b#c # d", redis.password)

    def test_indented_lines_continue_a_value(self) -> None:
        """One endpoint per line, comments between them allowed."""
        text = "[http]\nlisten =\n  tcp:1 ; one\n\n  ; none\n  tcp:2\nmax_connections = 3\n"
        http = self.read(text).http
        self.assertEqual((("tcp:1", "tcp:2"), 3), (http.listen, http.max_connections))

    def test_a_byte_order_mark_and_dos_line_ends_are_taken(self) -> None:
        """Files from Windows editors are read."""
        config = self.read(b"\xef\xbb\xbf[log]\r\nlevel = warn\r\nformat = json\r\n")
        self.assertEqual(("warn", "json"), (config.log.level, config.log.format))

    def test_a_key_may_be_in_upper_case(self) -> None:
        """Keys are compared without regard to case, as configparser does."""
        self.assertEqual("warn", self.read("[log]\nLevel = warn\n").log.level)

    def test_a_missing_file_is_one_problem(self) -> None:
        """The problem is that the file is missing."""
        path = self.folder / "missing.ini"
        error = self.assertRaises(ConfigError, read_config, path, {})
        self.assertEqual([f"{path}: cannot be read: No such file or directory"], error.lines)

    def test_a_directory_is_one_problem(self) -> None:
        """A path that cannot be read as a file is reported as a problem."""
        path = self.folder
        error = self.assertRaises(ConfigError, read_config, path, {})
        self.assertEqual([f"{path}: cannot be read: Is a directory"], error.lines)

    def test_an_undecodable_file_is_one_problem(self) -> None:
        """A file that is not UTF-8 is reported with the position."""
        self.assertEqual(["is not UTF-8 text (byte 6)"], self.problems(b"[log]\xff\n"))

    def test_a_huge_file_is_one_problem(self) -> None:
        """Memory is bounded when the name is that of a device or a dump."""
        self.assert_one_problem(b";" * (2 << 20), "is larger than")

    def test_a_key_before_the_first_section_is_a_problem(self) -> None:
        """File-level problems have no section."""
        self.assertEqual(
            ["line 1 sets level before the first [section]"], self.problems("level = info\n")
        )

    def test_an_invalid_line_is_reported_without_its_text(self) -> None:
        """A password on a broken line does not reach the terminal."""
        self.assertEqual(
            ["[redis]: line 2 is neither [section] nor key = value"],
            self.problems("[redis]\npassword: geheim\n"),
        )

    def test_all_duplicates_are_reported(self) -> None:
        """A repeated key or section is a problem, each with its line."""
        text = "[log]\nlevel = info\nlevel = warn\n[http]\n[log]\nlevel = debug\nformat = text\n"
        self.assertEqual(
            [
                "[log] level: line 3 repeats the key",
                "[log]: line 5 repeats the section",
                "[log] level: line 6 repeats the key",
            ],
            self.problems(text),
        )

    @given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
    def test_any_bytes_give_a_config_or_problems(self, content: bytes) -> None:
        """No content makes the reader fail in another way."""
        try:
            self.read(content)
        except ConfigError as e:
            self.assertTrue(e.problems)


class NameTests(ConfigCase):
    def test_an_unknown_section_names_the_nearest(self) -> None:
        """A misspelt section is an error with a suggestion."""
        self.assertEqual(
            ["[acounts]: unknown section; the nearest known one is [accounts]"],
            self.problems("[acounts]\nbackend = open\n"),
        )

    def test_an_unknown_key_names_the_nearest(self) -> None:
        """A misspelt key is an error with a suggestion; its value is not shown."""
        self.assertEqual(
            ["[redis] pasword: unknown key; the nearest known one is password"],
            self.problems("[redis]\npasword = geheim\n"),
        )

    def test_case_is_not_what_makes_names_different(self) -> None:
        """A name in capitals is nearest to the same in small letters."""
        for title, nearest in (("HTTP", "http"), ("app:a.b:APNS", "app:a.b:apns")):
            self.assertEqual(
                [f"[{title}]: unknown section; the nearest known one is [{nearest}]"],
                self.problems(f"[{title}]\n"),
            )

    def test_one_wrong_value_does_not_hide_the_rest_of_its_section(self) -> None:
        """A value, what belongs together and what is missing are reported together."""
        self.assertEqual(
            ["[accounts] timeout_ms", "[accounts] base_url", "[accounts] sip_user_id_min"],
            [
                problem.partition(":")[0]
                for problem in self.problems(
                    "[accounts]\nbackend = voipgrid\ntimeout_ms = 0\n"
                    "sip_user_id_min = 5\nsip_user_id_max = 4\n"
                )
            ],
        )

    def test_an_unknown_platform_names_the_nearest_app_section(self) -> None:
        """The suggestion keeps the app id."""
        for title, nearest in (("app:com.x:apn", "app:com.x:apns"), ("ap:a:gcm", "app:a:gcm")):
            self.assertEqual(
                [f"[{title}]: unknown section; the nearest known one is [{nearest}]"],
                self.problems(f"[{title}]\n"),
            )

    def test_a_key_of_another_platform_is_unknown(self) -> None:
        """certificate means nothing to Google."""
        self.assert_one_problem(
            "[app:com.x:android]\napi_key = k\ncertificate = c\n",
            "[app:com.x:android] certificate: unknown key",
        )

    def test_apps_are_keyed_by_id_and_platform(self) -> None:
        """One app id may be on all three platforms."""
        text = f"{APPLE}[app:com.x:gcm]\napi_key=a\n[app:com.x:android]\nservice_account=s.json\n"
        apps = self.read(text).apps
        kinds = {Platform.APNS: AppleApp, Platform.GCM: GcmApp, Platform.ANDROID: AndroidApp}
        self.assertEqual(
            {("com.x", p): k for p, k in kinds.items()}, {k: type(v) for k, v in apps.items()}
        )

    def test_all_problems_are_reported_together(self) -> None:
        """A problem does not hide another one, in whatever section."""
        text = "[http]\nlisten = x:1\nfoo = 1\n[calls]\ndrain_ms = -1\n[nope]\n"
        text += "[accounts]\nbackend = voipgrid\n"
        found = self.problems(text)
        for part in (
            "[http] listen",
            "[http] foo",
            "[calls] drain_ms",
            "[nope]",
            "[accounts] base_url",
        ):
            self.assertTrue(any(line.startswith(part) for line in found), (part, found))
        self.assertEqual(5, len(found))


class EnvironmentTests(ConfigCase):
    def test_a_reference_is_replaced(self) -> None:
        """The variable's text is taken as it is: neither comment nor reference is seen in it."""
        text = "[redis]\nusername = u\npassword = a%(ENV:PW)sz\n"
        self.assertEqual("a ;%(ENV:X)s%z", self.read(text, PW=" ;%(ENV:X)s%").redis.password)

    def test_each_unset_variable_is_a_problem(self) -> None:
        """A variable that is not set is named."""
        self.assertEqual(
            [
                "[redis] password: the environment variable A is not set",
                "[redis] password: the environment variable B is not set",
            ],
            self.problems("[redis]\npassword = %(ENV:A)s%(ENV:B)s\n"),
        )

    def test_a_variable_that_is_set_but_empty_is_taken(self) -> None:
        """Set to nothing is set."""
        self.assertEqual("", self.read("[redis]\npassword = %(ENV:A)s\n", A="").redis.password)

    def test_other_percent_signs_stand_for_themselves(self) -> None:
        """URL escapes and %% need no doubling."""
        text = "[redis]\nusername = %%\npassword = 100%%(a)s%2C\n"
        redis = self.read(text).redis
        self.assertEqual(("%%", "100%%(a)s%2C"), (redis.username, redis.password))

    def test_a_broken_reference_is_a_problem(self) -> None:
        """What was surely meant as a reference is not taken for a password."""
        for broken in ("%(ENV:A)", "%(ENV:A", "%(env:A)s", "%(ENV:)s", "%( ENV:A)s", "%(ENV A)s"):
            self.assert_one_problem(
                f"[redis]\npassword = {broken}\n", "[redis] password: has a broken reference", A="a"
            )

    def test_values_from_the_environment_are_never_shown(self) -> None:
        """Not even of a key that is no secret."""
        found = self.problems("[log]\nlevel = %(ENV:A)s\n[redis]\nnodes = %(ENV:A)s\n", A="geheim")
        self.assertEqual(2, len(found))
        self.assertNotIn("geheim", "".join(found))


class PathTests(ConfigCase):
    def test_relative_paths_are_resolved_against_the_files_directory(self) -> None:
        """Wherever the daemon is started: files, SQLite, sockets and the keys of endpoints."""
        path = self.write(
            "[http]\nlisten = unix:run/a\\:b:mode=600\n[log]\nfile = m.log\n"
            "[database]\nurl = sqlite:d/m.db\n" + APPLE
        )
        config, base = read_config(path, {}), path.parent
        self.assertEqual((f"unix:{base}/run/a\\:b:mode=600",), config.http.listen)
        self.assertEqual(base / "m.log", config.log.file)
        self.assertEqual(base / "d/m.db", config.database.sqlite_file)
        app = config.apps["com.x", Platform.APNS]
        assert isinstance(app, AppleApp)
        self.assertEqual(base / "voip.pem", app.certificate)

    def test_absolute_paths_are_kept(self) -> None:
        """An absolute path does not depend on the file."""
        config = self.read(
            "[http]\nlisten = unix:address=/run/x\n[log]\nfile = /var/log/m\n"
            "[database]\nurl = sqlite:///srv/m.db\n"
        )
        self.assertEqual(("unix:address=/run/x",), config.http.listen)
        self.assertEqual(Path("/var/log/m"), config.log.file)
        self.assertEqual(Path("/srv/m.db"), config.database.sqlite_file)

    def test_a_relative_ini_file_gives_absolute_paths(self) -> None:
        """A later change of directory does not move the files."""
        path = self.write("[log]\nfile = m.log\n")
        file = read_config(Path(os.path.relpath(path)), {}).log.file
        assert file is not None
        self.assertTrue(file.is_absolute())
        self.assertEqual(path.resolve().parent / "m.log", file.resolve())


class RedactionTests(ConfigCase):
    def test_no_text_form_holds_a_secret(self) -> None:
        """repr and str of the whole and of each part hide keys and passwords."""
        config = self.read(
            "[redis]\nnodes=r:1\npassword=geheim1\n[http_proxy]\nurl=http://u:geheim2@p:3128\n"
            "[database]\nurl=postgresql://u:gehe%2Fim3@h/db?password=geheim4&sslmode=require\n"
            "[app:a:android]\napi_key=geheim5\n[app:a:gcm]\napi_key=geheim6\n"
        )
        parts = [config, config.redis, config.http_proxy, config.database, *config.apps.values()]
        for shown in [*map(repr, parts), *map(str, parts), repr(config.warnings)]:
            self.assertNotIn("gehe", shown)
            self.assertNotIn("im3", shown)
        self.assertIn("'http://u:***@p:3128'", repr(config.http_proxy))

    def test_no_problem_holds_a_secret(self) -> None:
        """What was written at a secret key, or looks like user@host, is not repeated."""
        found = self.problems(
            "[redis]\npassword=geheim\x01\nnodes=u:geheim@h:1\n[http_proxy]\nurl=http://u:geheim@p\n"
            "[database]\nurl=postgresql://u:geheim@h:x/db\n[accounts]\nbase_url=https://u:geheim@h\n"
            "[app:a:gcm]\napi_key=geheim\x7f\nurl=geheim@x\n"
        )
        self.assertEqual(7, len(found), found)
        self.assertNotIn("geheim", "".join(found))

    def test_an_invalid_value_is_shown_where_it_cannot_be_secret(self) -> None:
        """The operator sees what was read."""
        self.assertEqual(
            ["[log] level: must be one of debug, info, warn, error, critical, not 'loud'"],
            self.problems("[log]\nlevel = loud\n"),
        )
