package protobuf

// The types below are a file as its text says it: names, numbers and labels as
// written, in the order of the text. Comments and empty statements are not
// kept.
type (
	fileText struct {
		syntax   string // "" if not written
		pkg      string
		imports  []string
		public   []string
		weak     []string
		options  []option
		messages []*messageText
		enums    []*enumText
		extends  []*extendText
		services []*serviceText
	}
	messageText struct {
		name       string
		reserved   []ranges
		options    []option
		fields     []*fieldText
		oneofs     []*oneofText
		groups     []*fieldText
		extensions []ranges
		extends    []*extendText
		messages   []*messageText
		enums      []*enumText
	}
	fieldText struct {
		label   string // "" if not written
		key     string // of a map, else ""
		typ     string // of a map, its values'
		name    string
		number  int64
		options []option     // default and json_name are the last
		body    *messageText // of a group, else nil
	}
	oneofText struct {
		name           string
		options        []option
		fields, groups []*fieldText
	}
	enumText struct {
		name      string
		reserved  []ranges
		options   []option
		constants []constant
	}
	constant struct {
		name    string
		number  int64
		options []option
	}
	extendText struct {
		name           string
		fields, groups []*fieldText
	}
	serviceText struct {
		name    string
		options []option
		rpcs    []rpc
	}
	rpc struct {
		name                string
		in, out             string
		inStream, outStream bool
		options             []option
	}
	// ranges is one reserved or extensions statement.
	ranges struct {
		spans   []span
		names   []string
		options []option
	}
	// span is from and to, both within; single if it was written as one number.
	span struct {
		from, to int64
		single   bool
	}
	option struct {
		name  []namePart
		value value
	}
	// namePart is one part of an option's dotted name, an extension's if it
	// stands in parentheses.
	namePart struct {
		name      string
		extension bool
	}
	// value is an option's: a text, a list or the entries of an aggregate.
	value struct {
		kind    valueKind
		text    string
		list    []value
		entries []entry
	}
	// entry has as its key a field's name or, in brackets, an extension's.
	entry struct {
		key   string
		value value
	}
	valueKind uint8
)

const (
	word      valueKind = iota // a number or a name, as it is printed
	quoted                     // a string, decoded
	listing                    // list
	aggregate                  // entries
)

// What the word max stands for at the end of a range: in a message, in an enum.
const (
	maxTag    = 1<<29 - 1
	maxNumber = 1<<31 - 1
)

func (o *option) is(name string) bool {
	return len(o.name) == 1 && o.name[0] == namePart{name: name}
}

// isMapEntry reports whether the message says of itself that it is the entry
// of a map. Compilers write that, people do not.
func (m *messageText) isMapEntry() bool {
	for i := range m.options {
		if m.options[i].is("map_entry") {
			return m.options[i].value.text == "true"
		}
	}
	return false
}
