package compat

import (
	"fmt"
	"strings"

	"penstock/registry"
	"penstock/schemas"
)

// kindRule is a row of the table of changes. Whether a change is an error is not
// in it: that the rules of the language say, by which Check goes. What is here
// is how much weighs what they let pass, and which changes can be behind what
// they refuse.
type kindRule struct {
	severity          registry.Severity
	protobuf          registry.Severity // in Protobuf, if it is another
	backward, forward bool              // the directions in which it can break
	purpose           string
	// says is the message: {path} is where, {was} and {is} what the two
	// versions say, {what} the constraint, {sure} how sure it is.
	says string
}

const (
	info = registry.SeverityInfo
	warn = registry.SeverityWarning
)

var kindRules = map[schemas.ChangeKind]kindRule{
	schemas.TypeAdded:         {info, "", true, true, "A message or enum is new.", "{path} is new"},
	schemas.TypeRemoved:       {warn, "", true, true, "A message or enum is gone.", "{path} is gone: whoever still uses it cannot"},
	schemas.TypeRenamed:       {info, warn, true, true, "A type has another name.", "the type at {path} is called {is} and was called {was}"},
	schemas.TypeWidened:       {info, "", true, true, "A type takes more values than before.", "{path} is {is} and was {was}: it takes more values than before"},
	schemas.TypeNarrowed:      {info, warn, true, true, "A type takes fewer values than before.", "{path} is {is} and was {was}: it takes fewer values than before"},
	schemas.TypeChanged:       {warn, "", true, true, "A type is another.", "{path} is {is} and was {was}"},
	schemas.MeaningChanged:    {warn, "", true, true, "A value means something else: its logical type, unit, precision or scale changed.", "{path} means {is} and meant {was}: readers that do not know it take one for the other"},
	schemas.NullAllowed:       {info, "", false, true, "A value may be null or absent where it could not.", "{path} may be null"},
	schemas.NullForbidden:     {info, "", true, false, "A value may no longer be null or absent.", "{path} may no longer be null"},
	schemas.BranchAdded:       {info, "", true, true, "A union has one type more.", "{path} may also be {is}"},
	schemas.BranchRemoved:     {info, "", true, true, "A union has one type less.", "{path} may no longer be {was}"},
	schemas.FieldAdded:        {info, "", true, true, "A record has a new field.", "the field {path} is new: {is}"},
	schemas.FieldRemoved:      {info, warn, true, true, "A field of a record is gone.", "the field {path} is gone: it was {was}"},
	schemas.FieldRenamed:      {info, warn, true, true, "A field has another name.", "the field {path} was called {was}{sure}"},
	schemas.FieldMoved:        {info, "", true, true, "A field is in another record.", "the field {is} was {was}{sure}"},
	schemas.FieldRenumbered:   {warn, "", true, true, "A field has another number, so that on the wire it is another field.", "the field {path} has the number {is} and had {was}: what was written under the old one is not read"},
	schemas.FieldsReordered:   {info, "", false, false, "The fields of a record come in another order.", "the fields of {path} come in another order: {is}"},
	schemas.FieldRequired:     {info, "", true, true, "A field must be there that could be left out.", "the field {path} is required"},
	schemas.FieldOptional:     {info, "", true, true, "A field can be left out that had to be there.", "the field {path} may be left out"},
	schemas.DefaultAdded:      {info, "", true, true, "A field has a default that had none.", "the field {path} has the default {is}"},
	schemas.DefaultRemoved:    {info, "", true, true, "A field has no default any more.", "the field {path} no longer has a default: it was {was}"},
	schemas.DefaultChanged:    {warn, "", false, false, "Readers take another value where there is none.", "where there is no {path}, readers take {is} and took {was}"},
	schemas.SymbolAdded:       {info, "", true, true, "An enum has one symbol more.", "the enum at {path} has the new symbol {is}"},
	schemas.SymbolRemoved:     {info, "", true, true, "An enum has one symbol less.", "the enum at {path} no longer has the symbol {was}"},
	schemas.SymbolRenamed:     {warn, "", false, false, "A number of an enum has another name.", "the enum at {path} has {is} and had {was}"},
	schemas.SymbolsReordered:  {info, "", false, false, "The symbols of an enum come in another order, in which they are sorted.", "the symbols of the enum at {path} are sorted otherwise: {is}"},
	schemas.FallbackChanged:   {info, "", true, true, "Readers take another symbol for one that they do not know.", "for a symbol that it does not know, the enum at {path} takes {is} and took {was}"},
	schemas.ConstraintTighter: {info, "", true, true, "A constraint lets fewer values pass.", "{path} has the {what} {is} and had {was}: fewer values pass"},
	schemas.ConstraintLooser:  {info, "", true, true, "A constraint lets more values pass.", "{path} has the {what} {is} and had {was}: more values pass"},
	schemas.ConstraintChanged: {warn, "", true, true, "A constraint lets other values pass.", "{path} has the {what} {is} and had {was}: other values pass"},
	schemas.RecordClosed:      {info, "", true, false, "A record takes no fields beyond those that it names.", "{path} takes no fields beyond those that it names"},
	schemas.RecordOpened:      {info, "", false, true, "A record takes fields beyond those that it names.", "{path} takes fields beyond those that it names"},
	schemas.OneOfChanged:      {info, "", true, true, "A field belongs to another group of which one is set at most.", "the field {path} is in the oneof {is} and was in {was}"},
	schemas.AliasAdded:        {info, "", false, false, "Readers know a type or field by one more name.", "{path} is also known as {is}"},
	schemas.AliasRemoved:      {info, "", false, false, "Readers no longer know a type or field by a name.", "{path} is no longer known as {was}"},
	schemas.TagsChanged:       {info, "", false, false, "A field is labelled in another way.", "{path} is labelled {is} and was labelled {was}"},
	schemas.DocChanged:        {info, "", false, false, "What is said about a type or field changed.", "{path} is described as {is}; it was {was}"},
}

