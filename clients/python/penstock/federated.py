"""A client of federated trainings: the messages, and the way of a client through
the rounds."""

import hashlib
import json
import os
import struct
import time
import urllib.error
import zlib
from dataclasses import dataclass, field

import numpy as np

from . import avro, pieces, trust
from .broker import BrokerError, embedded, open_broker
from .compress import Compression
from .registry import Registry

_MAGIC = b"\0"  # before the four bytes of a schema's id


class Refused(Exception):
    """The training does not want what this client has to offer."""


@dataclass(frozen=True)
class Model:
    """A global model. The arrays are read-only."""

    round: int
    rounds: int
    hash: bytes
    clients: list
    strategy: str
    parameters: dict = field(repr=False)
    sample: list = field(default_factory=list)  # who is asked, where that is not everybody
    deadline: int = 0  # of the round, in Unix milliseconds; 0 is none
    privacy: dict = None  # what the round promises, as the model's schema has it; None is nothing
    enrolled: bool = False  # whether clients are those on the training's roster, by their keys

    @property
    def asked(self):
        """The clients that are asked for an update."""
        return self.sample or self.clients

    @property
    def final(self):
        """Whether it is the result: no round starts from it."""
        return self.round >= self.rounds


@dataclass(frozen=True)
class Update:
    """What a client made of a model."""

    client: str
    round: int
    base: bytes
    samples: int
    parameters: dict = field(repr=False)
    loss: float = 0.0
    steps: int = 0

    def value(self):
        """The update as its schema has it."""
        return {
            "client": self.client,
            "round": self.round,
            "base": self.base,
            "samples": self.samples,
            "loss": float(self.loss),
            "steps": self.steps,
            "parameters": [_tensor(name, a) for name, a in self.parameters.items()],
        }


def hash_of(parameters):
    """The SHA-256 by which a model is known."""
    h = hashlib.sha256()
    for name, array in parameters.items():
        a = _float32(name, array)
        for text in (name.encode(), b"float32"):
            h.update(struct.pack("<Q", len(text)) + text)
        h.update(struct.pack(f"<{1 + a.ndim}Q", a.ndim, *a.shape))
        h.update(a.tobytes())
    return h.digest()


def _float32(name, array):
    a = np.asarray(array)
    if a.dtype.kind not in "fiub":
        raise TypeError(f"parameter {name!r}: expected an array of numbers, found {a.dtype}")
    return np.ascontiguousarray(a, "<f4").reshape(a.shape)  # which makes a scalar a row


def _tensor(name, array):
    a = _float32(name, array)
    if not np.isfinite(a).all():
        raise ValueError(f"parameter {name!r}: expected finite numbers of 32 bits, found {a[~np.isfinite(a)][0]}")
    data = a.tobytes()
    return {"name": name, "dtype": "float32", "shape": list(a.shape), "data": data, "crc": zlib.crc32(data)}


def read_tensors(values):
    """The arrays of a message by name; ValueError says what is wrong with one."""
    out = {}
    for i, t in enumerate(values):
        shape, data = t["shape"], t["data"]
        elements = 1
        for n in shape:
            elements *= n
        if t["dtype"] != "float32" or min(shape, default=0) < 0 or len(data) != 4 * elements:
            raise ValueError(f"at /parameters/{i}: expected float32 of shape {shape}, found {t['dtype']} of {len(data)} bytes")
        if zlib.crc32(data) != t["crc"]:
            raise ValueError(f"at /parameters/{i}: expected data with CRC-32 {t['crc']}, found {zlib.crc32(data)}: it was damaged on the way")
        out[t["name"]] = np.frombuffer(data, "<f4").reshape(shape)
    return out


def read_model(value):
    """A Model of the decoded value of a record; ValueError says what is wrong."""
    m = Model(
        round=value["round"],
        rounds=value["rounds"],
        hash=value["hash"],
        clients=value["clients"],
        strategy=value["strategy"],
        parameters=read_tensors(value["parameters"]),
        sample=value.get("sample", []),
        deadline=value.get("deadline", 0),
        privacy=value.get("privacy"),
        enrolled=value.get("trust") is not None,
    )
    if hash_of(m.parameters) != m.hash:
        raise ValueError(f"expected parameters with hash {m.hash.hex()[:32]}, found {hash_of(m.parameters).hex()[:32]}")
    return m


