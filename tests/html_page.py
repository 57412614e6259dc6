"""What an HTML page refers to, and whether its tags close."""

from html.parser import HTMLParser

VOID = ("img", "meta")


class Page(HTMLParser):
    """Collect what a page refers to, and check that its tags close in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.sources, self.links, self.ids, self.text, self.alts = [], [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        assert tag not in ("link", "iframe")
        assert tag != "script" or "src" not in attributes
        self.sources += [attributes[k] for k in ("src", "srcset", "poster") if k in attributes]
        self.links += [attributes["href"]] if "href" in attributes else []
        self.alts += [attributes["alt"]] if tag == "img" else []
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
