"""A session of Confluent's Python client with a registry: python session.py URL

Every check names what it wants. The last line counts them; the first that
fails ends the session with a traceback.
"""

import asyncio
import json
import sys
import uuid

from confluent_kafka.schema_registry import (
    AssociationCreateOrUpdateInfo,
    AssociationCreateOrUpdateRequest,
    AsyncSchemaRegistryClient,
    ConfigCompatibilityLevel,
    Metadata,
    MetadataProperties,
    Rule,
    RuleKind,
    RuleMode,
    RuleSet,
    Schema,
    SchemaReference,
    SchemaRegistryClient,
    SchemaRegistryError,
    ServerConfig,
)
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONDeserializer, JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer, ProtobufSerializer
from confluent_kafka.schema_registry.rules.cel.cel_executor import CelExecutor
from confluent_kafka.schema_registry.rules.cel.cel_field_executor import CelFieldExecutor
from confluent_kafka.serialization import MessageField, SerializationContext, SerializationError
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

CelExecutor.register()
CelFieldExecutor.register()
URL = sys.argv[1]
passed = 0


def client():
    """A client that has cached nothing."""
    return SchemaRegistryClient({"url": URL})


def check(what, got, want):
    global passed
    assert got == want, f"{what}: got {got!r}, want {want!r}"
    passed += 1


def refused(what, code, call):
    global passed
    try:
        call()
    except SchemaRegistryError as e:
        assert e.error_code == code, f"{what}: code {e.error_code}, want {code}: {e}"
        passed += 1
        return e
    raise AssertionError(f"{what}: not refused")


def name(kind):
    return f"py-{kind}-{uuid.uuid4().hex[:8]}"


def value(topic):
    return SerializationContext(topic, MessageField.VALUE)


FLIGHT = {
    "type": "record",
    "name": "Flight",
    "namespace": "demo",
    "fields": [
        {"name": "carrier", "type": "string"},
        {"name": "number", "type": "int"},
        {"name": "delay", "type": ["null", "double"], "default": None},
    ],
}


def with_field(schema, field):
    return json.dumps({**schema, "fields": schema["fields"] + [field]})


def subjects_and_versions():
    sr, subject = client(), name("flights")
    first = Schema(json.dumps(FLIGHT, indent=2), "AVRO")
    id1 = sr.register_schema(subject, first)
    check("registering again", client().register_schema(subject, first), id1)
    check("normalised", client().register_schema(subject, first, normalize_schemas=True), id1)
    wider = Schema(with_field(FLIGHT, {"name": "gate", "type": ["null", "string"], "default": None}), "AVRO")
    check("compatible", sr.test_compatibility(subject, wider), True)
    id2 = sr.register_schema(subject, wider)
    assert id2 > id1
    breaking = Schema(with_field(FLIGHT, {"name": "terminal", "type": "string"}), "AVRO")
    check("incompatible", sr.test_compatibility(subject, breaking), False)
    check("incompatible with all", sr.test_compatibility_all_versions(subject, breaking), False)
    e = refused("an incompatible schema", 40901, lambda: sr.register_schema(subject, breaking))
    check("status", e.http_status_code, 409)
    assert "READER_FIELD_MISSING_DEFAULT_VALUE" in e.error_message, e.error_message
    check("versions", sr.get_versions(subject), [1, 2])
    assert subject in sr.get_subjects()
    latest = client().get_latest_version(subject)
    check("latest", (latest.version, latest.schema_id), (2, id2))
    check("by id", json.loads(client().get_schema(id1).schema_str)["name"], "Flight")
    check("by guid", client().get_schema_by_guid(latest.guid).schema_str, latest.schema.schema_str)
    found = client().lookup_schema(subject, first)
    check("lookup", (found.version, found.schema_id), (1, id1))
    check("subjects of an id", client().get_subjects_by_schema_id(id2), [subject])
    check("versions of an id", [(v.subject, v.version) for v in client().get_schema_versions(id2)], [(subject, 2)])
    check("types", set(sr.get_schema_types()), {"AVRO", "JSON", "PROTOBUF"})
    check("contexts", "." in sr.get_contexts(), True)
    refused("an unknown subject", 40401, lambda: client().get_latest_version(name("nobody")))
    refused("an unknown version", 40402, lambda: client().get_version(subject, 99))
    refused("an unknown id", 40403, lambda: client().get_schema(2**30))
    refused("no schema", 42201, lambda: client().register_schema(subject, Schema("{]", "AVRO")))

    check("set level", sr.set_compatibility(subject, "NONE"), {"compatibility": "NONE"})
    check("get level", sr.get_compatibility(subject), "NONE")
    sr.set_config(subject, ServerConfig(compatibility=ConfigCompatibilityLevel.FULL, compatibility_group="major"))
    got = sr.get_config(subject)
    check("config", (got.compatibility_level, got.compatibility_group), ("FULL", "major"))
    sr.delete_config(subject)
    refused("no config of its own", 40408, lambda: client().get_config(subject))
    check("global level", client().get_compatibility(), "BACKWARD")
    sr.update_mode(subject, "READONLY")
    check("mode", sr.get_mode(subject), "READONLY")
    refused("a write in read-only mode", 42205, lambda: client().register_schema(subject, breaking))
    sr.delete_mode(subject)
    check("global mode", client().get_global_mode(), "READWRITE")

    check("delete version", client().delete_version(subject, 1), 1)
    check("versions left", client().get_versions(subject), [2])
    check("its id still resolves", json.loads(client().get_schema(id1).schema_str)["name"], "Flight")
    check("delete version for good", client().delete_version(subject, 1, permanent=True), 1)
    check("delete subject", client().delete_subject(subject), [2])
    refused("deleted", 40401, lambda: client().get_latest_version(subject))
    check("delete for good", client().delete_subject(subject, permanent=True), [2])


