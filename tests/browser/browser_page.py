"""A page of the package in a tab of a browser."""


class Page:
    """A report in a tab, with everything it asked for and complained of."""

    def __init__(self, browser, report, width: int = 1200):
        self.tab = browser.new_page(viewport={"width": width, "height": 900})
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.on("console", lambda message: self.complaints.append(message.text))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))
        self.tab.goto(report.as_uri())
        count = "document.querySelectorAll('{}').length"
        drawn = f"{count.format('.plot')} === {count.format('.plot .main-svg .bglayer')}"
        self.tab.wait_for_function(drawn, timeout=60_000)

    def count(self, selector: str) -> int:
        return self.tab.locator(selector).count()
