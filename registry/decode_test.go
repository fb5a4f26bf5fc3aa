package registry

import (
	"encoding/json"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

// FuzzDecode reads any bytes as a key, as a value, and as the body of a request:
// with the result that encoding/json comes to.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"keytype":"SCHEMA","subject":"s","version":1,"magic":1}`))
	f.Add([]byte(`{"keytype":"SC\u0048EMA","Subject":"s","version":-1,"magic":01}`))
	f.Add([]byte(`{"subject":"s","version":1,"id":12,"md5":"a==","schemaType":"JSON","schema":"{\"a\":\"\\u003c\u003c\n\/\ud83d\ude00\"}","deleted":true}`))
	f.Add([]byte(`{"subject":"s","id":1,"schema":"` + "\xff\x01" + `","deleted":false}`))
	f.Add([]byte(`{"id":1,"schema":"a\"`))
	f.Add([]byte(`{"id":1,"schema":"a\u12"}`))
	f.Add([]byte(`{"schema":"a","references":[{"name":"n"}]}`))
	f.Add([]byte(" {\t\"schema\" : \"a\" ,\r\n\"id\": 7 } "))
	f.Add([]byte(`{"schemaType":"JSON","schema":"a","deleted":true}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var key, wantKey recordKey
		err, wantErr := readKey(b, &key), json.Unmarshal(b, &wantKey)
		if (err == nil) != (wantErr == nil) || err == nil && key != wantKey {
			t.Errorf("key: got %+v (%v), encoding/json has %+v (%v)", key, err, wantKey, wantErr)
		}
		var value, wantValue schemaValue
		err, wantErr = readSchema(b, &value), json.Unmarshal(b, &wantValue)
		if (err == nil) != (wantErr == nil) || err == nil && !gocmp.Equal(value, wantValue) {
			t.Errorf("value: got %+v (%v), encoding/json has %+v (%v)", value, err, wantValue, wantErr)
		}
		var sent, wantSent Schema
		err, wantErr = readSent(b, &sent), json.Unmarshal(b, &wantSent)
		if (err == nil) != (wantErr == nil) || err == nil && !gocmp.Equal(sent, wantSent) {
			t.Errorf("body: got %+v (%v), encoding/json has %+v (%v)", sent, err, wantSent, wantErr)
		}
	})
}