def references():
    sr, base, user = client(), name("base"), name("user")
    sr.register_schema(base, Schema('{"type":"enum","name":"Carrier","namespace":"demo","symbols":["AA","UA"]}', "AVRO"))
    text = '{"type":"record","name":"Leg","namespace":"demo","fields":[{"name":"carrier","type":"demo.Carrier"}]}'
    schema = Schema(text, "AVRO", references=[SchemaReference("demo.Carrier", base, 1)])
    leg = sr.register_schema(user, schema)
    check("referenced by", client().get_referenced_by(base, 1), [leg])
    refused("deleting what is referred to", 42206, lambda: client().delete_subject(base))
    got = client().get_latest_version(user).schema.references
    check("references", [(r.name, r.subject, r.version) for r in got], [("demo.Carrier", base, 1)])


def metadata_and_rules():
    sr, subject = client(), name("contract")
    rules = RuleSet(migration_rules=None, domain_rules=[Rule(
        name="positive", kind=RuleKind.CONDITION, mode=RuleMode.WRITE, type="CEL", expr="message.number > 0",
        doc=None, tags=None, params=None, on_success=None, on_failure="ERROR", disabled=False,
    )])
    meta = Metadata(None, MetadataProperties({"owner": "ops"}), None)  # its cache cannot hash tags
    sr.register_schema(subject, Schema(json.dumps(FLIGHT), "AVRO", metadata=meta, rule_set=rules))
    got = client().get_latest_with_metadata(subject, {"owner": "ops"}).schema
    check("properties", got.metadata.properties.properties, {"owner": "ops"})
    check("rule", got.rule_set.domain_rules[0].expr, "message.number > 0")
    refused("no version with that property", 40403, lambda: client().get_latest_with_metadata(subject, {"owner": "dev"}))

    topic = name("ruled")
    sr.register_schema(topic + "-value", Schema(json.dumps(FLIGHT), "AVRO", rule_set=rules))
    write = AvroSerializer(client(), conf={"auto.register.schemas": False, "use.latest.version": True})
    write({"carrier": "UA", "number": 7, "delay": None}, value(topic))
    try:
        write({"carrier": "UA", "number": -7, "delay": None}, value(topic))
        raise AssertionError("a record that breaks a rule was serialised")
    except SerializationError:
        check("a rule is run", True, True)


def avro():
    topic, event = name("avro"), {"carrier": "UA", "number": 1545, "delay": -4.0}
    write = AvroSerializer(client(), json.dumps(FLIGHT))
    data = write(event, value(topic))
    check("magic byte", data[0], 0)
    check("avro read back", AvroDeserializer(client())(data, value(topic)), event)
    lookup = AvroSerializer(client(), json.dumps(FLIGHT), conf={"auto.register.schemas": False})
    check("avro by lookup", lookup(event, value(topic)), data)


