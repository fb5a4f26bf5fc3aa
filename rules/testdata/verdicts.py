"""What Confluent's Python client makes of the cases of verdicts.json.

    PENSTOCK_TEST_PYTHON/bin/python verdicts.py <verdicts.json

prints the file anew, with -v also why the client refused what it refused.
Each case goes through the client's own serializer or deserializer, with its
registry that lives in memory. Values are in the encoding of the schema, base64:
"in" is what the case gives, "out" what came of it, and "refused" the action
where the client raised an error.
"""

import base64
import io
import json
import logging
import sys

import fastavro
from confluent_kafka.schema_registry import Metadata, MetadataProperties, MetadataTags, RuleSet, Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.confluent import meta_pb2
from confluent_kafka.schema_registry.json_schema import JSONDeserializer, JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer, ProtobufSerializer
from confluent_kafka.schema_registry.rule_registry import RuleRegistry
from confluent_kafka.schema_registry.rules.cel.cel_executor import CelExecutor
from confluent_kafka.schema_registry.rules.cel.cel_field_executor import CelFieldExecutor
from confluent_kafka.schema_registry.rules.jsonata.jsonata_executor import JsonataExecutor
from confluent_kafka.schema_registry.serde import RuleAction
from confluent_kafka.serialization import MessageField, SerializationContext, SerializationError
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory, timestamp_pb2

logging.disable(logging.CRITICAL)


class DLQ(RuleAction):
    def type(self):
        return "DLQ"

    def run(self, ctx, message, ex):
        raise SerializationError("DLQ")


CelExecutor.register()
CelFieldExecutor.register()
JsonataExecutor.register()
RuleRegistry.register_rule_action(DLQ())


def field(message, name, number, kind, tags=(), type_name=None, repeated=False, optional=False):
    f = message.field.add(name=name, number=number, type=kind, type_name=type_name)
    f.label = 3 if repeated else 1
    if tags:
        f.options.Extensions[meta_pb2.field_meta].tags.extend(tags)
    if optional:
        f.proto3_optional = True
        f.oneof_index = len(message.oneof_decl)
        message.oneof_decl.add(name="_" + name)


def order():
    f = descriptor_pb2.FileDescriptorProto(
        name="order.proto", package="shop", syntax="proto3", dependency=["confluent/meta.proto", "google/protobuf/timestamp.proto"])
    state = f.enum_type.add(name="State")
    state.value.add(name="NEW", number=0)
    state.value.add(name="PAID", number=5)
    m = f.message_type.add(name="Order")
    field(m, "id", 1, 9)
    field(m, "note", 2, 9, ["PII"], optional=True)
    field(m, "state", 3, 14, type_name=".shop.State")
    field(m, "count", 4, 13)
    field(m, "items", 5, 11, type_name=".shop.Item", repeated=True)
    field(m, "at", 6, 11, type_name=".google.protobuf.Timestamp")
    field(m, "names", 7, 9, ["PII"], repeated=True)
    item = f.message_type.add(name="Item")
    field(item, "sku", 1, 9)
    field(item, "price", 2, 1)
    return f


POOL = descriptor_pool.Default()
ORDER = order()
POOL.Add(ORDER)
Order = message_factory.GetMessageClass(POOL.FindMessageTypeByName("shop.Order"))
CONTEXT = SerializationContext("t", MessageField.VALUE, [])


def b64(data):
    return base64.b64encode(data).decode()


def encode(language, schema, value):
    if language == "AVRO":
        out = io.BytesIO()
        fastavro.schemaless_writer(out, fastavro.parse_schema(json.loads(schema)), value)
        return out.getvalue()
    if language == "JSON":
        return json.dumps(value).encode()
    if isinstance(value, dict):
        value = json_format.ParseDict(value, Order())
    return value.SerializeToString(deterministic=True)


def decode(language, schema, data):
    if language == "AVRO":
        return fastavro.schemaless_reader(io.BytesIO(data), fastavro.parse_schema(json.loads(schema)), None)
    if language == "JSON":
        return json.loads(data)
    return Order.FromString(data)


SERIALIZERS = {
    "AVRO": lambda c, conf: AvroSerializer(c, conf=conf),
    "JSON": lambda c, conf: JSONSerializer(None, c, conf=conf),
    "PROTOBUF": lambda c, conf: ProtobufSerializer(Order, c, conf=conf),
}
DESERIALIZERS = {
    "AVRO": lambda c, conf: AvroDeserializer(c, conf=conf),
    "JSON": lambda c, conf: JSONDeserializer(None, schema_registry_client=c, conf=conf),
    "PROTOBUF": lambda c, conf: ProtobufDeserializer(Order, conf, c),
}


def registered(language, text, case):
    metadata = Metadata(
        MetadataTags({k: tuple(v) for k, v in case["tags"].items()}) if "tags" in case else None, MetadataProperties({"v": str(case.get("v", 1))}), None)
    return Schema(text, language, [], metadata, RuleSet.from_dict(case["ruleSet"]) if "ruleSet" in case else None)


def run(case, texts):
    language, mode = case["language"], case["mode"]
    text = texts[case["schema"]]
    client = SchemaRegistryClient.new_client({"url": "mock://"})
    body = encode(language, text, case["value"])
    case["in"] = b64(body)
    prefix = b"\x00" if language == "PROTOBUF" else b""
    try:
        if mode == "WRITE":
            client.register_schema("t-value", registered(language, text, case))
            conf = {"auto.register.schemas": False, "use.latest.version": True}
            wrote = SERIALIZERS[language](client, conf)(decode(language, text, body), CONTEXT)
            case["out"] = b64(wrote[5 + len(prefix):])
            return
        reader = text
        conf = {}
        if mode == "READ":
            number = client.register_schema("t-value", registered(language, text, case))
        else:
            # The rules belong to the later version, whichever is read.
            reader = texts[case["reader"]]
            old, new = (text, reader) if mode == "UPGRADE" else (reader, text)
            first = client.register_schema("t-value", registered(language, old, {"v": 1}))
            second = client.register_schema("t-value", registered(language, new, dict(case, v=2)))
            number = first if mode == "UPGRADE" else second
            conf = {"use.latest.version": False, "use.latest.with.metadata": {"v": "2" if mode == "UPGRADE" else "1"}}
        read = DESERIALIZERS[language](client, conf)(b"\x00" + number.to_bytes(4, "big") + prefix + body, CONTEXT)
        case["out"] = b64(encode(language, reader, read))
    except Exception as e:
        case["refused"] = "DLQ" if str(e) == "DLQ" else "ERROR"
        if "-v" in sys.argv:
            print(case["name"], type(e), e, e.__cause__, file=sys.stderr)


table = json.load(sys.stdin)
table["schemas"]["order"] = b64(ORDER.SerializeToString())
texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in table["schemas"].items()}
for case in table["cases"]:
    for name in ("in", "out", "refused"):
        case.pop(name, None)
    run(case, texts)
schemas = ",\n".join(json.dumps(k) + ": " + json.dumps(v) for k, v in table["schemas"].items())
print('{"schemas": {\n' + schemas + '},\n"cases": [\n' + ",\n".join(json.dumps(c) for c in table["cases"]) + "\n]}")
