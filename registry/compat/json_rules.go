package compat

import "penstock/registry"

// The rules of JSON Schema are those of Confluent's registry, verdict for
// verdict and place for place, with these differences.
//   - Of an exclusiveMaximum the two limits are compared; there the new limit is
//     taken from maximum, and without one the check fails. A const of null is a
//     value like others; there it fails the check.
//   - Bounds are compared exactly, not as float64.
//   - A negation that did not change is no finding.
//   - Where several matchings of the members of combinations are equally large,
//     another may be chosen; members of equal text come first.
//   - A break within a recursion is told at each place that leads to it, but not
//     at growing paths.
//   - A comparison that takes too long ends as TOO_COMPLEX_TO_COMPARE.
//
// As there, the rules do not see everything: a required property with an empty
// schema may be added to an open object, a wider member of a oneOf may meet
// another, and format, contains, propertyNames, if and the schemas of
// patternProperties are not compared.

// jsonRule is a row of the table of JSON Schema: a rule, and what it says to
// whom it concerns. In the words, {R} and {W} are the reader's and the writer's
// schema, {at} is the place, {name} a field or keyword, {r} and {w} what the
// two schemas say.
type jsonRule struct {
	name    string
	verdict byte   // of compatible: y, n, or l, under the policy LENIENT only
	purpose string // of Rule
	says    string // the message; where it is empty, the purpose is
	fix     string // where the new schema reads
	forward string // where the old schema reads
}

func (r *jsonRule) severity(lenient bool) registry.Severity {
	if r.verdict == 'n' || r.verdict == 'l' && !lenient {
		return registry.SeverityError
	}
	return registry.SeverityInfo
}

// rulesOfJSON returns the table as Rules gives it: with the severity under the
// policy STRICT.
func rulesOfJSON() []Rule {
	rules := make([]Rule, len(jsonRules))
	for i := range jsonRules {
		rules[i] = Rule{jsonRules[i].name, jsonRules[i].severity(false), jsonRules[i].purpose}
	}
	return rules
}

// The rules of JSON Schema by their place in the table. The four of each bound
// stand at the end, in the order of jsonLimits.
const (
	jsonIDChanged = iota
	jsonTitleChanged
	jsonDescriptionChanged
	jsonDefaultChanged
	jsonSchemaAdded
	jsonSchemaRemoved
	jsonTypeExtended
	jsonTypeNarrowed
	jsonTypeChanged
	jsonPatternAdded
	jsonPatternRemoved
	jsonPatternChanged
	jsonMultipleAdded
	jsonMultipleRemoved
	jsonMultipleExpanded
	jsonMultipleReduced
	jsonMultipleChanged
	jsonRequiredAdded
	jsonRequiredWithDefaultAdded
	jsonRequiredRemoved
	jsonAdditionalPropertiesAdded
	jsonAdditionalPropertiesRemoved
	jsonAdditionalPropertiesExtended
	jsonAdditionalPropertiesNarrowed
	jsonUnevaluatedPropertiesAdded
	jsonUnevaluatedPropertiesRemoved
	jsonUnevaluatedPropertiesExtended
	jsonUnevaluatedPropertiesNarrowed
	jsonListAdded
	jsonListRemoved
	jsonListExtended
	jsonListNarrowed
	jsonListChanged
	jsonDependencyAdded
	jsonDependencyRemoved
	jsonOptionalNewOpen
	jsonDefaultedNewOpen
	jsonRequiredNewOpen
	jsonEmptyNewOpen
	jsonOptionalNewUnopen
	jsonDefaultedNewUnopen
	jsonRequiredNewUnopen
	jsonPropertyNewCovered
	jsonPropertyNewNotCovered
	jsonPropertyGoneOpen
	jsonPropertyGoneClosed
	jsonFalsePropertyGone
	jsonPropertyGoneCovered
	jsonPropertyGoneNotCovered
	jsonPropertyNewOpen
	jsonReservedRemoved
	jsonReservedConflicts
	jsonUniqueAdded
	jsonUniqueRemoved
	jsonAdditionalItemsAdded
	jsonAdditionalItemsRemoved
	jsonAdditionalItemsExtended
	jsonAdditionalItemsNarrowed
	jsonUnevaluatedItemsAdded
	jsonUnevaluatedItemsRemoved
	jsonUnevaluatedItemsExtended
	jsonUnevaluatedItemsNarrowed
	jsonItemNewOpen
	jsonEmptyItemNewOpen
	jsonItemNewClosed
	jsonItemNewCovered
	jsonItemNewNotCovered
	jsonItemGoneOpen
	jsonItemGoneClosed
	jsonFalseItemGone
	jsonItemGoneCovered
	jsonItemGoneNotCovered
	jsonEnumExtended
	jsonEnumNarrowed
	jsonEnumChanged
	jsonCombinedExtended
	jsonCombinedChanged
	jsonSumExtended
	jsonSumNarrowed
	jsonProductExtended
	jsonProductNarrowed
	jsonMembersChanged
	jsonNotExtended
	jsonNotNarrowed
	jsonTooComplex
	jsonMoreFindings
	jsonLimitRules // the first of them
)