def json_schema():
    topic, event = name("json"), {"carrier": "UA", "number": 1545}
    text = json.dumps({
        "type": "object", "title": "Flight",
        "properties": {"carrier": {"type": "string"}, "number": {"type": "integer"}},
        "required": ["carrier"],
    })
    write = JSONSerializer(text, client())
    data = write(event, value(topic))
    check("json read back", JSONDeserializer(text, schema_registry_client=client())(data, value(topic)), event)
    sr, subject = client(), topic + "-value"
    narrower = Schema(text.replace('"integer"', '"string"'), "JSON")
    check("a changed type", sr.test_compatibility(subject, narrower), False)
    refused("a changed type", 40901, lambda: sr.register_schema(subject, narrower))
    same = Schema(json.dumps(json.loads(text), sort_keys=True), "JSON")
    sr.set_compatibility(subject, "NONE")
    normal = client().register_schema(subject, same, normalize_schemas=True)
    check("normalised text", client().register_schema(subject, Schema(text, "JSON"), normalize_schemas=True), normal)


def message(package, build):
    """A message class of a file of its own, and of one that it imports."""
    pool = descriptor_pool.DescriptorPool()
    timestamp = descriptor_pb2.FileDescriptorProto()
    from google.protobuf import timestamp_pb2
    timestamp_pb2.DESCRIPTOR.CopyToProto(timestamp)
    pool.Add(timestamp)
    imported = descriptor_pb2.FileDescriptorProto(name=f"{package}/airport.proto", package=package, syntax="proto3")
    airport = imported.message_type.add(name="Airport")
    airport.field.add(name="code", number=1, type=9, label=1, json_name="code")
    pool.Add(imported)
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}/flight.proto", package=package, syntax="proto3")
    file.dependency.extend([imported.name, timestamp.name])
    build(file, package)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.Flight"))


def flight(file, package):
    m = file.message_type.add(name="Other")
    m.field.add(name="nothing", number=1, type=8, label=1, json_name="nothing")
    m = file.message_type.add(name="Flight")
    m.field.add(name="carrier", number=1, type=9, label=1, json_name="carrier")
    m.field.add(name="number", number=2, type=5, label=1, json_name="number")
    m.field.add(name="origin", number=3, type=11, label=1, type_name=f".{package}.Airport", json_name="origin")
    m.field.add(name="left", number=4, type=11, label=1, type_name=".google.protobuf.Timestamp", json_name="left")


def protobuf():
    topic, package = name("protobuf"), "p" + uuid.uuid4().hex[:8]
    Flight = message(package, flight)
    event = Flight(carrier="UA", number=1545)
    event.origin.code = "EWR"
    event.left.seconds = 1357020000
    shared = client()
    data = ProtobufSerializer(Flight, shared)(event, value(topic))
    check("protobuf read back", ProtobufDeserializer(Flight)(data, value(topic)), event)
    read = ProtobufDeserializer(Flight, schema_registry_client=shared)
    check("protobuf read by the client that registered", read(data, value(topic)), event)
    read = ProtobufDeserializer(Flight, schema_registry_client=client())
    check("protobuf read by another", read(data, value(topic)), event)
    lookup = ProtobufSerializer(Flight, client(), {"auto.register.schemas": False})
    check("protobuf by lookup", lookup(event, value(topic)), data)
    stored = client().get_latest_version(topic + "-value")
    assert "message Flight {" in stored.schema.schema_str, stored.schema.schema_str
    check("imports are references", sorted(r.name for r in stored.schema.references),
          [f"{package}/airport.proto"])
    gone = Schema(stored.schema.schema_str.replace("message Other", "message Another"), "PROTOBUF", stored.schema.references)
    check("a message that is gone", client().test_compatibility(topic + "-value", gone), False)


def deleted_versions():
    sr, subject = client(), name("deleted")
    schemas = [Schema(json.dumps(t), "AVRO") for t in ("int", "long")]
    for schema in schemas:
        sr.register_schema(subject, schema)
    sr.delete_version(subject, 2)
    refused("a deleted schema", 40403, lambda: client().lookup_schema(subject, schemas[1]))
    check("a deleted schema, asked for", client().lookup_schema(subject, schemas[1], deleted=True).version, 2)
    check("all versions", sr.get_versions(subject, deleted=True), [1, 2])
    check("latest", client().get_latest_version(subject).version, 1)
    sr.delete_subject(subject)
    check("deleted subjects", sr.get_subjects(subject_prefix=subject, deleted=True), [subject])
    check("live subjects", sr.get_subjects(subject_prefix=subject), [])
    found = client().register_schema_full_response(subject, schemas[0])
    check("registered again", (found.version, client().get_versions(subject)), (3, [3]))


