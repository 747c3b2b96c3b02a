"""
The console in a real browser: headless Chromium uses it as an operator does.

Usage: browser.py WORK_DIRECTORY AXE_MIN_JS

Starts ``middlewared demo --serve``, whose calls and phones it uses. Every page is opened in both
modes and at two widths, checked by the rules of axe-core, and left as a picture in
WORK_DIRECTORY; two more, console-*.png, are those of docs/. Nothing may be logged to the
browser's console, and no request may go elsewhere.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

WAIT_S = 60.0
ACCOUNT = "123456789"
ANSWERS, SILENT, HOSTILE = "100000001", "100000005", "223456789"
HOSTILE_TEXT = "<b onclick=x>\u202e\u2066 evil 'name' " + "x" * 120
# Makes every text of a page that is not the console's own vocabulary one long word.
LENGTHEN = """
const own =
  "time, .state, .short, .count, .empty, .quiet, .verdict, form, summary, th, dt, caption";
const walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  if (!walker.currentNode.parentElement.closest(own)) {
    walker.currentNode.textContent += "x".repeat(255);
  }
}
"""
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
DEMO = "import sys; from middlewared.cli.main import main; sys.exit(main())"


class Demo:
    """``middlewared demo --serve``, and what it has printed."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", DEMO, "demo", "--serve"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        self._lines.extend(iter(self._process.stdout.readline, ""))

    def printed(self, pattern: str) -> re.Match[str]:
        """The last match in what it prints, once there is one."""

        def found() -> re.Match[str] | None:
            assert self._process.poll() is None, "".join(self._lines)
            return next(iter(list(re.finditer(pattern, "".join(self._lines)))[::-1]), None)

        match: re.Match[str] = until(found, pattern)
        return match

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.wait(WAIT_S)


def until(true: Callable[[], Any], what: str) -> Any:
    """The first true result of ``true``."""
    ends_at = time.monotonic() + WAIT_S
    while not (found := true()):
        assert time.monotonic() < ends_at, f"never: {what}"
        time.sleep(0.05)
    return found


def post(url: str, credentials: str = "", **fields: str) -> str:
    """POST a form; the body of the answer."""
    request = urllib.request.Request(url, urllib.parse.urlencode(fields).encode())
    if credentials:
        request.add_header(
            "Authorization", "Basic " + base64.b64encode(credentials.encode()).decode()
        )
    with urllib.request.urlopen(request) as response:
        return str(response.read().decode())


