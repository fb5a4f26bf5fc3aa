"""Plays the client in clients/python through transcript.json: with the secrets of a
client there it sends what that client sent; what a server must not ask it refuses."""

import json
import random
import struct
import sys
from dataclasses import replace

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from penstock import secagg

x = bytes.fromhex
t = json.load(open(sys.argv[1], encoding="utf-8"))
server_key = Ed25519PrivateKey.from_private_bytes(x(t["server_ed25519_seed"]))
server = server_key.public_key()
keys = {c["name"]: Ed25519PrivateKey.from_private_bytes(x(c["ed25519_seed"])) for c in t["clients"]}
trusted = {name: key.public_key().public_bytes_raw() for name, key in keys.items()}
records, sent = {}, {}
for m in t["messages"]:
    about = (t["training"], t["round"], t["attempt"], x(t["base"]), m["sender"])
    message = secagg.Message(secagg.STAGES[m["stage"]], *about, x(m["after"]), x(m["payload"]), x(m["signature"]))
    if message.sender:
        sent[message.stage, message.sender] = message
    else:
        records[message.stage] = message


def made(c, **kept):
    """The client of the transcript, as far as kept says."""
    shares = sent["shares", c["name"]].payload
    state = {"open": records["open"].hash(), "entropy": bytes(32), "roster": records["roster"].hash(), "shares": shares, **kept}
    client = secagg.Client(c["name"], keys[c["name"]], server, trusted, records["open"], state)
    client._root, client._seed = x(c["root"]), x(c["seed"])
    client._channel = secagg._Pair(x(c["channel_x25519_and_mlkem_seed"]))
    client._masks = secagg._Pair(x(c["mask_x25519_and_mlkem_seed"]))
    return client


def shared(client):
    """Takes the client to where it masks."""
    client.receive(records["shared"])
    for c in t["clients"]:
        if c["name"] != client.name and ("shares", c["name"]) in sent:
            client.take(sent["shares", c["name"]])
    assert not client.missing()


def refused(do, *args, kind=secagg.Refused, **kwargs):
    try:
        do(*args, **kwargs)
    except kind as e:
        return str(e)
    raise AssertionError("expected a refusal")


def forged(record, **change):
    m = replace(record, **change)
    return replace(m, signature=server_key.sign(m.signed()))


played = 0
for c in t["clients"]:
    if ("masked", c["name"]) not in sent:
        continue
    client = made(c)
    assert client.hello() == sent["keys", c["name"]]
    assert client.receive(records["roster"]) == [sent["shares", c["name"]]]
    shared(client)
    assert [seed.hex() for seed, _ in client._mask_seeds()] == c["mask_seeds"]
    vector = np.array(c["vector_without_masks"], "<u4")
    client.settings = replace(client.settings)
    object.__setattr__(client.settings, "encode", lambda values, weight, vector=vector: vector)
    assert client.mask(c["values"], c["weight"]) == [sent["masked", c["name"]]]
    again = made(c, **client.state)
    assert again.receive(records["roster"]) == [sent["shares", c["name"]]]
    assert refused(again.mask, None, 0).startswith("wrong-stage")
    shared(again)
    assert again.mask(None, 0) == [sent["masked", c["name"]]]
    for one in (client, again):
        assert one.receive(records["survived"]) == [sent["confirm", c["name"]]]
        (unmask,) = one.receive(records["agreed"])
        theirs, r = sent["unmask", c["name"]].payload, secagg._Reader(unmask.payload)
        own = r.entries(33)
        r.end()
        want = secagg._Reader(theirs).entries(33)
        assert set(own) == set(want) and all(own[i] == want[i] for i in own if i != c["index"])
        assert own[c["index"]][:1] == b"\1"
    played += 1

# Two lists that differ are not both answered, not after a start either.
c = t["clients"][0]
client = made(c)
client.receive(records["roster"])
shared(client)
client.mask(c["values"], c["weight"])
r = secagg._Reader(records["survived"].payload)
there, gone = r.entries(32), r.entries(0)


def survived(there, gone):
    b = struct.pack("<H", len(there)) + b"".join(struct.pack("<H", i) + there[i] for i in sorted(there))
    return forged(records["survived"], payload=b + struct.pack("<H", len(gone)) + b"".join(struct.pack("<H", i) for i in sorted(gone)))


