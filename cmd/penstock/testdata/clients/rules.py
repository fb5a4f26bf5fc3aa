"""Data contract rules of Confluent's Python client, beside ours: python rules.py URL

It registers schemas with rules, and writes a line of JSON for each event that it
writes: topic, payload (base64), and what it reads back, or null where its rules
refuse the event. For each line of JSON that it is given then, a topic and a
payload, it writes what it reads.
"""

import base64
import json
import sys

from confluent_kafka.schema_registry import (
    ConfigCompatibilityLevel, Rule, RuleKind, RuleMode, RuleSet, Schema, SchemaRegistryClient, ServerConfig)
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONDeserializer, JSONSerializer
from confluent_kafka.schema_registry.rules.cel.cel_executor import CelExecutor
from confluent_kafka.schema_registry.rules.cel.cel_field_executor import CelFieldExecutor
from confluent_kafka.schema_registry.rules.jsonata.jsonata_executor import JsonataExecutor
from confluent_kafka.serialization import MessageField, SerializationContext, SerializationError

for executor in (CelExecutor, CelFieldExecutor, JsonataExecutor):
    executor.register()
sr = SchemaRegistryClient({"url": sys.argv[1]})

USER = {"type": "record", "name": "User", "namespace": "shop", "fields": [
    {"name": "name", "type": "string", "confluent:tags": ["PII"]},
    {"name": "age", "type": "int"},
    {"name": "mails", "type": {"type": "array", "items": "string"}, "default": [], "confluent:tags": ["PII"]},
]}
PERSON = {"type": "object", "properties": {
    "name": {"type": "string", "confluent:tags": ["PII"]}, "age": {"type": "integer"},
    "mails": {"type": "array", "items": {"type": "string"}, "confluent:tags": ["PII"]}}}


def rule(name, kind, mode, type, expr, tags=None):
    return Rule(name=name, kind=kind, mode=mode, type=type, expr=expr, tags=tags, doc=None, params=None,
                on_success=None, on_failure=None, disabled=False)


RULES = RuleSet(migration_rules=None, encoding_rules=None, domain_rules=[
    rule("adult", RuleKind.CONDITION, RuleMode.WRITE, "CEL", "message.age >= 18"),
    rule("loud", RuleKind.TRANSFORM, RuleMode.WRITE, "CEL_FIELD", "value + '!'", ["PII"]),
    rule("mask", RuleKind.TRANSFORM, RuleMode.READ, "CEL_FIELD", "typeName == 'STRING'; '<' + value + '>'", ["PII"]),
    rule("young", RuleKind.CONDITION, RuleMode.READ, "CEL", "message.age < 100"),
])


def renamed(schema):
    text = json.dumps(schema).replace('"name": "name"', '"name": "full"').replace('"name": {', '"full": {')
    up = "$merge([$sift($, function($v, $k) {$k != 'name'}), {'full': $.'name'}])"
    down = "$merge([$sift($, function($v, $k) {$k != 'full'}), {'name': $.'full'}])"
    return text, RuleSet(domain_rules=RULES.domain_rules, encoding_rules=None, migration_rules=[
        rule("up", RuleKind.TRANSFORM, RuleMode.UPGRADE, "JSONATA", up),
        rule("down", RuleKind.TRANSFORM, RuleMode.DOWNGRADE, "JSONATA", down)])


def context(topic):
    return SerializationContext(topic, MessageField.VALUE)


LATEST = {"use.latest.version": True}
WRITE = {"auto.register.schemas": False, "use.latest.version": True}
def read(topic, payload):
    try:
        return READERS[topic](payload, context(topic))
    except SerializationError:
        return None


payloads = []
for topic, schema, kind, serializer in (
        ("avro", USER, "AVRO", lambda: AvroSerializer(sr, conf=WRITE)), ("json", PERSON, "JSON", lambda: JSONSerializer(None, sr, conf=WRITE))):
    sr.set_config(topic + "-value", ServerConfig(compatibility=ConfigCompatibilityLevel.NONE))
    sr.register_schema(topic + "-value", Schema(json.dumps(schema), kind, rule_set=RULES))
    write = serializer()
    for event in ({"name": "Ann", "age": 30, "mails": ["a", "b"]}, {"name": "Kid", "age": 10, "mails": []}, {"name": "Old", "age": 120, "mails": []}):
        try:
            payload = write(dict(event), context(topic))
        except SerializationError:
            payload = None
        payloads.append((topic, event, payload))
    text, rules = renamed(schema)
    sr.register_schema(topic + "-value", Schema(text, kind, rule_set=rules))

# Another client, which has not kept what was the latest version.
fresh = SchemaRegistryClient({"url": sys.argv[1]})
READERS = {
    "avro": AvroDeserializer(fresh, conf=LATEST),
    "json": JSONDeserializer(None, schema_registry_client=fresh, conf=LATEST),
}
for topic, event, payload in payloads:
    print(json.dumps({"topic": topic, "event": event, "payload": payload and base64.b64encode(payload).decode(),
                      "read": payload and read(topic, payload)}))
print(flush=True)
for line in sys.stdin:
    given = json.loads(line)
    print(json.dumps({"topic": given["topic"], "read": read(given["topic"], base64.b64decode(given["payload"]))}), flush=True)
