"""A browser window for tests, and an accessibility audit of what it shows (axe-core, as a package ships it).

Screenshots go to $IDGRPO_SCREENSHOTS if it is set.
"""

import os
import shutil
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
ARGUMENTS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
             "--disable-sync", "--disable-dev-shm-usage")  # fmt: skip
SERIOUS = ("serious", "critical")


class Page:
    """A browser window on a page, used by keyboard.

    `zoom` 2 is what a browser shows at 200 %: half as many CSS pixels, each twice as large.
    """

    def __init__(self, width: int = 1280, height: int = 800, dark: bool = False, zoom: int = 1):
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for argument in ARGUMENTS:
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        size = {"width": width // zoom, "height": height // zoom, "deviceScaleFactor": zoom, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        if dark:
            features = [{"name": "prefers-color-scheme", "value": "dark"}]
            self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def ask(self, script: str):
        return self.driver.execute_script(f"return {script}")

    def wait(self, script: str, timeout_s: float = 60) -> None:
        end = time.monotonic() + timeout_s
        while not self.ask(script):
            assert time.monotonic() < end, f"never came true: {script}{self.state()}"
            time.sleep(0.05)

    def state(self) -> str:
        """Say what a failed wait is explained by; pages have their own."""
        return ""

    def press(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        chain = ActionChains(self.driver)
        for key in keys:
            chain.send_keys(key)
        chain.perform()

    def offline(self, on: bool) -> None:
        condition = {"offline": on, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        self.driver.execute_cdp_cmd("Network.enable", {})
        self.driver.execute_cdp_cmd("Network.emulateNetworkConditions", condition)

    def shot(self, name: str) -> None:
        folder = os.environ.get("IDGRPO_SCREENSHOTS")
        if folder:
            self.driver.save_screenshot(str(Path(folder) / f"{name}.png"))

    def audit(self) -> list[str]:
        """Give the serious and critical violations that axe-core finds on what is shown now: rule, place, and why."""
        self.driver.execute_script(files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
        found: dict[str, Any] = self.driver.execute_async_script(
            "const done = arguments[arguments.length - 1];"
            "axe.run(document, {resultTypes: ['violations']}).then(done, (e) => done({violations: [{impact: 'critical', id: String(e), nodes: []}]}));"
        )
        return [
            f"{rule['id']}: {' '.join(node['target'][0] for node in rule['nodes'][:3])}: "
            f"{rule['nodes'][0]['failureSummary'] if rule['nodes'] else ''}"
            for rule in found["violations"]
            if rule["impact"] in SERIOUS or rule["id"] in ("heading-order", "landmark-one-main", "page-has-heading-one")
        ]

    @property
    def errors(self) -> list[str]:
        """Give what the page's script complained about."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
