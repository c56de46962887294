"""What many rows have in common is kept once."""

import json


class Shared:
    """Values kept once: put() gives a value's place in `values`."""

    def __init__(self):
        self.values, self._places = [], {}

    def put(self, value) -> int:
        key = json.dumps(value)
        if key not in self._places:
            self._places[key] = len(self.values)
            self.values.append(value)
        return self._places[key]
