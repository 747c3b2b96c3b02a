"""A configuration in several files: secrets, included files, defaults of all apps."""

from __future__ import annotations

from middlewared.config import AppleApp, GcmApp, read_config
from middlewared.errors import ConfigError
from middlewared.model import Platform
from tests.test_config_reader import ConfigCase


class FileReferenceTests(ConfigCase):
    def test_the_first_line_of_a_file(self) -> None:
        """Relative to the ini file; what is in it is taken as it is."""
        (self.folder / "secret").write_text("a %(ENV:X)s ;b\r\nsecond line\n")
        config = self.read("[redis]\nusername = u\npassword = x%(FILE:secret)sz\n")
        self.assertEqual("xa %(ENV:X)s ;bz", config.redis.password)

    def test_an_absolute_name_in_a_directory_from_the_environment(self) -> None:
        """As systemd passes the directory of a service's credentials."""
        (self.folder / "gcm").write_text("key")
        text = "[app:a:gcm]\napi_key = %(FILE:%(ENV:CREDENTIALS_DIRECTORY)s/gcm)s\n"
        (app,) = self.read(text, CREDENTIALS_DIRECTORY=str(self.folder)).apps.values()
        assert isinstance(app, GcmApp)
        self.assertEqual("key", app.api_key)

    def test_a_file_that_cannot_be_used(self) -> None:
        """Each problem names the section, the key and the file."""
        (self.folder / "empty").write_text("\nnot the first line\n")
        (self.folder / "binary").write_bytes(b"\xff\n")
        (self.folder / "long").write_bytes(b"x" * 100_000)
        for name, what in (
            ("missing", "cannot be read: No such file or directory"),
            ("empty", "is empty"),
            ("binary", "is not UTF-8 text"),
            ("long", "is longer than 65536 bytes"),
        ):
            text = f"[redis]\nusername = u\npassword = %(FILE:{name})s\n"
            self.assert_one_problem(text, "[redis] password: ", f"{self.folder}/{name}", what)

    def test_a_broken_reference_is_a_problem(self) -> None:
        """What was surely meant as a reference is not taken for a password."""
        for broken in ("%(FILE:a)", "%(FILE:a", "%(file:a)s", "%(FILE:)s", "%( FILE:a)s"):
            self.assert_one_problem(
                f"[redis]\npassword = {broken}\n", "[redis] password: has a broken reference"
            )

    def test_the_content_is_never_shown(self) -> None:
        """Not even of a key that is no secret."""
        (self.folder / "a").write_text("geheim")
        (problem,) = self.problems("[log]\nlevel = %(FILE:a)s\n")
        self.assertNotIn("geheim", problem)


