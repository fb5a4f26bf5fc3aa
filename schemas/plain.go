package schemas

import (
	"strconv"
	"unicode/utf8"
)

// PlainJSON is a cursor over JSON text, for reading it without a value for each
// of its parts. It knows text as most programs write it; where a method reports
// false, ParseJSON is to say what the text is, or what is wrong with it.
type PlainJSON struct {
	Text []byte
	Pos  int
}

// Space passes over space.
func (r *PlainJSON) Space() {
	for r.Pos < len(r.Text) {
		switch r.Text[r.Pos] {
		case ' ', '\t', '\n', '\r':
			r.Pos++
		default:
			return
		}
	}
}

// Next passes over space and returns the byte there, 0 at the end.
func (r *PlainJSON) Next() byte {
	if r.Pos < len(r.Text) && r.Text[r.Pos] > ' ' {
		return r.Text[r.Pos]
	}
	if r.Space(); r.Pos < len(r.Text) {
		return r.Text[r.Pos]
	}
	return 0
}

// Word passes over a word if it stands there.
func (r *PlainJSON) Word(w string) bool {
	if len(r.Text)-r.Pos < len(w) || string(r.Text[r.Pos:r.Pos+len(w)]) != w {
		return false
	}
	r.Pos += len(w)
	return true
}

// digits passes over digits and returns how many there are.
func (r *PlainJSON) digits() int {
	begin := r.Pos
	for r.Pos < len(r.Text) && r.Text[r.Pos]-'0' <= 9 {
		r.Pos++
	}
	return r.Pos - begin
}

// Whole reads an integer of at most 18 digits, without fraction and exponent.
func (r *PlainJSON) Whole() (n int64, ok bool) {
	begin := r.Pos
	if r.Pos < len(r.Text) && r.Text[r.Pos] == '-' {
		r.Pos++
	}
	first := r.Pos
	count := r.digits()
	if count == 0 || count > 18 || count > 1 && r.Text[first] == '0' {
		return 0, false
	}
	for _, c := range r.Text[first:r.Pos] {
		n = 10*n + int64(c-'0')
	}
	if first > begin {
		n = -n
	}
	if r.Pos < len(r.Text) {
		switch r.Text[r.Pos] {
		case '.', 'e', 'E':
			return 0, false
		}
	}
	return n, true
}

// Float reads a number of at most 32 bytes whose exponent has at most two digits.
func (r *PlainJSON) Float() (f float64, ok bool) {
	begin := r.Pos
	r.Word("-")
	first := r.Pos
	if n := r.digits(); n == 0 || n > 1 && r.Text[first] == '0' {
		return 0, false
	}
	if r.Word(".") && r.digits() == 0 {
		return 0, false
	}
	if r.Word("e") || r.Word("E") {
		_ = r.Word("+") || r.Word("-")
		if n := r.digits(); n == 0 || n > 2 {
			return 0, false
		}
	}
	if r.Pos-begin > 32 {
		return 0, false
	}
	f, err := strconv.ParseFloat(string(r.Text[begin:r.Pos]), 64)
	return f, err == nil
}

// Run passes over the text up to a quote or a backslash, within a string.
func (r *PlainJSON) Run() (text []byte, ok bool) {
	begin, ascii := r.Pos, true
	for r.Pos < len(r.Text) {
		switch c := r.Text[r.Pos]; {
		case c == '"' || c == '\\':
			text = r.Text[begin:r.Pos]
			return text, ascii || utf8.Valid(text)
		case c < ' ':
			return nil, false
		case c >= utf8.RuneSelf:
			ascii = false
		}
		r.Pos++
	}
	return nil, false
}

// Bare reads a string without escapes.
func (r *PlainJSON) Bare() (text []byte, ok bool) {
	if !r.Word(`"`) {
		return nil, false
	}
	text, ok = r.Run()
	return text, ok && r.Word(`"`)
}
