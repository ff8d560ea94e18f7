"""A real browser for tests: chromedriver's WebDriver protocol in a few lines, so that no package is needed for it."""
import base64
import json
import shutil
import subprocess
import urllib.error
import urllib.request

FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]


def missing() -> str:
    """Why there is no browser to test with, or ""."""
    absent = [name for name in ("chromium", "chromedriver") if not shutil.which(name)]
    return f"{' and '.join(absent)} not found: apt-get install chromium chromium-driver" if absent else ""


class Browser:
    """A headless chromium. `logs` gives what it wrote to the console and which addresses it asked for."""

    def __init__(self, width: int = 1280, height: int = 900, scale: float = 1.0):
        self.driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE,
                                       stderr=subprocess.DEVNULL, text=True)
        line = next(line for line in self.driver.stdout if "started successfully on port" in line)
        port = line.strip().rstrip(".").split()[-1]
        self.address = f"http://127.0.0.1:{port}"
        options = {"args": [*FLAGS, f"--window-size={width},{height}"]}
        if width < 500:  # a window cannot be so narrow, a phone can
            options["mobileEmulation"] = {"deviceMetrics": {"width": width, "height": height, "pixelRatio": scale}}
        capabilities = {"browserName": "chrome", "goog:chromeOptions": options,
                        "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        try:
            self.session = self.ask("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})["sessionId"]
        except BaseException:
            self.driver.kill()
            raise

    def ask(self, method: str, path: str, data: dict | None = None):
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(self.address + path, body, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=120) as reply:
                return json.load(reply)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from None

    def open(self, address: str) -> None:
        self.ask("POST", f"/session/{self.session}/url", {"url": address})

    def js(self, script: str, *arguments):
        """What the script returns; a promise is waited for."""
        data = {"script": script, "args": list(arguments)}
        return self.ask("POST", f"/session/{self.session}/execute/sync", data)

    def until(self, condition: str):
        """Waits for a JavaScript expression to become true; its value."""
        return self.js("return new Promise((done, fail) => { const end = Date.now() + 60000;"
                       " const look = () => { let v;"
                       f" try {{ v = {condition}; }} catch (e) {{ v = false; }} if (v) done(v);"
                       " else if (Date.now() > end) fail(new Error('never true: ' + " + json.dumps(condition) + "));"
                       " else setTimeout(look, 20); }; look(); })")

    def name(self, element) -> str:
        """What a screen reader is told an element (as `js` returns it) is called."""
        (id,) = element.values()
        return self.ask("GET", f"/session/{self.session}/element/{id}/computedlabel")

    def press(self, key: str) -> None:
        actions = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        self.ask("POST", f"/session/{self.session}/actions",
                 {"actions": [{"type": "key", "id": "k", "actions": actions}]})

    def logs(self) -> tuple[list[str], list[str]]:
        """(console messages, addresses that were asked for), since the last call."""
        def read(kind: str) -> list[dict]:
            return self.ask("POST", f"/session/{self.session}/se/log", {"type": kind})
        events = [json.loads(entry["message"])["message"] for entry in read("performance")]
        asked = [event["params"]["request"]["url"] for event in events
                 if event["method"] == "Network.requestWillBeSent"]
        return [entry["message"] for entry in read("browser")], asked

    def screenshot(self, path) -> None:
        with open(path, "wb") as file:
            file.write(base64.b64decode(self.ask("GET", f"/session/{self.session}/screenshot")))

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *exception) -> None:
        try:
            self.ask("DELETE", f"/session/{self.session}")
        finally:
            self.driver.kill()
            self.driver.wait()