there[c["index"]] = secagg._hash(b"".join(p.hash() for p in client._parts()))
other = next(i for i in there if i != c["index"])
few = {i: h for i, h in there.items() if i != other}
assert refused(client.receive, survived(there, [*gone, other])).startswith("bad-list")  # both lists have one
assert refused(client.receive, survived(there, [])).startswith("bad-list")  # one is in neither
assert refused(client.receive, survived(few, [*gone, other])).startswith("bad-list")  # fewer than the threshold
changed = {**there, c["index"]: bytes(32)}
assert refused(client.receive, survived(changed, gone), kind=secagg.SitOut).startswith("not-ours")
assert refused(client.receive, replace(survived(there, gone), signature=bytes(64))).startswith("bad-signature")
assert refused(client.receive, forged(survived(there, gone), round=9)).startswith("wrong-round")
assert refused(client.receive, forged(survived(there, gone), after=bytes(32))).startswith("wrong-roster")
(confirm,) = client.receive(survived(there, gone))
assert client.receive(survived(there, gone)) == [confirm]
second = {**there, other: bytes(32)}
assert refused(client.receive, survived(second, gone)).startswith("second-list")
later = made(c, **client.state)
later.receive(records["roster"])
shared(later)
assert refused(later.receive, survived(second, gone)).startswith("second-list")
assert refused(client.take, sent["shares", t["clients"][1]["name"]]).startswith("duplicate")
strangers = {**trusted, c["name"]: bytes(32)}
open_ = records["open"]
assert refused(secagg.Client, c["name"], keys[c["name"]], server, strangers, open_, kind=secagg.SitOut).startswith("bad-settings")
assert refused(secagg.Client, "eve", keys[c["name"]], server, trusted, open_, kind=secagg.SitOut).startswith("not-ours")

# The bounds of what a client takes part in.
n = len(t["clients"])
names = open_.payload[21:]


def settings(threshold, elements, bits, clip, weight):
    return struct.pack("<HIBdI", threshold, elements, bits, clip, weight) + struct.pack("<H", n) + names + bytes(8 * (bits == 0))


def bounds(*values):
    return secagg.Settings.read(settings(*values))


least = 2 * n // 3 + 1
bounds(least, 5, 20, 1.0, ((1 << 32) - 1) // (n * (2**20 - 1)))
for bad in (
    (least - 1, 5, 20, 1.0, 1), (n + 1, 5, 20, 1.0, 1), (least, 0, 20, 1.0, 1), (least, 5, 32, 1.0, 1), (least, 5, 0, 1.0, 1),
    (least, 5, 20, float("nan"), 1), (least, 5, 20, float("inf"), 1), (least, 5, 20, 0.0, 1), (least, 5, 20, 1.0, 0),
    (least, 5, 20, 1.0, ((1 << 32) - 1) // (n * (2**20 - 1)) + 1),
):
    refused(bounds, *bad, kind=secagg.SitOut)

# Levels: the ends, what lies beyond them, and the average between.
s = bounds(least, 5, 8, 2.0, 3)
assert s.encode([-2, 2, -9, 9, 0][:4], 3).tolist() == [3, 0, 3 * 255, 0, 3 * 255]
levels = s.encode(np.full(100_000, 0.1), 1)[1:]
assert set(levels) == {133, 134} and abs(levels.mean() - 2.1 * 255 / 4) < 0.01

# Whatever a payload holds is read or refused.
draw, outcomes = random.Random(5), {}
for _ in range(1000):
    stage = draw.choice(["open", "roster", "shared", "shares", "survived", "agreed"])
    record = sent["shares", t["clients"][1]["name"]] if stage == "shares" else records[stage]
    b = bytearray(record.payload)
    for _ in range(draw.randint(1, 3)):
        how, at = draw.randrange(3), draw.randrange(len(b) or 1)
        if how == 0 and b:
            b[at] ^= 1 << draw.randrange(8)
        elif how == 1:
            del b[at:]
        else:
            b[at:at] = draw.randbytes(draw.randint(1, 4))
    key = keys[record.sender] if record.sender else server_key
    m = replace(record, payload=bytes(b))
    m = replace(m, signature=key.sign(m.signed()))
    try:
        if stage == "open":
            secagg.Client(c["name"], keys[c["name"]], server, trusted, m)
        elif stage == "shares":
            one = made(c)
            one._roster, one._keys = client._roster, client._keys
            one._take(2, m.payload)
        else:
            one = made(c)
            del one.state["roster"]
            if stage != "roster":
                one.receive(records["roster"])
            if stage in ("survived", "agreed"):
                one._shared, one._listed, one._got, one._held = client._shared, client._listed, client._got, client._held
                one.state |= {"vector": client.state["vector"]}
            if stage == "agreed":
                one._survived, one._there = client._survived, client._there
            one.receive(m)
        outcomes["read"] = outcomes.get("read", 0) + 1
    except secagg.Refused as e:
        reason = str(e).split(":")[0]
        outcomes[reason] = outcomes.get(reason, 0) + 1
assert {"malformed", "bad-list", "bad-signature", "not-ours", "bad-settings", "bad-share"} <= set(outcomes), outcomes
print(f"{played} clients as the transcript has them")
