// A session of two JavaScript clients with a registry: node session.mjs URL
//
// Every check names what it wants. The last line counts them; the first that
// fails ends the session.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { createRequire } from 'node:module';

const require = createRequire(import.meta.url);
const {
  AvroDeserializer, AvroSerializer, Compatibility, JsonDeserializer, JsonSerializer,
  ProtobufDeserializer, ProtobufSerializer, SchemaRegistryClient, SerdeType, SubjectNameStrategyType,
} = require('@confluentinc/schemaregistry');
const kafkajs = require('@kafkajs/confluent-schema-registry');
const { create, createFileRegistry, toBinary } = require('@bufbuild/protobuf');
const { FileDescriptorSetSchema } = require('@bufbuild/protobuf/wkt');

const url = process.argv[2];
let passed = 0;

function check(what, got, want) {
  assert.deepEqual(got, want, what);
  passed++;
}

async function refused(what, code, call) {
  await assert.rejects(call, (e) => {
    assert.equal(e.errorCode, code, `${what}: ${e}`);
    return true;
  }, what);
  passed++;
}

const client = () => new SchemaRegistryClient({ baseURLs: [url] });
const name = (kind) => `js-${kind}-${randomUUID().slice(0, 8)}`;

const flight = {
  type: 'record', name: 'Flight', namespace: 'demo',
  fields: [
    { name: 'carrier', type: 'string' },
    { name: 'number', type: 'int' },
    { name: 'delay', type: ['null', 'double'], default: null },
  ],
};
const withField = (field) => JSON.stringify({ ...flight, fields: [...flight.fields, field] });

async function subjectsAndVersions() {
  const sr = client(), subject = name('flights');
  const first = { schema: JSON.stringify(flight, null, 2), schemaType: 'AVRO' };
  const id1 = await sr.register(subject, first);
  check('registering again', await client().register(subject, first, true), id1);
  const wider = { schema: withField({ name: 'gate', type: ['null', 'string'], default: null }), schemaType: 'AVRO' };
  const breaking = { schema: withField({ name: 'terminal', type: 'string' }), schemaType: 'AVRO' };
  check('compatible', await sr.testSubjectCompatibility(subject, wider), true);
  check('incompatible', await sr.testSubjectCompatibility(subject, breaking), false);
  check('incompatible with 1', await sr.testCompatibility(subject, 1, breaking), false);
  const id2 = await sr.register(subject, wider);
  await refused('an incompatible schema', 40901, () => sr.register(subject, breaking));
  check('versions', await client().getAllVersions(subject), [1, 2]);
  check('subjects', (await client().getAllSubjects()).includes(subject), true);
  const latest = await client().getLatestSchemaMetadata(subject);
  check('latest', [latest.version, latest.id], [2, id2]);
  check('by id', JSON.parse((await client().getBySubjectAndId(subject, id1)).schema).name, 'Flight');
  check('by guid', (await client().getByGuid(latest.guid)).schema, latest.schema);
  check('lookup', await client().getId(subject, first, false), id1);
  check('version of a schema', await client().getVersion(subject, wider, false, false), 2);
  await refused('an unknown subject', 40401, () => client().getLatestSchemaMetadata(name('nobody')));
  await refused('an unknown id', 40403, () => client().getBySubjectAndId(subject, 2 ** 30));
  check('set level', await sr.updateCompatibility(subject, Compatibility.FULL_TRANSITIVE), Compatibility.FULL_TRANSITIVE);
  check('get level', await client().getCompatibility(subject), Compatibility.FULL_TRANSITIVE);
  await sr.updateConfig(subject, { compatibility: Compatibility.FULL, compatibilityGroup: 'major', normalize: true });
  const config = await client().getConfig(subject);
  check('config', [config.compatibilityLevel, config.compatibilityGroup, config.normalize], ['FULL', 'major', true]);
  check('global level', await client().getDefaultCompatibility(), Compatibility.BACKWARD);
  check('delete version', await client().deleteSubjectVersion(subject, 1), 1);
  check('delete version for good', await client().deleteSubjectVersion(subject, 1, true), 1);
  check('delete subject', await client().deleteSubject(subject), [2]);
  check('delete for good', await client().deleteSubject(subject, true), [2]);
}