class Browser:
    """Chromium at the console of ``origin``."""

    def __init__(self, origin: str, user: str, password: str, axe: str, work: Path) -> None:
        options = webdriver.ChromeOptions()
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        service = webdriver.ChromeService(executable_path="/usr/bin/chromedriver")
        options.binary_location = "/usr/bin/chromium"
        self.driver = webdriver.Chrome(options=options, service=service)
        self.origin = origin
        self._axe = axe
        self._work = work
        self.checked = 0
        host = origin.partition("//")[2]
        self.driver.get(f"http://{user}:{password}@{host}/")

    def open(self, path: str) -> None:
        self.driver.get(self.origin + path)

    @property
    def path(self) -> str:
        return str(urllib.parse.urlsplit(self.driver.current_url).path)

    @property
    def text(self) -> str:
        return str(self.driver.find_element(By.TAG_NAME, "main").text)

    def press(self, button: str) -> None:
        self.driver.find_element(By.XPATH, f"//button[.='{button}']").click()

    def shows(self, text: str) -> None:
        """Wait until the page shows ``text``."""

        def seen() -> bool:
            try:
                return text in self.text
            except Exception:  # the page is being loaded
                return False

        try:
            until(seen, text)
        except AssertionError as error:
            raise AssertionError(f"{error} at {self.driver.current_url}:\n{self.text}") from None

    @contextmanager
    def looks(self, width: int, scheme: str) -> Iterator[None]:
        """The page at a width and in a mode."""
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        yield
        self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def check(self, name: str) -> None:
        """The page by the rules of axe-core, at both widths and in both modes."""
        for width in (375, 1280):
            for scheme in ("light", "dark"):
                with self.looks(width, scheme):
                    picture = self.driver.execute_cdp_cmd(
                        "Page.captureScreenshot", {"captureBeyondViewport": True, **self._whole()}
                    )
                    self._write(f"{name}-{width}-{scheme}.png", picture["data"])
                    where = f"{name} at {width} in {scheme}"
                    self.check_width(where, width)
                    self._check_rules(where)
        self.checked += 1

    def depict(self, name: str, scheme: str, height: int) -> None:
        """The upper part of the page, as a picture for docs/."""
        with self.looks(1000, scheme):
            clip = {"x": 0, "y": 0, "width": 1000, "height": height, "scale": 1.25}
            picture = self.driver.execute_cdp_cmd(
                "Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip}
            )
            self._write(f"{name}.png", picture["data"])

    def _whole(self) -> dict[str, Any]:
        size = self.driver.execute_script(
            "return [innerWidth, document.documentElement.scrollHeight]"
        )
        return {"clip": {"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1}}

    def _write(self, name: str, data: str) -> None:
        (self._work / name).write_bytes(base64.b64decode(data))

    def check_width(self, where: str, width: int) -> None:
        """Nothing has to be scrolled sideways."""
        wide = self.driver.execute_script("return document.documentElement.scrollWidth")
        assert wide <= width, f"{where}: {wide} pixels wide"

    def _check_rules(self, where: str) -> None:
        self.driver.execute_script(self._axe)
        found = self.driver.execute_async_script(
            "const done = arguments[arguments.length - 1];"
            "axe.run(document, {runOnly: arguments[0]}).then(r => done(r.violations.map("
            "v => [v.id, v.help, v.nodes.map(n => n.html)])), e => done([String(e)]));",
            RULES,
        )
        assert not found, f"{where}: {json.dumps(found, indent=1)}"

    def check_quiet(self) -> None:
        """Nothing was logged, and no request went elsewhere."""
        logged = [entry["message"] for entry in self.driver.get_log("browser")]
        assert not logged, logged
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                url = message["params"]["request"]["url"]
                own = url.replace("//demo:", "//").startswith((self.origin, "data:", "about:"))
                own = own or urllib.parse.urlsplit(url).netloc.endswith(self.origin[7:])
                assert own, f"a request went to {url}"


def keyboard(browser: Browser) -> None:
    """The search is reached and used by keyboard alone."""
    browser.open("/")
    body = browser.driver.find_element(By.TAG_NAME, "body")
    for _ in range(10):
        body.send_keys(Keys.TAB)
        if browser.driver.switch_to.active_element.get_attribute("type") == "search":
            break
    browser.driver.switch_to.active_element.send_keys(ANSWERS, Keys.ENTER)
    browser.shows(f"Account {ANSWERS}")
    assert browser.path == f"/accounts/{ANSWERS}", browser.path


def past(browser: Browser) -> None:
    """Every page about the calls of the demo."""
    browser.check("account")
    browser.driver.find_element(By.CSS_SELECTOR, "#calls-now td a[href^='/calls/']").click()
    browser.shows("The phone was woken")
    browser.check("call")
    key = browser.path.rpartition("/")[2]
    browser.open(f"/?q={key}")
    assert browser.path == f"/calls/{key}", browser.path
    browser.open("/calls?outcome=timeout")
    browser.shows(SILENT)
    browser.check("calls")
    browser.driver.find_element(By.CSS_SELECTOR, "td a[href^='/calls/']").click()
    browser.shows("did not answer within")
    browser.check("call-timeout")
    browser.depict("console-call", "dark", 645)
    browser.open("/calls?q=nothing-of-the-kind")
    browser.shows("No kept call matches")
    browser.check("nothing")
    browser.open("/apps")
    browser.shows("com.example.ios (apns)")
    browser.check("apps")
    browser.check_quiet()


def follow(browser: Browser, demo: Demo, api: str) -> None:
    """A held call, from its push to its answer, while its page is open."""
    credentials = f"{ACCOUNT}:secret"
    fields = {"sip_user_id": ACCOUNT, "token": "my-phone", "app": "com.example.relay"}
    post(f"{api}/api/gcm-device/", credentials, **fields)
    browser.open("/")
    browser.shows("No call waits")
    outcome: list[str] = []

    def place() -> None:
        call = {"sip_user_id": ACCOUNT, "phonenumber": "+31201234567", "caller_id": HOSTILE_TEXT}
        outcome.append(post(f"{api}/api/incoming-call/", **call))

    calling = threading.Thread(target=place)
    calling.start()
    browser.shows(ACCOUNT)  # without loading the page again
    browser.check("overview-held")
    browser.depict("console-overview", "light", 885)
    browser.check_quiet()
    browser.driver.find_element(By.CSS_SELECTOR, "#held td a[href^='/calls/']").click()
    browser.shows("waiting")
    browser.shows("accepted")
    browser.check("held-call")
    pushed = demo.printed(r"unique_key=(\S+) -d message_start_time=(\S+)")
    assert browser.path == f"/calls/{pushed[1]}", browser.path
    post(f"{api}/api/call-response/", unique_key=pushed[1], message_start_time=pushed[2])
    browser.shows("took the call")
    calling.join()
    assert outcome == ["status=ACK"], outcome
    browser.check_quiet()


def operate(browser: Browser) -> None:
    """A test call with its steps, and the removal of a device."""
    browser.open(f"/accounts/{ANSWERS}")
    browser.press("Test call")
    browser.shows("waiting")
    browser.shows("The phone was woken and took the call")
    browser.shows("anonymous")
    browser.open(f"/accounts/{ANSWERS}")
    browser.driver.find_element(By.XPATH, "//summary[.='Remove the device']").click()
    browser.press("Remove this device")
    browser.shows("No phone is registered for this account")
    browser.shows("operator")
    browser.check("account-removed")
    browser.check_quiet()


def hostile(browser: Browser, api: str) -> None:
    """Texts with markup and marks of direction are shown as they are."""
    fields = {
        "sip_user_id": HOSTILE,
        "token": "hostile-phone",
        "app": "com.example.relay",
        "name": HOSTILE_TEXT,
    }
    post(f"{api}/api/gcm-device/", f"{HOSTILE}:secret", **fields)
    browser.open(f"/accounts/{HOSTILE}")
    browser.shows("<b onclick=x>\\u202e\\u2066 evil 'name'")
    browser.check("hostile")
    browser.check_quiet()


def long_texts(browser: Browser) -> None:
    """No name, number or app id makes a page wider than the window."""
    for path in ("/", "/calls", "/apps", f"/accounts/{SILENT}", f"/accounts/{HOSTILE}"):
        browser.open(path)
        for width in (375, 1280):
            with browser.looks(width, "light"):
                browser.driver.execute_script(LENGTHEN)
                browser.check_width(f"{path} with long texts", width)


def main(work: Path, axe: Path) -> None:
    demo = Demo()
    try:
        printed = demo.printed(r"the console +(http://\S+)/\n +user (\S+), password (\S+)\n")
        demo.printed("Ctrl-C ends it")
        api = demo.printed(r"curl (http://\S+)/health/")[1]
        browser = Browser(printed[1], printed[2], printed[3], axe.read_text(), work)
        try:
            browser.shows("Why didn't the phone ring?")
            browser.shows("Outcomes by app")
            browser.check("overview")
            browser.check_quiet()
            keyboard(browser)
            past(browser)
            follow(browser, demo, api)
            hostile(browser, api)
            operate(browser)
            long_texts(browser)
        finally:
            browser.driver.quit()
    finally:
        demo.stop()
    sys.stdout.write(f"{browser.checked} pages, each at 2 widths in 2 modes: {work}\n")


if __name__ == "__main__":
    os.environ.setdefault("SE_OFFLINE", "true")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
