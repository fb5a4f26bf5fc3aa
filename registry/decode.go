package registry

import (
	"encoding/json"
	"strconv"
	"unicode/utf8"

	"penstock/schemas"
)

// flat reads JSON objects whose members are strings, numbers and booleans, as
// this registry writes most, and clients send. A registry reads a hundred
// thousand of them before it serves. Whatever else is JSON it leaves to
// encoding/json: ok is false then, and what was read is of no use.
type flat struct {
	b  []byte
	ok bool
}

// readFlat calls member with each name; member reads the value.
func readFlat(b []byte, member func(f *flat, name string)) bool {
	f := &flat{b: b, ok: true}
	f.expect('{')
	for f.ok {
		name := f.bytes()
		f.expect(':')
		member(f, string(name))
		if f.skip(); len(f.b) > 0 && f.b[0] == '}' {
			f.b = f.b[1:]
			f.skip()
			return f.ok && len(f.b) == 0
		}
		f.expect(',')
	}
	return false
}

// skip passes over white space.
func (f *flat) skip() {
	for len(f.b) > 0 && (f.b[0] == ' ' || f.b[0] == '\n' || f.b[0] == '\r' || f.b[0] == '\t') {
		f.b = f.b[1:]
	}
}

// expect reads c, and the white space around it.
func (f *flat) expect(c byte) {
	f.skip()
	if len(f.b) == 0 || f.b[0] != c {
		f.ok = false
		return
	}
	f.b = f.b[1:]
	if c != '"' {
		f.skip()
	}
}

// bytes reads a string that has no escapes. They share the memory of the input.
func (f *flat) bytes() []byte {
	f.expect('"')
	for i, c := range f.b {
		if c == '"' && f.ok {
			s := f.b[:i]
			f.b = f.b[i+1:]
			f.ok = utf8.Valid(s)
			return s
		}
		if c < ' ' || c == '\\' {
			break
		}
	}
	f.ok = false
	return nil
}

// string reads a string.
func (f *flat) string() string {
	f.expect('"')
	if !f.ok {
		return ""
	}
	var room [4 << 10]byte
	out, from := room[:0], 0
	for i := 0; i < len(f.b); i++ {
		if c := f.b[i]; c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		out = append(out, f.b[from:i]...)
		switch f.b[i] {
		case '"':
			f.b = f.b[i+1:]
			f.ok = utf8.Valid(out)
			return string(out)
		case '\\':
			var n int
			if out, n = unescape(out, f.b[i:]); n > 0 {
				from = i + n
				i = from - 1
				continue
			}
		}
		break
	}
	f.ok = false
	return ""
}

// unescape adds to out what the escape at the start of b stands for, and returns
// its length, 0 if it is none or half of a character.
func unescape(out, b []byte) ([]byte, int) {
	if len(b) < 2 {
		return out, 0
	}
	switch c := b[1]; c {
	case '"', '\\', '/':
		return append(out, c), 2
	case 'n':
		return append(out, '\n'), 2
	case 't':
		return append(out, '\t'), 2
	case 'r':
		return append(out, '\r'), 2
	case 'u':
		if len(b) < 6 {
			return out, 0
		}
		n, err := strconv.ParseUint(string(b[2:6]), 16, 16)
		if err != nil || n >= 0xd800 && n < 0xe000 {
			return out, 0
		}
		return utf8.AppendRune(out, rune(n)), 6
	}
	return out, 0
}

// int reads a number that is 0 or more.
func (f *flat) int() (n int) {
	i := 0
	for ; i < len(f.b) && i < 10 && f.b[i] >= '0' && f.b[i] <= '9'; i++ {
		n = 10*n + int(f.b[i]-'0')
	}
	if i == 0 || i > 1 && f.b[0] == '0' {
		f.ok = false
	}
	f.b = f.b[i:]
	return n
}

func (f *flat) bool() bool {
	for _, word := range []string{"true", "false"} {
		if len(f.b) >= len(word) && string(f.b[:len(word)]) == word {
			f.b = f.b[len(word):]
			return word == "true"
		}
	}
	f.ok = false
	return false
}

// readKey reads the key of a record.
func readKey(raw []byte, key *recordKey) error {
	if readFlat(raw, func(f *flat, name string) {
		switch name {
		case "keytype":
			key.KeyType = kindOf(f.bytes())
		case "subject":
			key.Subject = f.string()
		case "version":
			key.Version = f.int()
		case "magic":
			key.Magic = f.int()
		default:
			f.ok = false
		}
	}) {
		return nil
	}
	*key = recordKey{}
	return json.Unmarshal(raw, key)
}

// kindOf makes one string of all that are SCHEMA.
func kindOf(b []byte) string {
	if string(b) == schemaRecord {
		return schemaRecord
	}
	return string(b)
}

// readSent reads the body of a request that brings a schema.
func readSent(raw []byte, s *Schema) error {
	if readFlat(raw, func(f *flat, name string) {
		switch name {
		case "subject":
			s.Subject = f.string()
		case "version":
			s.Version = f.int()
		case "id":
			s.ID = f.int()
		case "schemaType":
			s.SchemaType = schemas.Type(f.string())
		case "schema":
			s.Schema = f.string()
		default:
			f.ok = false
		}
	}) {
		return nil
	}
	*s = Schema{}
	return json.Unmarshal(raw, s)
}

// readSchema reads the value of a SCHEMA record.
func readSchema(raw []byte, v *schemaValue) error {
	if readFlat(raw, func(f *flat, name string) {
		switch name {
		case "subject":
			v.Subject = f.string()
		case "version":
			v.Version = f.int()
		case "id":
			v.ID = f.int()
		case "md5":
			v.MD5 = f.string()
		case "schemaType":
			v.SchemaType = schemas.Type(f.string())
		case "schema":
			v.Schema = f.string()
		case "deleted":
			v.Deleted = f.bool()
		default:
			f.ok = false
		}
	}) {
		return nil
	}
	*v = schemaValue{}
	return json.Unmarshal(raw, v)
}