async function metadata() {
  const sr = client(), subject = name('contract');
  await sr.register(subject, {
    schema: JSON.stringify(flight), schemaType: 'AVRO',
    metadata: { properties: { owner: 'ops' }, tags: { 'Flight.carrier': ['PII'] }, sensitive: ['secret'] },
    ruleSet: { domainRules: [{ name: 'positive', kind: 'CONDITION', mode: 'WRITE', type: 'CEL', expr: 'message.number > 0', onFailure: 'ERROR' }] },
  });
  const got = await client().getLatestWithMetadata(subject, { owner: 'ops' });
  check('properties', got.metadata.properties, { owner: 'ops' });
  check('rule', got.ruleSet.domainRules[0].expr, 'message.number > 0');
}

async function avro() {
  const topic = name('avro'), event = { carrier: 'UA', number: 1545, delay: -4.5 };
  await client().register(`${topic}-value`, { schema: JSON.stringify(flight), schemaType: 'AVRO' });
  const write = new AvroSerializer(client(), SerdeType.VALUE, { useLatestVersion: true });
  const data = await write.serialize(topic, event);
  check('magic byte', data[0], 0);
  const read = new AvroDeserializer(client(), SerdeType.VALUE, {});
  check('avro read back', { ...(await read.deserialize(topic, data)) }, event);
}

async function jsonSchema() {
  const topic = name('json'), event = { carrier: 'UA', number: 1545 };
  const schema = JSON.stringify({
    $schema: 'http://json-schema.org/draft-07/schema#', type: 'object', title: 'Flight',
    properties: { carrier: { type: 'string' }, number: { type: 'integer' } }, required: ['carrier'],
  });
  await client().register(`${topic}-value`, { schema, schemaType: 'JSON' });
  const write = new JsonSerializer(client(), SerdeType.VALUE, { useLatestVersion: true, validate: true });
  const data = await write.serialize(topic, event);
  const read = new JsonDeserializer(client(), SerdeType.VALUE, { validate: true });
  check('json read back', await read.deserialize(topic, data), event);
  await assert.rejects(write.serialize(topic, { number: 1 }));
  passed++;
  const narrower = { schema: schema.replace('"integer"', '"string"'), schemaType: 'JSON' };
  check('a changed type', await client().testSubjectCompatibility(`${topic}-value`, narrower), false);
}

async function protobuf() {
  const topic = name('protobuf'), pkg = `p${randomUUID().slice(0, 8)}`;
  const field = (name, number, type, more = {}) => ({ name, number, type, label: 1, jsonName: name, ...more });
  const set = create(FileDescriptorSetSchema, {
    file: [
      { name: `${pkg}/airport.proto`, package: pkg, syntax: 'proto3', messageType: [{ name: 'Airport', field: [field('code', 1, 9)] }] },
      {
        name: `${pkg}/flight.proto`, package: pkg, syntax: 'proto3', dependency: [`${pkg}/airport.proto`],
        messageType: [
          { name: 'Other', field: [field('nothing', 1, 8)] },
          { name: 'Flight', field: [field('carrier', 1, 9), field('number', 2, 5), field('origin', 3, 11, { typeName: `.${pkg}.Airport` })] },
        ],
      },
    ],
  });
  const files = createFileRegistry(set);
  const Flight = files.getMessage(`${pkg}.Flight`);
  const event = create(Flight, { carrier: 'UA', number: 1545, origin: create(files.getMessage(`${pkg}.Airport`), { code: 'EWR' }) });
  const shared = client();
  const write = new ProtobufSerializer(shared, SerdeType.VALUE, { autoRegisterSchemas: true });
  write.registry.add(Flight);
  const data = await write.serialize(topic, event);
  for (const [who, c] of [['the client that registered', shared], ['another', client()]]) {
    const read = new ProtobufDeserializer(c, SerdeType.VALUE, {});
    const got = await read.deserialize(topic, data);
    check(`protobuf read by ${who}`, Buffer.from(toBinary(Flight, create(Flight, {
      carrier: got.carrier, number: got.number, origin: create(files.getMessage(`${pkg}.Airport`), { code: got.origin.code }),
    }))), Buffer.from(toBinary(Flight, event)));
  }
}