// Rules that are told apart by the content model that they meet.
type (
	jsonNewPropertyRules struct{ empty, optional, withDefault, required int }
	jsonRestRules        struct{ added, removed, extended, narrowed int }
)

const jsonNoRule = -1

var (
	jsonNewPropertyOpen   = jsonNewPropertyRules{jsonEmptyNewOpen, jsonOptionalNewOpen, jsonDefaultedNewOpen, jsonRequiredNewOpen}
	jsonNewPropertyUnopen = jsonNewPropertyRules{jsonNoRule, jsonOptionalNewUnopen, jsonDefaultedNewUnopen, jsonRequiredNewUnopen}

	jsonAdditionalProperties = jsonRestRules{
		jsonAdditionalPropertiesAdded, jsonAdditionalPropertiesRemoved, jsonAdditionalPropertiesExtended, jsonAdditionalPropertiesNarrowed,
	}
	jsonUnevaluatedProperties = jsonRestRules{
		jsonUnevaluatedPropertiesAdded, jsonUnevaluatedPropertiesRemoved, jsonUnevaluatedPropertiesExtended, jsonUnevaluatedPropertiesNarrowed,
	}
	jsonAdditionalItems = jsonRestRules{
		jsonAdditionalItemsAdded, jsonAdditionalItemsRemoved, jsonAdditionalItemsExtended, jsonAdditionalItemsNarrowed,
	}
	jsonUnevaluatedItems = jsonRestRules{
		jsonUnevaluatedItemsAdded, jsonUnevaluatedItemsRemoved, jsonUnevaluatedItemsExtended, jsonUnevaluatedItemsNarrowed,
	}
)

