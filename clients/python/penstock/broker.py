"""What a training asks of a broker, over NATS JetStream and over Kafka. All calls
block, and may be made where an event loop runs, as in a notebook.

Each broker has

    newest(topic, after, wait)  the last record, as (position, value, headers), if
                                it lies behind the position after (None: any);
                                None after wait seconds without one
    between(topic, first, last) the values at these positions of a topic of one
                                partition, in order; those that are gone are left out
    read(topic, after, wait)    what lies behind the position after in a topic of one
                                partition (None: all), as (position, value), some
                                records at a time; none after wait seconds without one
    records(topic)              all records, as (key, value, headers)
    publish(topic, key, value)  returns when the record is durable
    close()

and raises BrokerError for what may pass. A topic that does not exist holds nothing.
"""

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import threading
import time


class BrokerError(Exception):
    """The broker could not be reached or did not answer: worth another attempt."""


def open_broker(url, **options):
    """Connects to embedded:DIR, nats://HOST:PORT or kafka://HOST:PORT,…. Options go to
    nats.connect, or to librdkafka."""
    scheme = url.partition(":")[0]
    if scheme in ("nats", "tls", "embedded"):
        return Nats(url, options)
    if scheme == "kafka":
        return Kafka(url.removeprefix("kafka://").rstrip("/"), options)
    raise ValueError(f"broker {url!r}: expected embedded:DIR, nats://HOST:PORT or kafka://HOST:PORT")


def embedded(folder):
    """Who serves the folder of an embedded broker now: its url, token and registry."""
    try:
        with open(os.path.join(folder, "server.json"), encoding="utf-8") as f:
            return json.load(f)
    except FileNotFoundError as e:
        raise BrokerError(f"nobody serves the folder {folder!r}: start penstock up there") from e