// extraRules are those of changes that lie beside the types.
var extraRules = map[string]kindRule{
	"LANGUAGE_CHANGED":  {severity: registry.SeverityError, purpose: "The schema is in another language.", says: "the schema is written in {is} and was written in {was}: no reader of the one reads the other"},
	"REFERENCE_ADDED":   {severity: info, purpose: "The schema refers to another.", says: "the schema refers to {path}, {is}"},
	"REFERENCE_REMOVED": {severity: info, purpose: "The schema no longer refers to another.", says: "the schema no longer refers to {path}, {was}"},
	"REFERENCE_CHANGED": {severity: info, purpose: "The schema refers to another version.", says: "the schema takes {path} from {is} and took it from {was}"},
	"RESERVED_ADDED":    {severity: info, purpose: "A number or name is kept free.", says: "{path} keeps {is} free"},
	"RESERVED_REMOVED":  {severity: warn, purpose: "A number or name is no longer kept free.", says: "{path} no longer keeps {was} free: a new field may take it, and old events be read as that"},
	"TEXT_CHANGED":      {severity: info, purpose: "Something changed of which readers and writers see nothing.", says: "only what readers and writers do not see changed, such as a property of the text"},
}

// ChangeRules returns the rules of Diff that hold for all languages, with the
// severity that a change of the kind has at least. In addition a change may go
// by one of Rules.
func ChangeRules(t schemas.Type) []Rule {
	var rules []Rule
	for kind, r := range kindRules {
		rules = append(rules, Rule{string(kind), r.severityIn(t), r.purpose})
	}
	for name, r := range extraRules {
		rules = append(rules, Rule{name, r.severity, r.purpose})
	}
	return rules
}

func (r kindRule) severityIn(t schemas.Type) registry.Severity {
	if t == schemas.Protobuf && r.protobuf != "" {
		return r.protobuf
	}
	return r.severity
}

// changed is a change of a rule, with its message where that takes no more.
func changed(rule, was, is string) Change {
	c := Change{Rule: rule, Was: was, Is: is}
	if r, ok := extraRules[rule]; ok {
		c.Severity = r.severity
		c.Message = r.words(&c, "")
	} else {
		c.Severity = info
	}
	return c
}

// words is the message of a change.
func (r kindRule) words(c *Change, what string) string {
	const most = 200
	short := func(s string) string {
		if s == "" {
			return "none"
		}
		if len(s) > most {
			return strings.ToValidUTF8(s[:most], "") + "…"
		}
		return s
	}
	sure := ""
	switch {
	case c.Sure == 100:
		sure = ", known by its " + c.By
	case c.Sure > 0:
		sure = fmt.Sprintf(", as far as its %s tell (%d%% sure)", c.By, c.Sure)
	}
	path := c.Path
	if path == "" {
		path = "the schema"
	}
	return strings.NewReplacer("{path}", path, "{was}", short(c.Was), "{is}", short(c.Is), "{what}", what, "{sure}", sure).Replace(r.says)
}

// advise completes what to do about a change.
func (w *diffWalk) advise(c *Change) {
	if w.language == schemas.Protobuf && c.has(schemas.FieldRemoved) && c.Severity == registry.SeverityWarning {
		f := c.change.OldField
		c.Fix = fmt.Sprintf("keep its number and name free: reserved %d; reserved %q;", f.Number, f.Name)
	}
	// Nothing stops, but what was under the old name is read as absent.
	if c.has(schemas.FieldRenamed) && c.Sure < 100 && c.Severity == info {
		c.Severity = warn
	}
	if c.has(schemas.FieldRenamed) && c.Sure < 100 && c.Fix == "" && w.language == schemas.Avro {
		c.Fix = fmt.Sprintf("give the field \"aliases\": [%q], by which readers find it in old events", c.Was)
	}
	if c.Severity != registry.SeverityError {
		return
	}
	if c.Fix == "" {
		c.Fix = "keep it as it was"
	}
	switch {
	case c.has(schemas.TypeChanged), c.has(schemas.TypeNarrowed), c.has(schemas.FieldMoved), c.has(schemas.FieldRenamed) && len(c.Breaks) == 2:
		c.Fix += "; or in steps: add the new field beside the old one, write both, move the readers to the new one, and remove the old one when no reader of it is left"
	}
}
