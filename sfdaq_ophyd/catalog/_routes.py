"""Which run a document belongs to."""

from __future__ import annotations


class Routes:
    """Follow documents of any number of open, interleaved runs and name the run of each.

    References of a run are forgotten at its stop document.
    """

    def __init__(self):
        self._parents: dict[str, str] = {}  # uid of a descriptor or resource -> uid of its run
        self._children: dict[str, list[str]] = {}

    def run_of(self, name: str, doc: dict) -> str:
        """Return the uid of the run; KeyError if the document refers to nothing seen before."""
        if name == "start":
            self._children[doc["uid"]] = []
            return doc["uid"]
        if name == "stop":
            for child in self._children.pop(doc["run_start"]):
                del self._parents[child]
            return doc["run_start"]
        if name in ("descriptor", "resource", "stream_resource"):
            run = doc["run_start"]
            self._children[run].append(doc["uid"])
            self._parents[doc["uid"]] = run
            return run
        return self._parents[doc["resource"] if name in ("datum", "datum_page") else doc["descriptor"]]