async function kafkaJS() {
  const registry = new kafkajs.SchemaRegistry({ host: url });
  const subject = name('kafkajs');
  const { id } = await registry.register(
    { type: kafkajs.SchemaType.AVRO, schema: JSON.stringify(flight) }, { subject },
  );
  const event = { carrier: 'UA', number: 1545, delay: null };
  const data = await registry.encode(id, event);
  check('kafkajs avro', { ...(await new kafkajs.SchemaRegistry({ host: url }).decode(data)) }, event);
  check('kafkajs latest', await registry.getLatestSchemaId(subject), id);

  const json = await registry.register({
    type: kafkajs.SchemaType.JSON,
    schema: '{"type":"object","properties":{"carrier":{"type":"string"}},"required":["carrier"]}',
  }, { subject: name('kafkajs-json') });
  check('kafkajs json', await registry.decode(await registry.encode(json.id, { carrier: 'UA' })), { carrier: 'UA' });

  const proto = await registry.register({
    type: kafkajs.SchemaType.PROTOBUF,
    schema: 'syntax = "proto3";\npackage demo;\nmessage Flight { string carrier = 1; int32 number = 2; }',
  }, { subject: name('kafkajs-proto') });
  const got = await registry.decode(await registry.encode(proto.id, { carrier: 'UA', number: 7 }));
  check('kafkajs protobuf', { ...got }, { carrier: 'UA', number: 7 });
}

async function deletedVersions() {
  const sr = client(), subject = name('deleted');
  const [int, long] = ['"int"', '"long"'].map((schema) => ({ schema, schemaType: 'AVRO' }));
  await sr.register(subject, int);
  const full = await sr.registerFullResponse(subject, long, true);
  check('full answer', [full.version, full.schema], [2, '"long"']);
  await sr.deleteSubjectVersion(subject, 2, false);
  await refused('a deleted schema', 40403, () => client().getVersion(subject, long));
  check('a deleted schema, asked for', await client().getVersion(subject, long, false, true), 2);
  check('a deleted version', (await client().getSchemaMetadata(subject, 2, true)).id, full.id);
  check('by guid', (await client().getByGuid(full.guid)).schema, '"long"');
  check('delete for good', [await sr.deleteSubject(subject), await sr.deleteSubject(subject, true)], [[1], [1, 2]]);
}

async function serializers() {
  const topic = name('major'), sr = client(), event = { carrier: 'UA', number: 1545, delay: null };
  const ids = [];
  for (const major of ['1', '2']) {
    const gate = { name: `gate${major}`, type: ['null', 'string'], default: null };
    ids.push(await sr.register(`${topic}-value`, {
      schema: JSON.stringify({ ...flight, fields: [...flight.fields, gate] }), schemaType: 'AVRO', metadata: { properties: { major } },
    }));
  }
  for (const [conf, want] of [
    [{ useLatestWithMetadata: { major: '1' } }, ids[0]],
    [{ useLatestVersion: true, normalizeSchemas: true }, ids[1]],
    [{ useSchemaId: ids[0] }, ids[0]],
  ]) {
    const write = new AvroSerializer(client(), SerdeType.VALUE, conf);
    check(JSON.stringify(conf), (await write.serialize(topic, event)).readInt32BE(1), want);
  }
  const elsewhere = name('elsewhere'), theirs = name('associated');
  const id = await sr.register(elsewhere, { schema: JSON.stringify(flight), schemaType: 'AVRO' });
  await sr.createAssociation({
    resourceName: theirs, resourceNamespace: '-', resourceId: `${theirs}-id`, resourceType: 'topic',
    associations: [{ subject: elsewhere, associationType: 'value', lifecycle: 'WEAK' }],
  });
  const found = await client().getAssociationsByResourceName(theirs, '-', 'topic', ['value'], null, 0, -1);
  check('associations of a topic', found.map((a) => a.subject), [elsewhere]);
  const write = new AvroSerializer(client(), SerdeType.VALUE, { useLatestVersion: true, subjectNameStrategyType: SubjectNameStrategyType.ASSOCIATED });
  check('written under the associated subject', (await write.serialize(theirs, event)).readInt32BE(1), id);
  await sr.deleteAssociations(`${theirs}-id`, 'topic', ['value'], false);
  check('no associations', await client().getAssociationsByResourceName(theirs, '-', 'topic', ['value'], null, 0, -1), []);
}

for (const session of [deletedVersions, serializers, subjectsAndVersions, metadata, avro, jsonSchema, protobuf, kafkaJS]) {
  await session();
}
console.log(`${passed} checks passed`);
