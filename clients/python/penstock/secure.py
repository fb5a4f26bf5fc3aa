"""A client of a training with secure aggregation: its update is seen by nobody."""

import contextlib
import glob
import hashlib
import json
import os
import struct
import urllib.error

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from . import secagg
from .federated import Training
from .files import write


class SecureTraining(Training):
    """A client's part in a training that runs with --secure.

    keys is a folder as penstock federated keys makes it, with NAME.key and the .pub of
    the aggregator and of all clients. In keys/state the client keeps, before it sends
    anything, what it takes to send the same again: started anew it goes on from there.
    Take that folder along where the client moves to, and leave no copy that runs.
    The other arguments are those of Training.
    """

    def __init__(self, training, name, keys, broker="embedded:./penstock-data", registry=None, note=None, **options):
        if options.get("privacy") is not None:
            raise ValueError("expected no privacy of the client's own: that of the training comes with its rounds")
        super().__init__(training, name, broker, registry, **options)
        self._training, self._note = training, note or (lambda text: None)
        self._private = _key(os.path.join(keys, name + ".key"), lambda pem: load_pem_private_key(pem, None), Ed25519PrivateKey)
        self._server = _key(os.path.join(keys, "aggregator.pub"), load_pem_public_key, Ed25519PublicKey)
        self._trusted = {}
        for file in glob.glob(os.path.join(glob.escape(keys), "*.pub")):
            public = _key(file, load_pem_public_key, Ed25519PublicKey)
            self._trusted[os.path.basename(file)[: -len(".pub")]] = public.public_bytes_raw()
        self._state = os.path.join(keys, "state", name.encode().hex() + ".python")
        os.makedirs(os.path.dirname(self._state), mode=0o700, exist_ok=True)
        self._client, self._opening, self._model = None, None, None
        self._queues, self._at = {"control": [], "shares": []}, {}  # what was read, and how far

    def run(self, train):
        """Takes part until the training ends, and returns the final model. train is that
        of Training.run; what it returns beyond the number of examples is not sent."""
        queue = self._queues["control"]
        while self._read("control", 0):
            pass
        # What was answered long ago is not answered again.
        if queue and queue[-1].stage == "closed":
            del queue[:-1]
        while True:
            m = self._pop("control")
            if m.stage == "closed":
                return self._base(m)
            if any(later.stage == "open" for later in queue):
                continue  # of an attempt that is over
            try:
                out = self._answer(m, train)
            except secagg.Refused as e:
                self._note(f"refused: {e}")
                if isinstance(e, secagg.SitOut):
                    self._client = None  # until the next attempt
                continue
            for answer in out:
                topic = f"{self._training}.{answer.stage}"
                payload = self._encode(topic, vars(answer))
                key = f"{answer.round}/{answer.attempt}/{answer.sender}".encode()
                self._persist(lambda topic=topic, key=key, payload=payload: self._broker.publish(topic, key, payload))

    def _answer(self, m, train):
        if m.stage == "open":
            self._client = None
            self._client = secagg.Client(self.name, self._private, self._server, self._trusted, m, self._load())
            self._opening, out = m, [self._client.hello()]
            s = self._client.settings
            if s.sigma:
                self._note(f"round {m.round}: the update is clipped to {s.clip:.4g} and gets noise of {s.sigma / s.scale():.4g}")
        elif self._client is None or (m.round, m.attempt) != (self._opening.round, self._opening.attempt):
            return []
        elif m.stage == "abort":
            self._note(f"round {m.round}, attempt {m.attempt} was given up: {m.payload.decode(errors='replace')[:200]}")
            self._client = None
            return []
        else:
            out = self._client.receive(m)
            if m.stage == "shared":
                out = self._mask(train)
        self._save(self._client.state)
        if self._queues["control"]:
            return []  # the list that the answer is for is on the log already
        if m.stage == "shared":
            self._claim(out)
        return out

    def _mask(self, train):
        client = self._client
        while client.missing():
            m = self._pop("shares")
            if m.sender == self.name or m.after != client.roster():
                continue  # its own, or of another attempt
            try:
                client.take(m)
            except secagg.Refused as e:
                self._note(f"refused: {e}")
        if client.masked():
            return client.mask(None, 0)
        if self._queues["control"]:
            return []  # the list of vectors is there, without this client
        model = self._base(self._opening)
        if model.privacy is not None and not client.settings.keeps(model.privacy):
            raise secagg.SitOut(f"bad-settings: open: expected the noise that the model bills, {model.privacy}, found {client.settings}")
        parameters, samples = train(model)[:2]
        moved = [np.asarray(parameters[name], "<f4") - array for name, array in model.parameters.items()]
        if any(a.shape != b.shape for a, b in zip(moved, model.parameters.values(), strict=True)):
            raise ValueError("expected parameters of the model's shapes")
        return client.mask(np.concatenate([a.reshape(-1) for a in moved]), min(int(samples), client.settings.max_weight))

    def _base(self, m):
        """The model that a record names."""
        while self._model is None or self._model.hash != m.base:
            newer = self.receive(wait=10)
            if newer is None:
                raise secagg.SitOut(f"wrong-round: {m.stage}: the last model is not the one that it names")
            self._model = newer
        return self._model

    def _claim(self, parts):
        """Sees that of an attempt one vector is sent, also where two copies of the client
        are at work: the first to claim may."""
        ours = hashlib.sha256(b"".join(m.payload for m in parts)).hexdigest()
        name = f"{self._state}.{self._opening.hash()[:8].hex()}.sent"
        draft = f"{name}.{os.urandom(8).hex()}"
        write(draft, ours.encode())
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
        write(self._state, json.dumps({k: v.hex() for k, v in state.items()}).encode())

    def _pop(self, what):
        """The next message of a topic of the training, when there is one."""
        while not self._queues[what]:
            self._read(what, 30)
        return self._queues[what].pop(0)

    def _read(self, what, wait):
        """Reads on in a topic, and says whether there was anything. Records that are no
        messages are passed over, and so are those in control that the server did not
        sign."""
        topic = f"{self._training}.{what}"
        found = self._persist(lambda: self._broker.read(topic, self._at.get(topic), wait))
        for position, value in found:
            self._at[topic] = position
            try:
                v = self._persist(lambda value=value: self._decode(value))
                m = secagg.Message(**{k: v[k] for k in secagg.Message.__dataclass_fields__})
                m.hash()
                if m.training != self._training or (m.sender == "") != (what == "control"):
                    raise secagg.Refused(f"wrong-round: {m.stage}: of another training, or of the wrong sender")
                if what == "control":
                    m.check(self._server, "the server's key")
            except (secagg.Refused, ValueError, KeyError, TypeError, AttributeError, struct.error, urllib.error.HTTPError) as e:
                self._note(f"passed over record {position} of {topic!r}: {e!r}")
                continue
            self._queues[what].append(m)
        return bool(found)


def _key(file, load, kind):
    with open(file, "rb") as f:
        key = load(f.read())
    if not isinstance(key, kind):
        raise ValueError(f"{file}: expected a key of Ed25519, found {type(key).__name__}")
    return key
