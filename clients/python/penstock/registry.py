"""A client of the schema registry: what a training asks of it."""

import json
import urllib.error
import urllib.parse
import urllib.request


class Registry:
    """Schemas of the registry at a URL; credentials may stand in it."""

    def __init__(self, url, timeout=10):
        parts = urllib.parse.urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        self.url = urllib.parse.urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))
        self.timeout = timeout
        opener = urllib.request.build_opener()
        if parts.username is not None:
            passwords = urllib.request.HTTPPasswordMgrWithPriorAuth()
            secret = urllib.parse.unquote(parts.password or "")
            passwords.add_password(None, self.url, urllib.parse.unquote(parts.username), secret, is_authenticated=True)
            opener.add_handler(urllib.request.HTTPBasicAuthHandler(passwords))
        self._opener = opener
        self._by_id = {}

    def schema(self, number):
        """The schema of an id."""
        if number not in self._by_id:
            self._by_id[number] = json.loads(self._get(f"/schemas/ids/{number}")["schema"])
        return self._by_id[number]

    def latest(self, subject):
        """The id and the newest schema of a subject, or None if there is none."""
        try:
            answer = self._get(f"/subjects/{urllib.parse.quote(subject, safe='')}/versions/latest")
        except urllib.error.HTTPError as e:
            if e.code == 404:
                return None
            raise
        return answer["id"], json.loads(answer["schema"])

    def _get(self, path):
        with self._opener.open(self.url + path, timeout=self.timeout) as answer:
            return json.load(answer)
