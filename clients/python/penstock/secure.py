"""A client of a training with secure aggregation: its update is seen by nobody."""

import contextlib
import glob
import hashlib
import json
import os
import time

import numpy as np
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from . import avro, secagg
from .federated import Training, read_model


class SecureTraining(Training):
    """A client's part in a training that runs with --secure.

    keys is a folder as penstock federated keys makes it, with NAME.key and the .pub of
    the aggregator and of all clients. In keys/state the client keeps, before it sends
    anything, what it takes to send the same again: started anew it goes on from there.
    Take that folder along where the client moves to, and leave no copy that runs.
    The other arguments are those of Training.
    """

    def __init__(self, training, name, keys, broker="embedded:./penstock-data", registry=None, note=None, **options):
        super().__init__(training, name, broker, registry, **options)
        self._training, self._note = training, note or (lambda text: None)
        with open(os.path.join(keys, name + ".key"), "rb") as f:
            self._private = load_pem_private_key(f.read(), None)
        self._trusted = {}
        for file in glob.glob(os.path.join(glob.escape(keys), "*.pub")):
            with open(file, "rb") as f:
                self._trusted[os.path.basename(file)[: -len(".pub")]] = load_pem_public_key(f.read())
        self._server = self._trusted["aggregator"]
        self._trusted = {who: key.public_bytes_raw() for who, key in self._trusted.items() if hasattr(key, "public_bytes_raw")}
        self._state = os.path.join(keys, "state", name.encode().hex() + ".python")
        os.makedirs(os.path.dirname(self._state), mode=0o700, exist_ok=True)
        self._client, self._queue = None, []
        self._at = {}  # how far topics have been read

    def run(self, train):
        """Takes part until the training ends, and returns the final model. train is that
        of Training.run; what it returns beyond the number of examples is not sent."""
        self._catch_up()
        while True:
            while not self._queue:
                self._read("control", 30)
            m = self._queue.pop(0)
            if m.stage == "closed":
                return self._final(m)
            if m.stage != "open" and any(later.stage == "open" for later in self._queue):
                continue  # the attempt is over
            try:
                out = self._answer(m, train)
            except secagg.Refused as e:
                self._note(f"refused: {e}")
                if isinstance(e, secagg.SitOut):
                    self._client = None  # until the next attempt
                continue
            for answer in out:
                self._send(answer)

    def _catch_up(self):
        """Reads all of the server's records, and keeps those of the newest attempt."""
        while self._read("control", 0):
            pass
        opens = [i for i, m in enumerate(self._queue) if m.stage == "open"]
        if opens and self._queue[-1].stage != "closed":
            del self._queue[: opens[-1]]

    def _answer(self, m, train):
        if m.stage == "open":
            self._client = None
            self._client = secagg.Client(self.name, self._private, self._server, self._trusted, m, self._load())
            self._opening, out = m, [self._client.hello()]
        elif self._client is None or (m.round, m.attempt) != (self._opening.round, self._opening.attempt):
            return []
        elif m.stage == "abort":
            m.check(self._server, "the server's key")
            self._note(f"round {m.round}, attempt {m.attempt} was given up: {m.payload.decode(errors='replace')[:200]}")
            self._client = None
            return []
        else:
            out = self._client.receive(m)
            if m.stage == "shared":
                out = self._mask(train)
        self._save(self._client.state)
        if any(later.stage == "open" or later.stage > "" and secagg.STAGES.index(later.stage) > secagg.STAGES.index(m.stage) for later in self._queue):
            return []  # the list that the answer is for is on the log already
        if m.stage == "shared":
            self._claim(out)
        return out

    def _mask(self, train):
        client = self._client
        while client.missing():
            for m in self._read("shares", 30):
                if m.sender == self.name or m.after != client._roster.hash():
                    continue  # its own, or of another attempt
                try:
                    client.take(m)
                except secagg.Refused as e:
                    self._note(f"refused: {e}")
        if client.masked():
            return client.mask(None, 0)
        if any(later.stage in ("survived", "open") for later in self._queue):
            return []  # the list of vectors is there, without this client
        model = self._base()
        parameters, samples = train(model)[:2]
        moved = [np.asarray(parameters[name], "<f4") - array for name, array in model.parameters.items()]
        if any(a.shape != b.shape for a, b in zip(moved, model.parameters.values(), strict=True)):
            raise ValueError("expected parameters of the model's shapes")
        return client.mask(np.concatenate([a.reshape(-1) for a in moved]), min(int(samples), client.settings.max_weight))

    def _base(self):
        """The model that the attempt starts from."""
        m = self._newest()
        if m is None or (m.round, m.hash) != (self._opening.round, self._opening.base):
            raise secagg.SitOut("wrong-round: open: the last model is not its base")
        return m

    def _final(self, m):
        m.check(self._server, "the server's key")
        model = self._newest()
        if model is None or model.hash != m.base:
            raise secagg.Refused("wrong-round: closed: the last model is not the one it names")
        return model

    def _newest(self):
        found = self._persist(lambda: self._broker.newest(self.models_topic, None, 5))
        return None if found is None else read_model(self._persist(lambda: self._decode(found[1])))

    def _claim(self, parts):
        """Sees that of an attempt one vector is sent, also where two copies of the client
        are at work: the first to claim may."""
        ours = hashlib.sha256(b"".join(m.payload for m in parts)).hexdigest()
        name = f"{self._state}.{self._opening.hash()[:8].hex()}.sent"
        draft = f"{name}.{os.urandom(8).hex()}"
        _write(draft, ours.encode())
        with contextlib.suppress(FileExistsError):
            os.link(draft, name)
        os.remove(draft)
        with open(name, encoding="utf-8") as f:
            if f.read() != ours:
                raise secagg.SitOut("not-ours: masked: another copy of this client has sent a vector of its own")

    def _load(self):
        try:
            with open(self._state, encoding="utf-8") as f:
                return {k: bytes.fromhex(v) for k, v in json.load(f).items()}
        except FileNotFoundError:
            return None

    def _save(self, state):
        _write(self._state, json.dumps({k: v.hex() for k, v in state.items()}).encode())

    def _read(self, what, wait):
        """Reads on in a topic of the training; records of the server queue up."""
        topic = f"{self._training}.{what}"
        found = self._persist(lambda: self._broker.read(topic, self._at.get(topic), wait))
        out = []
        for position, value in found:
            self._at[topic] = position
            try:
                v = self._persist(lambda value=value: self._decode(value))
                m = secagg.Message(**{k: v[k] for k in secagg.Message.__dataclass_fields__})
                if what == "control":
                    if m.training != self._training or m.sender:
                        raise secagg.Refused(f"wrong-round: {m.stage}: of another training, or no record of the server")
                    m.check(self._server, "the server's key")
            except (secagg.Refused, ValueError, KeyError, TypeError) as e:
                self._note(f"passed over a record of {topic!r}: {e}")
                continue
            out.append(m)
        if what == "control":
            self._queue += out
        return found if what == "control" else out

    def _send(self, m):
        topic = f"{self._training}.{m.stage}"
        number, schema = self._persist(lambda: self._schema(topic))
        payload = b"\0" + number.to_bytes(4, "big") + avro.encode(schema, vars(m))
        self._persist(lambda: self._broker.publish(topic, f"{m.round}/{m.attempt}/{m.sender}".encode(), payload))


def _write(name, data):
    """Writes a file that is there whole, and durable, or not at all."""
    fresh = f"{name}.{os.urandom(8).hex()}.new"
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    os.replace(fresh, name)
    folder = os.open(os.path.dirname(name), os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
