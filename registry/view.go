package registry

import (
	"encoding/base64"
	"slices"

	"penstock/schemas"
)

// view is a schema as a dialect writes it, with what some routes add.
type view struct {
	Schema
	GUID      string `json:"guid,omitempty"`
	Timestamp int64  `json:"ts,omitempty"`
	Deleted   *bool  `json:"deleted,omitempty"`

	MaxID        *int          `json:"maxId,omitempty"`
	Tags         []Tagged      `json:"schemaTags,omitempty"`
	Aliases      []string      `json:"aliases,omitempty"`
	Associations []Association `json:"associations,omitempty"`
}

func (h *handler) view(s Schema) view {
	if h.options.Dialect == DialectV7 {
		if s.SchemaType == schemas.Avro {
			s.SchemaType = ""
		}
		return view{Schema: s}
	}
	return view{Schema: s, GUID: s.GUID, Timestamp: s.Timestamp, Deleted: &s.Deleted}
}

// reply answers with one version in the format that is asked for.
func (q *query) reply(context string, s Schema) (view, error) {
	tags, err := q.r.findTags(context, s, q.values["findTags"])
	if err != nil {
		return view{}, err
	}
	if s.Schema, err = q.r.InFormat(context, s, q.values.Get("format")); err != nil {
		return view{}, err
	}
	if q.values.Get("referenceFormat") == "qualified" && context != DefaultContext {
		s.References = slices.Clone(s.References)
		for i, ref := range s.References {
			s.References[i].Subject = InContextOf(qualify(context, ""), ref.Subject)
		}
	}
	v := q.view(s)
	v.Tags = tags
	return v, nil
}

// replyTo answers a request that brought a text along. Clients keep the text of
// the answer for the one they sent: so where they sent a language's binary form
// in base64, and ask for no format, it is that which they get back.
func (q *query) replyTo(sent, s Schema) (view, error) {
	if q.permit(q.req.Context(), OpRead, s.Subject) != nil && q.permit(q.req.Context(), OpWrite, s.Subject) != nil {
		return view{}, errSchemaNotFound // found in a context that is not theirs
	}
	context, _ := split(s.Subject)
	if q.values.Get("format") == "" && sent.Schema != s.Schema {
		if _, err := base64.StdEncoding.DecodeString(sent.Schema); err == nil && sent.Schema != "" {
			if text, err := q.r.InFormat(context, s, "serialized"); err == nil && text != s.Schema {
				s.Schema = sent.Schema
			}
		}
	}
	return q.reply(context, s)
}
