package registry

import (
	"encoding/json"
	"strconv"
	"unicode/utf8"

	"penstock/schemas"
)

// flat reads JSON objects as this registry writes them, whose members are
// strings, numbers and booleans. A registry reads a hundred thousand of them
// before it serves. Whatever else is JSON it leaves to encoding/json: ok is
// false then, and what was read is of no use.
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
		if member(f, string(name)); len(f.b) > 0 && f.b[0] == '}' {
			return f.ok && len(f.b) == 1
		}
		f.expect(',')
	}
	return false
}

func (f *flat) expect(c byte) {
	if len(f.b) == 0 || f.b[0] != c {
		f.ok = false
		return
	}
	f.b = f.b[1:]
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
	end, escapes := 0, 0
	for ; end < len(f.b) && f.b[end] != '"'; end++ {
		if f.b[end] < ' ' {
			f.ok = false
			return ""
		}
		if f.b[end] == '\\' {
			end, escapes = end+1, escapes+1
		}
	}
	if !f.ok || end >= len(f.b) || !utf8.Valid(f.b[:end]) {
		f.ok = false
		return ""
	}
	raw := f.b[:end]
	f.b = f.b[end+1:]
	if escapes == 0 {
		return string(raw)
	}
	out := make([]byte, 0, len(raw)-escapes)
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' {
			out = append(out, raw[i])
			continue
		}
		i++
		switch raw[i] {
		case '"', '\\', '/':
			out = append(out, raw[i])
		case 'n':
			out = append(out, '\n')
		case 't':
			out = append(out, '\t')
		case 'r':
			out = append(out, '\r')
		case 'u':
			n, err := uint64(0), strconv.ErrSyntax
			if i+4 < len(raw) {
				n, err = strconv.ParseUint(string(raw[i+1:i+5]), 16, 16)
			}
			if err != nil || n >= 0xd800 && n < 0xe000 {
				f.ok = false
				return ""
			}
			out = utf8.AppendRune(out, rune(n))
			i += 4
		default:
			f.ok = false
			return ""
		}
	}
	return string(out)
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