def partition_for(key, partitions):
    """The partition of a key, where Kafka's own clients put it (murmur2)."""
    mask, m = 0xFFFFFFFF, 0x5BD1E995
    h = 0x9747B28C ^ len(key)
    whole = len(key) & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(key[i : i + 4], "little") * m & mask
        h = h * m & mask ^ (k ^ k >> 24) * m & mask
    if tail := key[whole:]:
        h = (h ^ int.from_bytes(tail, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return ((h ^ h >> 15) & 0x7FFFFFFF) % partitions


def _escape(name):
    """The stream of a topic."""
    plain = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
    out = "".join(chr(c) if c in plain else f"%{c:02X}" for c in name.encode())
    if len(out) > 200:
        return out[:166] + "%%" + hashlib.sha256(name.encode()).hexdigest()[:32]
    return out


def _headers(message):
    """The headers of a record: those of the message, and those that it has no place for,
    which are listed in one of its own."""
    out = dict(message)
    data, at = base64.b64decode(out.pop("Penstock-Headers", "")), 0

    def length():
        nonlocal at
        n = shift = 0
        while True:
            b = data[at]
            at += 1
            n |= (b & 0x7F) << shift
            shift += 7
            if b < 0x80:
                return n

    def text(n):
        nonlocal at
        at += n
        return data[at - n : at]

    while at < len(data):
        name = text(length()).decode()
        if n := length():  # 0 is one that stands in the message as it is
            out[name] = text(n - 1)
    return out


class Nats:
    """A connection to NATS, on a thread and a loop of its own."""

    def __init__(self, url, options, timeout=5):
        self.url, self.options, self.timeout = url, options, timeout
        self._nc = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def newest(self, topic, after, wait):
        return self._do(self._newest(topic, after, wait), wait)

    def between(self, topic, first, last):
        for seq in range(max(first, 1), last + 1):
            value = self._do(self._value(topic, seq))
            if value is not None:
                yield value

    def read(self, topic, after, wait):
        return self._do(self._read(topic, after, wait), wait)

    def records(self, topic):
        return self._do(self._records(topic))

    def publish(self, topic, key, value):
        self._do(self._publish(topic, key, value))

    def close(self):
        try:
            if self._nc is not None:
                self._do(self._drop())
        except BrokerError:
            pass  # the connection is gone either way
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work, longer=0):
        import nats.errors

        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(self.timeout * 3 + longer)
        except (nats.errors.Error, OSError, asyncio.TimeoutError, TimeoutError) as e:
            future.cancel()
            raise BrokerError(f"NATS at {self.url}: {e!r}") from e

    async def _js(self):
        """JetStream on a connection that stands. One that is down is given up, for the
        embedded server has another address and token after each start."""
        import nats

        if self._nc is not None and not self._nc.is_connected:
            await self._drop()
        if self._nc is None:
            url, options = self.url, dict(self.options)
            if url.startswith("embedded:"):
                server = embedded(url.removeprefix("embedded:"))
                url, options["token"] = server["url"], server["token"]
            connecting = nats.connect(url, allow_reconnect=False, error_cb=_quiet, **options)
            self._nc = await asyncio.wait_for(connecting, self.timeout)
        return self._nc.jetstream(timeout=self.timeout)

    async def _drop(self):
        # The library may wait without end for a connection that is gone.
        nc, self._nc = self._nc, None
        try:
            await asyncio.wait_for(nc.close(), 1)
        except asyncio.TimeoutError:
            pass

    async def _last(self, js, stream, subject):
        import nats.js.errors

        try:
            m = await js.get_last_msg(stream, subject)
        except nats.js.errors.NotFoundError:
            return None
        return m.seq, m.data, m.headers or {}

    async def _newest(self, topic, after, wait):
        js = await self._js()
        stream, subject = _escape(topic), _escape(topic) + ".0"
        news = await self._nc.subscribe(subject)
        try:
            end = time.monotonic() + wait
            while True:
                last = await self._last(js, stream, subject)
                if last is not None and (after is None or last[0] > after):
                    return last
                left = end - time.monotonic()
                if left <= 0:
                    return None
                # What comes is only a sign that it is worth to look again.
                try:
                    await news.next_msg(timeout=min(left, 1))
                except asyncio.TimeoutError:
                    pass
        finally:
            if self._nc is not None and self._nc.is_connected:
                await news.unsubscribe()

    async def _partitions(self, js, stream):
        info = await js.stream_info(stream)
        return int((info.config.metadata or {}).get("penstock.partitions", 1))

    async def _value(self, topic, seq):
        import nats.js.errors

        js = await self._js()
        stream = _escape(topic)
        try:
            m = await js.get_msg(stream, seq)
        except nats.js.errors.NotFoundError:
            return None
        # Between the records of a stream may lie what else is kept there.
        return m.data if m.subject == stream + ".0" else None

    async def _read(self, topic, after, wait):
        import nats.js.errors

        js = await self._js()
        stream = _escape(topic)
        news = await self._nc.subscribe(stream + ".0")
        try:
            end = time.monotonic() + wait
            while True:
                with contextlib.suppress(nats.js.errors.NotFoundError):
                    state = (await js.stream_info(stream)).state
                    out = []
                    first = max(state.first_seq, 0 if after is None else after + 1)
                    for seq in range(first, min(state.last_seq, first + 99) + 1):
                        with contextlib.suppress(nats.js.errors.NotFoundError):
                            out.append((seq, (await js.get_msg(stream, seq)).data))
                    if out:
                        return out
                left = end - time.monotonic()
                if left <= 0:
                    return []
                # What comes is only a sign that it is worth to look again.
                with contextlib.suppress(asyncio.TimeoutError):
                    await news.next_msg(timeout=min(left, 1))
        finally:
            if self._nc is not None and self._nc.is_connected:
                await news.unsubscribe()

    async def _records(self, topic):
        import nats.js.errors

        js = await self._js()
        stream = _escape(topic)
        try:
            info = await js.stream_info(stream)
        except nats.js.errors.NotFoundError:
            return []
        out, seq = [], info.state.first_seq
        while seq <= info.state.last_seq and info.state.messages:
            try:
                m = await js.get_msg(stream, seq)
                key = (m.headers or {}).get("Penstock-Key")
                out.append((base64.b64decode(key) if key else None, m.data, _headers(m.headers or {})))
            except nats.js.errors.NotFoundError:
                pass
            seq += 1
        return out

    async def _publish(self, topic, key, value):
        js = await self._js()
        stream = _escape(topic)
        partition = partition_for(key, await self._partitions(js, stream))
        headers = {"Penstock-Key": base64.b64encode(key).decode()}
        await js.publish(f"{stream}.{partition}", value, stream=stream, headers=headers)


async def _quiet(_):
    """What goes wrong is raised where it matters."""


class Kafka:
    """Connections to Kafka."""

    def __init__(self, servers, options, timeout=30):
        self.timeout = timeout
        self.config = {"bootstrap.servers": servers, "log_level": 0, **options}
        self._producer = None
        self._consumer = None
        self._reading = None
        self._back = 0, 0  # the oldest offset of that topic, and from where on it is read
        self._readers = {}  # consumers by topic, and the offset that each is at

    def _open(self, **options):
        from confluent_kafka import Consumer

        # The group is only a name: nothing is committed, and nobody is balanced.
        return Consumer(
            {
                **self.config,
                "group.id": "penstock-python",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "fetch.message.max.bytes": 64 << 20,
                **options,
            }
        )

    def _ends(self, consumer, partition):
        """The oldest and the next offset; None if there is no such topic."""
        from confluent_kafka import KafkaError, KafkaException

        try:
            return consumer.get_watermark_offsets(partition, timeout=self.timeout)
        except KafkaException as e:
            if e.args[0].code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION, KafkaError._UNKNOWN_TOPIC):
                return None
            raise BrokerError(f"Kafka: {e}") from e

    def newest(self, topic, after, wait):
        from confluent_kafka import KafkaError, TopicPartition

        if self._consumer is None:
            self._consumer = self._open(**{"enable.partition.eof": True})
        end = time.monotonic() + wait
        if self._reading != topic:
            ends = self._ends(self._consumer, TopicPartition(topic, 0))
            if ends is None:
                time.sleep(min(wait, 0.5))
                return None
            # The last offsets may be a transaction's marks, and records of one that was
            # given up: the newest record lies a little before the end, or further.
            oldest, at = ends[0], max(ends[0], ends[1] - 8) if after is None else after + 1
            self._consumer.assign([TopicPartition(topic, 0, at)])
            self._reading, self._back = topic, (oldest, at)
        last = None
        while True:
            m = self._consumer.poll(0 if last else max(0, end - time.monotonic()))
            if m is None:
                return last
            if m.error():
                if m.error().fatal():
                    raise BrokerError(f"Kafka: {m.error()}")
                oldest, at = self._back
                if m.error().code() == KafkaError._PARTITION_EOF and last is None and after is None and at > oldest:
                    at = max(oldest, m.offset() - 8 * (m.offset() - at))
                    self._back = oldest, at
                    self._consumer.assign([TopicPartition(topic, 0, at)])
                continue
            last = m.offset(), m.value(), dict(m.headers() or [])

    def between(self, topic, first, last):
        from confluent_kafka import KafkaException, TopicPartition

        consumer = self._open()
        try:
            low, _ = self._ends(consumer, TopicPartition(topic, 0)) or (0, 0)
            at = max(first, low)
            consumer.assign([TopicPartition(topic, 0, at)])
            while at <= last:
                m = consumer.poll(self.timeout)
                if m is None or m.error():
                    raise BrokerError(f"Kafka: {m.error() if m else 'no answer'}")
                at = m.offset() + 1
                if at <= last + 1:
                    yield m.value()
        except KafkaException as e:
            raise BrokerError(f"Kafka: {e}") from e
        finally:
            consumer.close()

    def read(self, topic, after, wait):
        from confluent_kafka import TopicPartition

        if topic not in self._readers:
            self._readers[topic] = self._open(), None
        consumer, at = self._readers[topic]
        if at is None or at != after:
            ends = self._ends(consumer, TopicPartition(topic, 0))
            if ends is None:
                time.sleep(min(wait, 0.5))
                return []
            consumer.assign([TopicPartition(topic, 0, ends[0] if after is None else after + 1)])
        out, end = [], time.monotonic() + wait
        while len(out) < 100:
            m = consumer.poll(0 if out else max(0, end - time.monotonic()))
            if m is None:
                break
            if m.error():
                raise BrokerError(f"Kafka: {m.error()}")
            out.append((m.offset(), m.value()))
        self._readers[topic] = consumer, out[-1][0] if out else after
        return out

    def records(self, topic):
        from confluent_kafka import KafkaException, TopicPartition

        consumer = self._open()
        try:
            found = consumer.list_topics(timeout=self.timeout).topics.get(topic)
            out = []
            for number in sorted(found.partitions) if found else []:
                low, high = self._ends(consumer, TopicPartition(topic, number)) or (0, 0)
                consumer.assign([TopicPartition(topic, number, low)])
                while low < high:
                    m = consumer.poll(self.timeout)
                    if m is None or m.error():
                        raise BrokerError(f"Kafka: {m.error() if m else 'no answer'}")
                    low = m.offset() + 1
                    out.append((m.key(), m.value(), dict(m.headers() or [])))
            return out
        except KafkaException as e:
            raise BrokerError(f"Kafka: {e}") from e
        finally:
            consumer.close()

    def publish(self, topic, key, value):
        from confluent_kafka import KafkaException, Producer

        if self._producer is None:
            self._producer = Producer(
                {
                    **self.config,
                    "enable.idempotence": True,
                    "partitioner": "murmur2_random",
                    "message.max.bytes": 64 << 20,
                    "delivery.timeout.ms": self.timeout * 1000,
                }
            )
        outcome = []
        try:
            self._producer.produce(topic, value, key, on_delivery=lambda error, _: outcome.append(error))
            self._producer.flush()
        except KafkaException as e:
            raise BrokerError(f"Kafka: {e}") from e
        if not outcome or outcome[0] is not None:
            self._producer = None  # one that failed for good stays so
            raise BrokerError(f"Kafka: {outcome[0] if outcome else 'no answer'}")

    def close(self):
        for consumer, _ in self._readers.values():
            consumer.close()
        if self._consumer is not None:
            self._consumer.close()