// jsonRules is the table of JSON Schema.
var jsonRules = append([]jsonRule{
	jsonIDChanged:          {name: "ID_CHANGED", verdict: 'y', purpose: "The schema has another id."},
	jsonTitleChanged:       {name: "TITLE_CHANGED", verdict: 'y', purpose: "The title differs, which changes nothing for data."},
	jsonDescriptionChanged: {name: "DESCRIPTION_CHANGED", verdict: 'y', purpose: "The description differs, which changes nothing for data."},
	jsonDefaultChanged:     {name: "DEFAULT_CHANGED", verdict: 'y', purpose: "The default differs, which is what a reader takes for a missing value."},
	jsonSchemaAdded: {
		"SCHEMA_ADDED", 'n', "The reader has a schema for all items, and the writer none.",
		"{R} has a schema for the items at {at}, and {W} has none: items of any sort may be in data written with {W}, and are refused where they do not fit",
		`leave "items" out, or let it take whatever was written`,
		`keep the "items" of the old schema: its readers refuse what does not fit them`,
	},
	jsonSchemaRemoved: {name: "SCHEMA_REMOVED", verdict: 'y', purpose: "The reader takes items of any sort, and the writer has a schema for them."},
	jsonTypeExtended:  {name: "TYPE_EXTENDED", verdict: 'y', purpose: "The reader takes any number, and the writer writes integers."},
	jsonTypeNarrowed: {
		"TYPE_NARROWED", 'n', "The reader takes integers alone, and the writer any number.",
		"{R} takes integers alone at {at}, and {W} any number: a number such as 1.5 is refused",
		`keep "type": "number"`,
		`keep "type": "integer": readers with the old schema refuse other numbers`,
	},
	jsonTypeChanged: {
		"TYPE_CHANGED", 'n', "The two describe different sorts of values.",
		"{R} takes {r} at {at}, and {W} {w}: data written with {W} is refused where it is anything else",
		"keep {w}, or allow it beside the new one by a list of types or an anyOf; or add a new field",
		"keep {r}: readers with the old schema take nothing else there; or add a new field",
	},
	jsonPatternAdded: {
		"PATTERN_ADDED", 'n', "The reader asks for text of a pattern, and the writer does not.",
		"{R} asks for text that matches {r} at {at}, and {W} takes any: text written with {W} may be refused",
		`leave "pattern" out`,
		`keep "pattern": {r}, which readers with the old schema ask for`,
	},
	jsonPatternRemoved: {name: "PATTERN_REMOVED", verdict: 'y', purpose: "The reader takes any text, and the writer asks for a pattern."},
	jsonPatternChanged: {
		"PATTERN_CHANGED", 'n', "The two ask for text of different patterns.",
		"{R} asks for text that matches {r} at {at}, and {W} for {w}: text that fits the one may not fit the other, which the rules cannot tell",
		"keep the pattern {w}, or leave it out",
		"keep the pattern {r}, which readers with the old schema ask for",
	},
	jsonMultipleAdded: {
		"MULTIPLE_OF_ADDED", 'n', "The reader asks for multiples of a number, and the writer does not.",
		"{R} asks for a multiple of {r} at {at}, and {W} takes any number: numbers written with {W} may be refused",
		`leave "multipleOf" out`,
		`keep "multipleOf": {r}, which readers with the old schema ask for`,
	},
	jsonMultipleRemoved: {name: "MULTIPLE_OF_REMOVED", verdict: 'y', purpose: "The reader takes any number, and the writer asks for multiples of one."},
	jsonMultipleExpanded: {
		"MULTIPLE_OF_EXPANDED", 'n', "The reader asks for multiples of a number that is a multiple of the writer's.",
		"{R} asks for a multiple of {r} at {at}, and {W} for one of {w}: numbers written with {W} may be refused",
		`keep "multipleOf": {w}, or a number that divides it`,
		`keep "multipleOf": {r}, which readers with the old schema ask for`,
	},
	jsonMultipleReduced: {name: "MULTIPLE_OF_REDUCED", verdict: 'y', purpose: "The reader asks for multiples of a number that divides the writer's."},
	jsonMultipleChanged: {
		"MULTIPLE_OF_CHANGED", 'n', "The two ask for multiples of numbers of which neither divides the other.",
		"{R} asks for a multiple of {r} at {at}, and {W} for one of {w}: numbers written with {W} may be refused",
		`keep "multipleOf": {w}, or a number that divides it`,
		`keep "multipleOf": {r}, which readers with the old schema ask for`,
	},
	jsonRequiredAdded: {
		"REQUIRED_ATTRIBUTE_ADDED", 'n', "The reader requires a field that the writer may leave out.",
		"{R} requires the field {name} ({at}), and {W} does not: data written with {W} may lack it",
		`take {name} out of "required", or give it a "default"`,
		`keep {name} in "required": readers with the old schema need it`,
	},
	jsonRequiredWithDefaultAdded:  {name: "REQUIRED_ATTRIBUTE_WITH_DEFAULT_ADDED", verdict: 'y', purpose: "The reader requires a field that the writer may leave out, and has a default for it."},
	jsonRequiredRemoved:           {name: "REQUIRED_ATTRIBUTE_REMOVED", verdict: 'y', purpose: "The reader does not require a field that the writer always writes."},
	jsonAdditionalPropertiesAdded: {name: "ADDITIONAL_PROPERTIES_ADDED", verdict: 'y', purpose: "The reader allows fields that it does not name, and the writer forbids them."},
	jsonAdditionalPropertiesRemoved: {
		"ADDITIONAL_PROPERTIES_REMOVED", 'l', "The reader forbids fields that it does not name, and the writer allows them.",
		"{R} forbids fields that it does not name ({at}), and {W} allows them: data written with {W} may have some, and is refused",
		`allow other fields as before; or check by the policy LENIENT, if no writer has used them`,
		`keep "additionalProperties": false: readers with the old schema refuse other fields; or check by the policy LENIENT`,
	},
	jsonAdditionalPropertiesExtended: {name: "ADDITIONAL_PROPERTIES_EXTENDED", verdict: 'y', purpose: "The reader allows any fields that it does not name, and the writer has a schema for them."},
	jsonAdditionalPropertiesNarrowed: {
		"ADDITIONAL_PROPERTIES_NARROWED", 'l', "The reader has a schema for fields that it does not name, and the writer allows any.",
		"{R} has a schema for fields that it does not name ({at}), and {W} allows any: data written with {W} may have some that do not fit",
		`allow other fields of any sort as before; or check by the policy LENIENT, if no writer has used them`,
		`keep the schema of "additionalProperties": readers with the old schema ask for it; or check by the policy LENIENT`,
	},
	jsonUnevaluatedPropertiesAdded: {name: "UNEVALUATED_PROPERTIES_ADDED", verdict: 'y', purpose: "The reader allows fields that nothing speaks of, and the writer forbids them."},
	jsonUnevaluatedPropertiesRemoved: {
		"UNEVALUATED_PROPERTIES_REMOVED", 'l', "The reader forbids fields that nothing speaks of, and the writer allows them.",
		"{R} forbids fields that nothing in it speaks of ({at}), and {W} allows them: data written with {W} may have some, and is refused",
		`leave "unevaluatedProperties": false out; or check by the policy LENIENT, if no writer has used other fields`,
		`keep "unevaluatedProperties": false: readers with the old schema refuse other fields; or check by the policy LENIENT`,
	},
	jsonUnevaluatedPropertiesExtended: {name: "UNEVALUATED_PROPERTIES_EXTENDED", verdict: 'y', purpose: "The reader allows any fields that nothing speaks of, and the writer has a schema for them."},
	jsonUnevaluatedPropertiesNarrowed: {
		"UNEVALUATED_PROPERTIES_NARROWED", 'l', "The reader has a schema for fields that nothing speaks of, and the writer allows any.",
		"{R} says what fields may be that nothing else in it speaks of ({at}), and {W} does not: data written with {W} may have some that do not fit",
		`leave "unevaluatedProperties" as it was; or check by the policy LENIENT, if no writer has used other fields`,
		`keep "unevaluatedProperties" as it was, since readers with the old schema go by it; or check by the policy LENIENT`,
	},
	jsonListAdded: {
		"DEPENDENCY_ARRAY_ADDED", 'n', "The reader requires fields wherever another is present, and the writer does not.",
		"{R} requires {r} wherever the field {name} is present ({at}), and {W} does not: data written with {W} may lack them",
		"leave the dependency of {name} out",
		"keep the dependency of {name} on {r}: readers with the old schema need them",
	},
	jsonListRemoved: {name: "DEPENDENCY_ARRAY_REMOVED", verdict: 'y', purpose: "The reader does not require fields that the writer writes wherever another is present."},
	jsonListExtended: {
		"DEPENDENCY_ARRAY_EXTENDED", 'n', "The reader requires more fields than the writer wherever another is present.",
		"{R} requires {r} wherever the field {name} is present ({at}), and {W} only {w}: data written with {W} may lack some",
		"let {name} require no more than {w}",
		"keep the dependency of {name} on {r}: readers with the old schema need them",
	},
	jsonListNarrowed: {name: "DEPENDENCY_ARRAY_NARROWED", verdict: 'y', purpose: "The reader requires fewer fields than the writer wherever another is present."},
	jsonListChanged: {
		"DEPENDENCY_ARRAY_CHANGED", 'n', "The two require different fields wherever another is present.",
		"{R} requires {r} wherever the field {name} is present ({at}), and {W} requires {w}: data written with {W} may lack some",
		"let {name} require no more than {w}",
		"keep the dependency of {name} on {r}: readers with the old schema need them",
	},
	jsonDependencyAdded: {
		"DEPENDENCY_SCHEMA_ADDED", 'n', "The reader has a schema for objects that have a field, and the writer has none.",
		"{R} has a schema for objects in which the field {name} is present ({at}), and {W} has none: data written with {W} may not fit it",
		"leave the dependency of {name} out",
		"keep the dependency of {name}: readers with the old schema go by it",
	},
	jsonDependencyRemoved: {name: "DEPENDENCY_SCHEMA_REMOVED", verdict: 'y', purpose: "The writer has a schema for objects that have a field, and the reader has none."},
	jsonOptionalNewOpen: {
		"OPTIONAL_PROPERTY_ADDED_TO_OPEN_CONTENT_MODEL", 'l', "The reader describes a field that the writer leaves open.",
		"{R} describes the field {name} ({at}), and {W} allows anything under that name: data written with {W} may have something else there, and is refused",
		`give {name} an empty schema; or check by the policy LENIENT, if no writer has used that name; to add fields freely, let schemas have "additionalProperties": false`,
		`keep the field {name}, or let the new schema have "additionalProperties": false, so that nothing else is written under that name; or check by the policy LENIENT`,
	},
	jsonDefaultedNewOpen: {
		"REQUIRED_PROPERTY_WITH_DEFAULT_ADDED_TO_OPEN_CONTENT_MODEL", 'l', "The reader requires a field, with a default, that the writer leaves open.",
		"{R} describes and requires the field {name} ({at}), with a default, and {W} allows anything under that name: data written with {W} may have something else there, and is refused",
		`give {name} an empty schema; or check by the policy LENIENT, if no writer has used that name; to add fields freely, let schemas have "additionalProperties": false`,
		`keep the field {name}, or let the new schema have "additionalProperties": false, so that nothing else is written under that name; or check by the policy LENIENT`,
	},
	jsonRequiredNewOpen: {
		"REQUIRED_PROPERTY_ADDED_TO_OPEN_CONTENT_MODEL", 'n', "The reader requires a field that the writer does not name.",
		"{R} requires the field {name} ({at}), which {W} does not name: data written with {W} lacks it, or has something else under that name",
		`take {name} out of "required" or give it a "default"; even then {W} allows anything under that name, which only the policy LENIENT lets pass`,
		"keep the field {name} and keep it required: readers with the old schema need it",
	},
	jsonEmptyNewOpen:       {name: "PROPERTY_WITH_EMPTY_SCHEMA_ADDED_TO_OPEN_CONTENT_MODEL", verdict: 'y', purpose: "The reader names a field, of any sort, that the writer leaves open."},
	jsonOptionalNewUnopen:  {name: "OPTIONAL_PROPERTY_ADDED_TO_UNOPEN_CONTENT_MODEL", verdict: 'y', purpose: "The reader describes a field that the writer does not name, and not just anything can stand there."},
	jsonDefaultedNewUnopen: {name: "REQUIRED_PROPERTY_WITH_DEFAULT_ADDED_TO_UNOPEN_CONTENT_MODEL", verdict: 'y', purpose: "The reader requires a field that the writer does not name, and has a default for it."},
	jsonRequiredNewUnopen: {
		"REQUIRED_PROPERTY_ADDED_TO_UNOPEN_CONTENT_MODEL", 'n', "The reader requires a field that the writer does not name.",
		"{R} requires the field {name} ({at}), which {W} does not name: data written with {W} lacks it",
		`take {name} out of "required", or give it a "default"`,
		"keep the field {name} and keep it required: readers with the old schema need it",
	},
	jsonPropertyNewCovered: {name: "PROPERTY_ADDED_IS_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL", verdict: 'y', purpose: "The reader describes a field as wide as the writer's schema for fields that it does not name."},
	jsonPropertyNewNotCovered: {
		"PROPERTY_ADDED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL", 'l', "The reader describes a field in another way than the writer's schema for fields that it does not name.",
		"{R} describes the field {name} ({at}) in another way than {W} describes fields that it does not name: data written with {W} may have one of that name that does not fit",
		"let {name} take what the old schema allows for fields that it does not name",
		"keep the field {name}, or let the new schema allow for fields that it does not name no more than the old one takes for {name}",
	},
	jsonPropertyGoneOpen: {name: "PROPERTY_REMOVED_FROM_OPEN_CONTENT_MODEL", verdict: 'y', purpose: "The reader does not name a field of the writer, and allows anything there."},
	jsonPropertyGoneClosed: {
		"PROPERTY_REMOVED_FROM_CLOSED_CONTENT_MODEL", 'l', "The reader forbids a field that the writer has.",
		"{R} does not name the field {name} ({at}) and forbids fields that it does not name: data written with {W} may have it, and is refused",
		`keep the field {name}, or allow other fields; or check by the policy LENIENT, if no writer has used it`,
		`leave the field {name} out: readers with the old schema refuse it; to add fields, let schemas allow those that they do not name; or check by the policy LENIENT`,
	},
	jsonFalsePropertyGone:   {name: "PROPERTY_WITH_FALSE_REMOVED_FROM_CLOSED_CONTENT_MODEL", verdict: 'y', purpose: "The reader forbids a field by not naming it, which the writer forbids by name."},
	jsonPropertyGoneCovered: {name: "PROPERTY_REMOVED_IS_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL", verdict: 'y', purpose: "The reader's schema for fields that it does not name takes a field of the writer."},
	jsonPropertyGoneNotCovered: {
		"PROPERTY_REMOVED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL", 'l', "The reader's schema for fields that it does not name does not take a field of the writer.",
		"{R} does not name the field {name} ({at}), and its schema for fields that it does not name does not take what {W} has there",
		"keep the field {name}, or widen the schema for fields that are not named so that it takes it",
		"leave the field {name} out, or let it be such that the old schema takes it for one that it does not name",
	},
	jsonPropertyNewOpen: {
		name: "PROPERTY_ADDED_TO_OPEN_CONTENT_MODEL", verdict: 'n',
		purpose: "A field is added to what the writer leaves open. The finer rules of that name are reported instead.",
	},
	jsonReservedRemoved:   {name: "RESERVED_PROPERTY_REMOVED", verdict: 'n', purpose: "A name is no longer reserved. It is checked apart from the rules."},
	jsonReservedConflicts: {name: "RESERVED_PROPERTY_CONFLICTS_WITH_PROPERTY", verdict: 'n', purpose: "A field has a reserved name. It is checked apart from the rules."},
	jsonUniqueAdded: {
		"UNIQUE_ITEMS_ADDED", 'n', "The reader asks for items that differ, and the writer does not.",
		"{R} asks for items that all differ ({at}), and {W} does not: data written with {W} may have equal ones",
		`leave "uniqueItems" out`,
		`keep "uniqueItems": true: readers with the old schema refuse equal items`,
	},
	jsonUniqueRemoved:        {name: "UNIQUE_ITEMS_REMOVED", verdict: 'y', purpose: "The reader takes equal items, and the writer asks for items that differ."},
	jsonAdditionalItemsAdded: {name: "ADDITIONAL_ITEMS_ADDED", verdict: 'y', purpose: "The reader allows items behind those that it names, and the writer forbids them."},
	jsonAdditionalItemsRemoved: {
		"ADDITIONAL_ITEMS_REMOVED", 'n', "The reader forbids items behind those that it names, and the writer allows them.",
		"{R} forbids items behind those that it names ({at}), and {W} allows them: data written with {W} may have some, and is refused",
		"allow further items as before",
		"keep further items forbidden: readers with the old schema refuse them",
	},
	jsonAdditionalItemsExtended: {name: "ADDITIONAL_ITEMS_EXTENDED", verdict: 'y', purpose: "The reader allows any items behind those that it names, and the writer has a schema for them."},
	jsonAdditionalItemsNarrowed: {
		"ADDITIONAL_ITEMS_NARROWED", 'n', "The reader has a schema for items behind those that it names, and the writer allows any.",
		"{R} has a schema for items behind those that it names ({at}), and {W} allows any: data written with {W} may have some that do not fit",
		"allow further items of any sort as before",
		"keep the schema of further items: readers with the old schema ask for it",
	},
	jsonUnevaluatedItemsAdded: {name: "UNEVALUATED_ITEMS_ADDED", verdict: 'y', purpose: "The reader allows items that nothing speaks of, and the writer forbids them."},
	jsonUnevaluatedItemsRemoved: {
		"UNEVALUATED_ITEMS_REMOVED", 'n', "The reader forbids items that nothing speaks of, and the writer allows them.",
		"{R} forbids items that nothing in it speaks of ({at}), and {W} allows them: data written with {W} may have some, and is refused",
		`leave "unevaluatedItems": false out`,
		`keep "unevaluatedItems": false: readers with the old schema refuse other items`,
	},
	jsonUnevaluatedItemsExtended: {name: "UNEVALUATED_ITEMS_EXTENDED", verdict: 'y', purpose: "The reader allows any items that nothing speaks of, and the writer has a schema for them."},
	jsonUnevaluatedItemsNarrowed: {
		"UNEVALUATED_ITEMS_NARROWED", 'n', "The reader has a schema for items that nothing speaks of, and the writer allows any.",
		"{R} says what items may be that nothing else in it speaks of ({at}), and {W} does not: data written with {W} may have some that do not fit",
		`leave "unevaluatedItems" as it was`,
		`keep "unevaluatedItems" as it was: readers with the old schema go by it`,
	},
	jsonItemNewOpen: {
		"ITEM_ADDED_TO_OPEN_CONTENT_MODEL", 'n', "The reader describes an item by its place that the writer leaves open.",
		"{R} describes the item at {at}, and {W} allows anything there: data written with {W} may have something else, and is refused",
		"leave the item out, or give it an empty schema",
		"keep the item, or let the new schema forbid further items, so that nothing else is written there",
	},
	jsonEmptyItemNewOpen: {name: "ITEM_WITH_EMPTY_SCHEMA_ADDED_TO_OPEN_CONTENT_MODEL", verdict: 'y', purpose: "The reader names an item, of any sort, that the writer leaves open."},
	jsonItemNewClosed:    {name: "ITEM_ADDED_TO_CLOSED_CONTENT_MODEL", verdict: 'y', purpose: "The reader describes an item by its place that the writer forbids."},
	jsonItemNewCovered:   {name: "ITEM_ADDED_IS_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL", verdict: 'y', purpose: "The reader describes an item as wide as the writer's schema for further items."},
	jsonItemNewNotCovered: {
		"ITEM_ADDED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL", 'n', "The reader describes an item in another way than the writer's schema for further items.",
		"{R} describes the item at {at} in another way than {W} describes further items: data written with {W} may have one there that does not fit",
		"let the item take what the old schema allows for further items",
		"keep the item, or let the new schema allow for further items no more than the old one takes there",
	},
	jsonItemGoneOpen: {name: "ITEM_REMOVED_FROM_OPEN_CONTENT_MODEL", verdict: 'y', purpose: "The reader does not name an item of the writer, and allows anything there."},
	jsonItemGoneClosed: {
		"ITEM_REMOVED_FROM_CLOSED_CONTENT_MODEL", 'n', "The reader forbids an item that the writer has.",
		"{R} has no item at {at} and forbids further ones: data written with {W} may have it, and is refused",
		"keep the item, or allow further items",
		"leave the item out: readers with the old schema refuse it",
	},
	jsonFalseItemGone:   {name: "ITEM_WITH_FALSE_REMOVED_FROM_CLOSED_CONTENT_MODEL", verdict: 'y', purpose: "The reader forbids an item by not naming it, which the writer forbids by place."},
	jsonItemGoneCovered: {name: "ITEM_REMOVED_IS_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL", verdict: 'y', purpose: "The reader's schema for further items takes an item of the writer."},
	jsonItemGoneNotCovered: {
		"ITEM_REMOVED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL", 'n', "The reader's schema for further items does not take an item of the writer.",
		"{R} has no item at {at}, and its schema for further items does not take what {W} has there",
		"keep the item, or widen the schema of further items so that it takes it",
		"leave the item out, or let it be such that the old schema takes it for a further one",
	},
	jsonEnumExtended: {name: "ENUM_ARRAY_EXTENDED", verdict: 'y', purpose: "The reader's enum has all values of the writer's, and more."},
	jsonEnumNarrowed: {
		"ENUM_ARRAY_NARROWED", 'n', "The reader's enum lacks values of the writer's.",
		"{R} does not have the values {w} at {at}, and {W} does: data written with {W} may hold them, and is refused",
		"keep the values {w}",
		"leave the values {w} out: readers with the old schema do not know them",
	},
	jsonEnumChanged: {
		"ENUM_ARRAY_CHANGED", 'n', "The reader's enum lacks values of the writer's and has others, or a const has another value.",
		"{R} does not have {w} at {at}, which {W} has, and has {r} instead: data written with {W} may hold the former, and is refused",
		"keep {w}, beside what is new",
		"leave {w} out and keep {r}: readers with the old schema know nothing else",
	},
	jsonCombinedExtended: {name: "COMBINED_TYPE_EXTENDED", verdict: 'y', purpose: "The reader combines schemas in another way, which takes no less."},
	jsonCombinedChanged: {
		"COMBINED_TYPE_CHANGED", 'n', "The reader combines schemas in another way, which may take less.",
		"{R} has {r} at {at}, and {W} has {w}: what fits the one may not fit the other",
		`keep the combination as it was, or use "anyOf"`,
		"keep the combination as it was: readers with the old schema go by it",
	},
	jsonSumExtended: {name: "SUM_TYPE_EXTENDED", verdict: 'y', purpose: "The reader allows more alternatives than the writer."},
	jsonSumNarrowed: {
		"SUM_TYPE_NARROWED", 'n', "The reader allows fewer alternatives than the writer.",
		"{R} has {r} at {at}, and {W} has {w}: data of an alternative that {R} lacks is refused",
		"keep all the alternatives, and add new ones beside them",
		"add no alternatives: readers with the old schema do not know them",
	},
	jsonProductExtended: {
		"PRODUCT_TYPE_EXTENDED", 'n', "The reader asks for more schemas to be met at once than the writer.",
		"{R} has {r} at {at}, and {W} has {w}: data written with {W} need not meet what {R} asks for besides",
		`leave out what the "allOf" asks for besides`,
		`keep everything that the "allOf" of the old schema asks for: its readers go by it`,
	},
	jsonProductNarrowed: {name: "PRODUCT_TYPE_NARROWED", verdict: 'y', purpose: "The reader asks for fewer schemas to be met at once than the writer."},
	jsonMembersChanged: {
		"COMBINED_TYPE_SUBSCHEMAS_CHANGED", 'n', "Members of the writer's combination have no counterpart in the reader's that takes their values.",
		"no member of the combination at {at} in {R} takes all that {name} of {W} does",
		"keep the members as they were, and add new alternatives beside them",
		"keep the members as they were: readers with the old schema know no others",
	},
	jsonNotExtended: {
		"NOT_TYPE_EXTENDED", 'n', "The reader forbids what the writer does not.",
		"{R} forbids more than {W} does by the \"not\" at {at}: data written with {W} may be among it, and is refused",
		`let "not" forbid no more than it did`,
		`keep the "not" of the old schema, or let it forbid more: its readers refuse what it describes`,
	},
	jsonNotNarrowed: {name: "NOT_TYPE_NARROWED", verdict: 'y', purpose: "The reader forbids nothing that the writer does not."},
	jsonTooComplex: {
		"TOO_COMPLEX_TO_COMPARE", 'n', "The schemas have so many alternatives, circles of references or ways to match a pattern that comparing them was given up.",
		"comparing {R} with {W} was given up after about half a million steps, 2,000 levels or half a second of matching patterns: whether data can be read is not known",
		"let the combinations have fewer members, the references shorter circles, or the patterns fewer repetitions within each other; or set the level of the subject to NONE to register without a check",
		"let the combinations have fewer members, the references shorter circles, or the patterns fewer repetitions within each other; or set the level of the subject to NONE to register without a check",
	},
	jsonMoreFindings: {
		name: "MORE_FINDINGS", verdict: 'y', purpose: "There are more findings than are told.",
		says: "there are more differences between {R} and {W} than the 1,000 of each severity that are told",
	},
}, limitRules()...)