class Training:
    """A client's part in a training.

    name is how the training expects this client. broker is embedded:DIR (the folder
    of penstock up), nats://HOST:PORT or kafka://HOST:PORT; registry is a URL, by default
    that which serves the embedded folder, else that of PENSTOCK_REGISTRY, or
    http://127.0.0.1:8081. options go to the broker's library, for TLS and
    passwords.

    keep is a folder in which the last update is written before it is sent: a client
    that is killed and started again then sends those very bytes, where it would
    train anew and, its training being random, say something else. Without it an
    update lives as long as the Training, and is sent again as it is while it does.

    piece is how many bytes of numbers a record has: updates that have more are sent in
    several.

    compress is fp16, int8 or top:SHARE: updates then say differences from the model,
    in fewer bytes; what is left out is made up for by later ones.

    key is the file of the private key with which updates are signed, where the
    training asks for that; it needs cryptography.

    privacy is a LocalPrivacy, which clips updates and adds noise to them; they then say
    neither how many examples they are of nor their loss.

    The methods block, and try again for as long as the broker or the registry
    cannot be reached; give_up (seconds) bounds that, and the error is then the last
    one seen.
    """

    def __init__(self, training, name, broker="embedded:./penstock-data", registry=None, keep=None, give_up=None, compress=None, key=None, piece=pieces.SIZE, privacy=None, **options):
        self.name = name
        self.models_topic, self.updates_topic = training + ".models", training + ".updates"
        self.refusals_topic = f"{self.updates_topic}.{training}.aggregator.dlq"
        self._broker = open_broker(broker, **options)
        self._folder = broker.removeprefix("embedded:") if broker.startswith("embedded:") else None
        if registry is None and self._folder is None:
            registry = os.environ.get("PENSTOCK_REGISTRY", "http://127.0.0.1:8081")
        self._registry_url, self._registry = registry, None
        self._keep = None if keep is None else os.path.join(keep, f"{training}.{name}.update".replace(os.sep, "_"))
        self._give_up = give_up
        self._compression = Compression(compress) if compress else None
        self._key = trust.Key(key) if key else None
        self._piece = piece
        self._privacy = privacy
        self._position = None
        self._sent = None  # the round, the base and the records of the last update
        self._done = None  # the model whose answer is durable

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self._broker.close()

    def models(self):
        """Yields each model in turn, of several the newest, and last the final one."""
        while True:
            model = self.receive()
            yield model
            if model.final:
                return

    def receive(self, wait=None):
        """The newest model that was not received yet; None if none came within wait seconds."""
        end = None if wait is None else time.monotonic() + wait
        while end is None or time.monotonic() < end:
            some = 30 if end is None else max(0.0, end - time.monotonic())
            found = self._persist(lambda: self._broker.newest(self.models_topic, self._position, some))
            if found is None:
                continue
            first, (self._position, value, _) = self._position is None, found
            value = self._persist(lambda: self._decode(value))
            piece = value.get("piece")
            if piece is not None and (first or piece["index"] == piece["count"] - 1):
                value = self._persist(lambda: self._join(piece))
            elif piece is not None:
                value = None  # the rest is to come
            if value is not None:
                return read_model(value)
        return None

    def _join(self, piece):
        """The value of the newest model up to the position, whose record has a piece; None
        if there is none that is whole."""
        back = 1 + piece["index"]
        while True:
            first, found, joiner = self._position + 1 - back, None, pieces.Joiner()
            before = 0
            for i, value in enumerate(self._broker.between(self.models_topic, first, self._position)):
                value = self._decode(value)
                if i == 0 and value.get("piece") is not None:
                    before = value["piece"]["index"]
                try:
                    found = joiner.add(value) or found
                except ValueError:
                    if first <= 0:
                        raise  # else it may begin before the first
            if found is not None or first <= 0:
                return found
            back = max(2 * back, back + before)

    def publish(self, model, parameters, samples, metrics=None):
        """Sends what became of model; returns when it is durable.

        parameters has arrays of the model's names and shapes; metrics may have loss, of
        the model on the examples before the training, and steps, which the training
        took. Some strategies need them, and status shows the loss. A model that was
        answered already gets the same bytes again, whatever is passed.
        """
        if self.name not in model.clients:
            raise Refused(f"the training does not expect client {self.name!r}, but {model.clients}")
        payloads = self.kept(model)
        if payloads is None:
            if self._privacy is not None:
                parameters, samples, metrics = self._privacy.protect(model, parameters), 1, None
            value = self._update(model, parameters, samples, metrics or {}).value()
            if self._compression is not None:
                value["parameters"] = self._compression.pack(parameters, model.parameters)
            if self._key is not None:
                value["signature"] = self._key.sign(trust.update_text(self.updates_topic, value))
            payloads = [self._encode(self.updates_topic, record) for record in pieces.split(value, self._piece)]
            self._remember(model, payloads)
        for payload in payloads:
            self._persist(lambda payload=payload: self._broker.publish(self.updates_topic, self.name.encode(), payload))

    def run(self, train):
        """Answers each model until the training ends, and returns the final model.

        A model that asks others is passed over, and so is one of a training whose clients
        are enrolled, as long as this one is not. train(model) returns what publish takes:
        the parameters after training, the number of examples, and if it likes metrics. It
        is not called for a model that was answered.
        """
        for model in self.models():
            if model.final:
                return model
            if self.name in model.clients and self.name not in model.asked or self._done == model.hash:
                continue  # others are asked, or it is another attempt at an answered round
            if self.name not in model.clients and model.enrolled:
                continue  # it may be enrolled for a later one
            if self.kept(model) is None:
                self.publish(model, *train(model))
            else:
                self.publish(model, None, 0)
            self._done = model.hash

    def refusals(self):
        """Why updates of this client were not counted, oldest first: sentences that
        begin with the reason in a word."""
        records = self._persist(lambda: self._broker.records(self.refusals_topic))
        texts = [h.get("penstock-dlq-error", "") for key, _, h in records if key == self.name.encode()]
        return [t.decode() if isinstance(t, bytes) else t for t in texts]

    def kept(self, model):
        """The bytes of the records with which model was answered, or None."""
        if self._sent is None and self._keep is not None and os.path.exists(self._keep):
            with open(self._keep, "rb") as f:
                head, _, payload = f.read().partition(b"\n")
            about = json.loads(head)
            if hashlib.sha256(payload).hexdigest() == about["sha256"]:
                payloads, at = [], 0
                for size in about.get("sizes", [len(payload)]):
                    payloads.append(payload[at : at + size])
                    at += size
                self._sent = about["round"], bytes.fromhex(about["base"]), payloads
        if self._sent is not None and self._sent[:2] == (model.round, model.hash):
            return self._sent[2]
        return None

    def _remember(self, model, payloads):
        self._sent = model.round, model.hash, payloads
        if self._keep is None:
            return
        payload = b"".join(payloads)
        about = {"round": model.round, "base": model.hash.hex(), "sha256": hashlib.sha256(payload).hexdigest(), "sizes": [len(p) for p in payloads]}
        os.makedirs(os.path.dirname(self._keep), exist_ok=True)
        with open(self._keep + ".tmp", "wb") as f:
            f.write(json.dumps(about).encode() + b"\n" + payload)
            f.flush()
            os.fsync(f.fileno())
        os.replace(self._keep + ".tmp", self._keep)

    def _update(self, model, parameters, samples, metrics):
        if other := set(metrics) - {"loss", "steps"}:
            raise ValueError(f"metrics: expected loss and steps, found {min(other)!r}")
        loss, steps = float(metrics.get("loss", 0)), int(metrics.get("steps", 0))
        if not np.isfinite(loss):
            raise ValueError(f"metrics: expected a finite loss, found {loss}")
        if list(parameters) != list(model.parameters):
            raise ValueError(f"expected parameters {list(model.parameters)} in this order, found {list(parameters)}")
        for name, array in parameters.items():
            if np.shape(array) != model.parameters[name].shape:
                raise ValueError(f"parameter {name!r}: expected shape {model.parameters[name].shape}, found {np.shape(array)}")
        return Update(self.name, model.round, model.hash, int(samples), parameters, loss, steps)

    def _encode(self, topic, value):
        number, schema = self._persist(lambda: self._schema(topic))
        return _MAGIC + struct.pack(">I", number) + avro.encode(schema, value)

    def _schema(self, topic):
        found = self._known().latest(topic + "-value")
        if found is None:
            raise BrokerError(f"the registry has no schema of {topic!r} yet: start penstock federated aggregate")
        return found

    def _decode(self, value):
        if value[:1] != _MAGIC or len(value) < 5:
            raise ValueError(f"expected a value with the id of its schema, found {value[:5]!r}")
        return avro.decode(self._known().schema(struct.unpack(">I", value[1:5])[0]), value[5:])

    def _known(self):
        if self._registry is None:
            self._registry = Registry(self._registry_url or embedded(self._folder)["registry"])
        return self._registry

    def _persist(self, do):
        """Calls do until it does not fail for a reason that may pass."""
        end = None if self._give_up is None else time.monotonic() + self._give_up
        pause = 0.05
        while True:
            try:
                return do()
            except (BrokerError, OSError) as e:
                if isinstance(e, urllib.error.HTTPError) and e.code < 500 and e.code != 429:
                    raise
                if self._registry_url is None:
                    self._registry = None  # it may be elsewhere after a start
                if end is not None and time.monotonic() > end:
                    raise
                time.sleep(pause)
                pause = min(2 * pause, 2)