class IncludeTests(ConfigCase):
    """conf.d/*.ini"""

    main = "[include]\nfiles = conf.d/*.ini\n"

    def setUp(self) -> None:
        super().setUp()
        (self.folder / "conf.d").mkdir()

    def include(self, name: str, content: str) -> None:
        """Write an included file."""
        (self.folder / "conf.d" / name).write_text(content)

    def test_sections_of_all_files(self) -> None:
        """In order of name, the main file first; other files and hidden ones are not read."""
        self.include("20-b.ini", "[app:b:gcm]\napi_key = 2\n")
        self.include("10-a.ini", "[app:a:gcm]\napi_key = 1\n")
        for name in (".hidden.ini", "10-a.ini~", "note.txt"):
            self.include(name, "broken")
        apps = self.read(f"{self.main}[app:m:gcm]\napi_key = 0\n").apps
        self.assertEqual(["m", "a", "b"], [app for app, _ in apps])

    def test_no_file_matches(self) -> None:
        """A fleet may begin empty; a name without a pattern must exist."""
        self.assertEqual({}, self.read(self.main).apps)
        self.assert_one_problem("[include]\nfiles = b.ini\n", "[include] files: no such file:")

    def test_paths_are_relative_to_the_included_file(self) -> None:
        """Those of files, and those in references; defaults to their own file."""
        self.include("a.ini", "[app:a:apns]\ntopic = %(FILE:topic)s\nca_file = ca.pem\n")
        self.include("topic", "a.voip")
        config = self.read(f"{self.main}[app:*:apns]\ncertificate = all.pem\n")
        app = config.apps["a", Platform.APNS]
        assert isinstance(app, AppleApp)
        self.assertEqual("a.voip", app.topic)
        self.assertEqual(self.folder / "conf.d" / "ca.pem", app.ca_file)
        self.assertEqual(self.folder / "all.pem", app.certificate)

    def test_a_section_in_several_files(self) -> None:
        """Its keys come together; a key that is set twice is a problem, which names both files."""
        self.include("log.ini", "[log]\nformat = json\n")
        log = self.read(f"{self.main}[log]\nlevel = warn\n").log
        self.assertEqual(("warn", "json"), (log.level, log.format))
        path = self.write(f"{self.main}[log]\nformat = text\n")
        error = self.assertRaises(ConfigError, read_config, path, {})
        self.assertEqual(
            [f"{self.folder}/conf.d/log.ini: [log] format: is set in the main file already"],
            error.lines,
        )

    def test_problems_name_their_file(self) -> None:
        """Of syntax, of a value, between values, and warnings."""
        self.include("a.ini", "nonsense\n[app:a:apns]\nconnections = 0\nkey_id = x\n")
        self.include("b.ini", "[app:b:gcm]\nurl = http://relay/\n")
        path = self.write(self.main)
        error = self.assertRaises(ConfigError, read_config, path, {})
        places = [line.split(": ")[:2] for line in error.lines]
        a, b = (f"{self.folder}/conf.d/{name}.ini" for name in "ab")
        self.assertIn([a, "line 1 is neither [section] nor key = value"], places)
        self.assertIn([a, "[app:a:apns] connections"], places)
        self.assertIn([a, "[app:a:apns] key_id"], places)
        self.assertIn([b, "[app:b:gcm] api_key"], places)
        self.include("a.ini", "")
        self.include("b.ini", "[app:b:gcm]\nurl = http://relay/\napi_key = k\n")
        warnings = read_config(path, {}).warnings
        lines = [each.line(str(path)) for each in warnings]
        self.assertTrue(any(line.startswith(f"{b}: [app:b:gcm] url") for line in lines), lines)

    def test_only_the_main_file_includes(self) -> None:
        """Files cannot include each other in a circle."""
        self.include("a.ini", self.main)
        path = self.write(self.main)
        error = self.assertRaises(ConfigError, read_config, path, {})
        what = "[include]: is only read in the main file"
        self.assertEqual([f"{self.folder}/conf.d/a.ini: {what}"], error.lines)

    def test_a_file_that_cannot_be_read(self) -> None:
        """It is a problem of the configuration, not less than the main file."""
        (self.folder / "conf.d" / "dir.ini").mkdir()
        path = self.write(self.main)
        error = self.assertRaises(ConfigError, read_config, path, {})
        what = "cannot be read: Is a directory"
        self.assertEqual([f"{self.folder}/conf.d/dir.ini: {what}"], error.lines)


class AppDefaultsTests(ConfigCase):
    """[app:*:PLATFORM]"""

    key = "key_file = k.p8\nkey_id = ABCDE12345\nteam_id = FGHIJ67890\n"

    def app(self, text: str) -> AppleApp:
        """The app a."""
        app = self.read(text).apps["a", Platform.APNS]
        assert isinstance(app, AppleApp)
        return app

    def test_every_app_of_the_platform_inherits(self) -> None:
        """Also one whose section is empty, and one that stands before the defaults."""
        text = (
            f"[app:a:apns]\n[app:*:apns]\n{self.key}resend = never\n[app:b:apns]\nresend = auto\n"
        )
        apps = self.read(f"{text}[app:a:gcm]\napi_key = k\n").apps
        self.assertEqual(["a", "b", "a"], [app for app, _ in apps])
        self.assertEqual(["never", "auto", "auto"], [app.resend for app in apps.values()])
        self.assertEqual("a.voip", self.app(text).topic)

    def test_own_credentials_replace_all_of_the_defaults(self) -> None:
        """No app ends with half of a key beside its certificate."""
        app = self.app(f"[app:*:apns]\n{self.key}[app:a:apns]\ncertificate = a.pem\n")
        self.assertEqual((None, "", ""), (app.key_file, app.key_id, app.team_id))
        half = f"[app:*:apns]\n{self.key}[app:a:apns]\nkey_file = other.p8\n"
        self.assertEqual(
            ["[app:a:apns] key_id", "[app:a:apns] team_id"],
            [line.split(": ")[0] for line in self.problems(half)],
        )

    def test_a_problem_is_reported_once_where_it_is_written(self) -> None:
        """Not once for each of 200 apps."""
        text = f"[app:*:apns]\n{self.key}connections = 0\nfoo = 1\n[app:a:apns]\n[app:b:apns]\n"
        self.assertEqual(
            ["[app:*:apns] foo", "[app:*:apns] connections"],
            [line.split(": ")[0] for line in self.problems(text)],
        )

    def test_defaults_without_an_app(self) -> None:
        """They are checked all the same, and are no app."""
        self.assertEqual({}, self.read("[app:*:gcm]\nresend = never\n").apps)
        self.assert_one_problem("[app:*:gcm]\nresend = often\n", "[app:*:gcm] resend: must be")