def subjects_of_serializers():
    """What the configuration of a serializer makes of subject and schema."""
    event, text = {"carrier": "UA", "number": 1545, "delay": None}, json.dumps(FLIGHT)
    for strategy, subject in (("RECORD", "{0}"), ("TOPIC_RECORD", "{1}-{0}"), ("TOPIC", "{1}-value")):
        topic, record = name("topic"), name("Flight").replace("-", "_")
        flight = {**FLIGHT, "name": record}
        write = AvroSerializer(client(), json.dumps(flight), conf={"subject.name.strategy.type": strategy, "normalize.schemas": True})
        data = write(event, value(topic))
        check("read back under " + strategy, AvroDeserializer(client())(data, value(topic)), event)
        check(strategy, client().get_versions(subject.format("demo." + record, topic)), [1])

    sr, topic = client(), name("major")
    ids = []
    for major in ("1", "2"):
        meta = Metadata(None, MetadataProperties({"major": major}), None)
        more = with_field(FLIGHT, {"name": "gate" + major, "type": ["null", "string"], "default": None})
        ids.append(sr.register_schema(topic + "-value", Schema(more, "AVRO", metadata=meta)))
    for conf, want in (
        ({"use.latest.with.metadata": {"major": "1"}}, ids[0]),
        ({"use.latest.version": True}, ids[1]),
        ({"use.schema.id": ids[0]}, ids[0]),
    ):
        write = AvroSerializer(client(), conf={"auto.register.schemas": False, **conf})
        check(str(conf), int.from_bytes(write(event, value(topic))[1:5], "big"), want)

    topic, subject = name("associated"), name("elsewhere")
    sr.register_schema(subject, Schema(text, "AVRO"))
    made = sr.create_association(AssociationCreateOrUpdateRequest(
        resource_name=topic, resource_namespace="-", resource_id=topic + "-id", resource_type="topic",
        associations=[AssociationCreateOrUpdateInfo(subject=subject, association_type="value", lifecycle="WEAK")],
    ))
    check("association", [a.subject for a in made.associations], [subject])
    found = client().get_associations_by_resource_name(topic, "-", "topic", ["value"])
    check("associations of a topic", [(a.subject, a.association_type) for a in found], [(subject, "value")])
    AvroSerializer(client(), text, conf={"subject.name.strategy.type": "ASSOCIATED"})(event, value(topic))
    refused("the subject of the topic's name", 40401, lambda: client().get_versions(topic + "-value"))
    sr.delete_associations(topic + "-id", "topic", ["value"])
    check("no associations", client().get_associations_by_resource_name(topic, "-", "topic", ["value"]), [])


def asynchronous():
    async def run():
        async with AsyncSchemaRegistryClient({"url": URL}) as sr:
            subject, schema = name("async"), Schema(json.dumps(FLIGHT), "AVRO")
            ids = await asyncio.gather(*(sr.register_schema(subject, schema) for _ in range(20)))
            check("registered at a time", len(set(ids)), 1)
            latest = await sr.get_latest_version(subject)
            check("latest", (latest.version, latest.schema_id), (1, ids[0]))
            check("by guid", (await sr.get_schema_by_guid(latest.guid)).schema_str, latest.schema.schema_str)
            await sr.set_config(subject, ServerConfig(compatibility=ConfigCompatibilityLevel.FULL_TRANSITIVE))
            narrower = Schema(with_field(FLIGHT, {"name": "gate", "type": "string"}), "AVRO")
            check("compatible", await sr.test_compatibility(subject, narrower), False)
            try:
                await sr.register_schema(subject, narrower)
                raise AssertionError("an incompatible schema was registered")
            except SchemaRegistryError as e:
                check("refused", e.error_code, 40901)
            check("delete", await sr.delete_subject(subject), [1])
            check("delete for good", await sr.delete_subject(subject, permanent=True), [1])

    asyncio.run(run())


for session in (deleted_versions, subjects_of_serializers, asynchronous, subjects_and_versions, references, metadata_and_rules, avro, json_schema, protobuf):
    session()
print(f"{passed} checks passed")
