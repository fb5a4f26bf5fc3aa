package schemas

import "slices"

// Entity is a part of a schema that may have tags: a record or one of its
// fields. Its path is, in Avro, the full name of the record and then the field;
// in Protobuf the names of the messages, without the package, and the field; in
// JSON Schema the way from the root, in which an object is called object, as in
// object.list.array.object.field.
type Entity struct {
	Path string `json:"entityPath"`
	Type string `json:"entityType"` // RecordEntity or FieldEntity
}

// The types of entities.
const (
	RecordEntity = "sr_record"
	FieldEntity  = "sr_field"
)

// Tagger is a Schema whose text can tag its parts: with the property
// confluent:tags in Avro and JSON Schema, with the options
// confluent.message_meta and confluent.field_meta in Protobuf.
type Tagger interface {
	// Retag calls change with each entity, in the order of the text, and the
	// tags that it has there, and returns a text in which it has those that
	// change returns. What a schema refers to in other texts is not part of it.
	Retag(change func(e Entity, tags []string) []string) (string, error)
}

// TagsProperty is the property that lists tags in Avro and JSON Schema.
const TagsProperty = "confluent:tags"

// RetagMembers is Retag for the members of a JSON object.
func RetagMembers(members []JSONMember, e Entity, change func(Entity, []string) []string) []JSONMember {
	at := slices.IndexFunc(members, func(m JSONMember) bool { return m.Name == TagsProperty })
	var before []string
	if at >= 0 {
		for _, item := range members[at].Value.Items {
			if item.Kind == JSONString {
				before = append(before, item.Text)
			}
		}
	}
	after := change(e, before)
	if slices.Equal(before, after) {
		return members
	}
	list := &JSONNode{Kind: JSONArray}
	for _, tag := range after {
		list.Items = append(list.Items, &JSONNode{Kind: JSONString, Text: tag})
	}
	members = slices.Clone(members)
	switch {
	case len(after) == 0:
		return slices.Delete(members, at, at+1)
	case at >= 0:
		members[at].Value = list
		return members
	}
	return append(members, JSONMember{TagsProperty, list})
}