// jsonLimits are the keywords that set a bound. what is how a message says it.
var jsonLimits = [...]struct {
	name, keyword string
	kind          jsonKind
	upper         bool
	what          string
}{
	{"MAX_LENGTH", "maxLength", jsonString, true, "at most {} characters"},
	{"MIN_LENGTH", "minLength", jsonString, false, "at least {} characters"},
	{"MAXIMUM", "maximum", jsonNumber, true, "at most {}"},
	{"MINIMUM", "minimum", jsonNumber, false, "at least {}"},
	{"EXCLUSIVE_MAXIMUM", "exclusiveMaximum", jsonNumber, true, "less than {}"},
	{"EXCLUSIVE_MINIMUM", "exclusiveMinimum", jsonNumber, false, "more than {}"},
	{"MAX_PROPERTIES", "maxProperties", jsonObject, true, "at most {} fields"},
	{"MIN_PROPERTIES", "minProperties", jsonObject, false, "at least {} fields"},
	{"MAX_ITEMS", "maxItems", jsonArray, true, "at most {} items"},
	{"MIN_ITEMS", "minItems", jsonArray, false, "at least {} items"},
	{"MAX_CONTAINS", "maxContains", jsonArray, true, `at most {} items that its "contains" describes`},
	{"MIN_CONTAINS", "minContains", jsonArray, false, `at least {} items that its "contains" describes`},
}

// Which of the four rules of a bound it is.
const (
	limitAdded = iota
	limitRemoved
	limitIncreased
	limitDecreased
)
