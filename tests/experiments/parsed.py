"""A page as a test reads it."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """Collects tables by id, tags, ids and addresses."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.tags, self.ids, self.addresses = {}, [], [], []
        self._table, self._cell = None, False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append(tag)
        if "id" in found:
            self.ids.append(found["id"])
        self.addresses += [found[key] for key in ("src", "href", "xlink:href") if key in found]
        if tag == "table":
            self._table = self.tables.setdefault(found["id"], [])
        elif tag == "tr" and self._table is not None:
            self._table.append([])
        elif tag in ("td", "th"):
            self._table[-1].append("")
            self._cell = True

    def handle_endtag(self, tag):
        self._cell = self._cell and tag not in ("td", "th")
        if tag == "table":
            self._table = None

    def handle_data(self, data):
        if self._cell:
            self._table[-1][-1] += data.replace("\N{NO-BREAK SPACE}", " ")
