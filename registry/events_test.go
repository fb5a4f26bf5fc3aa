package registry

import (
	"testing"
	"time"
)

// A log that compacts tells keys apart by their bytes, and other registries have
// written some of those that we replace.
func TestKeysAreThoseOfOtherRegistries(t *testing.T) {
	f := func(key recordKey, want string) {
		t.Helper()
		if got := string(event(key, nil, time.Time{}).Key); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	f(schemaKey("a<b>&\"c", 2), `{"keytype":"SCHEMA","subject":"a<b>&\"c","version":2,"magic":1}`)
	f(recordKey{KeyType: configRecord}, `{"keytype":"CONFIG","subject":null,"magic":0}`)
	f(recordKey{KeyType: configRecord, Subject: "s"}, `{"keytype":"CONFIG","subject":"s","magic":0}`)
	f(recordKey{KeyType: modeRecord}, `{"keytype":"MODE","subject":null,"magic":0}`)
	f(recordKey{KeyType: deleteSubjectRecord, Subject: "s"}, `{"keytype":"DELETE_SUBJECT","subject":"s","magic":0}`)
}

// FuzzRecords folds any two records into an index, which takes them or refuses
// them, and then still adds up: every version has its id, and every id a
// version.
func FuzzRecords(f *testing.F) {
	schema := `{"keytype":"SCHEMA","subject":"s","version":1,"magic":1}`
	f.Add([]byte(schema), []byte(`{"subject":"s","version":1,"id":1,"schema":"{}"}`), []byte(schema), []byte(``))
	f.Add([]byte(schema), []byte(`{"id":2,"schema":"{}","references":[{"name":"n","subject":"s","version":1}],"metadata":{"tags":{"a":["b"]}},"ruleSet":{"domainRules":[{"name":"r"}]}}`),
		[]byte(`{"keytype":"DELETE_SUBJECT","subject":"s","magic":0}`), []byte(`{"subject":"s","version":9}`))
	f.Add([]byte(schema), []byte(`{"id":2,"schema":"{}","deleted":true}`), []byte(`{"keytype":"CLEAR_SUBJECT","subject":"s"}`), []byte(`{}`))
	f.Add([]byte(`{"keytype":"CONFIG","subject":null}`), []byte(`{"compatibilityLevel":"FULL"}`), []byte(`{"keytype":"MODE"}`), []byte(`{"mode":"IMPORT"}`))
	f.Add([]byte(`{"keytype":"SCHEMA","subject":":.c:s","version":2,"magic":1}`), []byte(`{"id":1,"schema":"a"}`), []byte(`{"keytype":"SCHEMA","subject":":.c:t","version":2,"magic":1}`), []byte(`{"id":1,"schema":"b"}`))
	f.Fuzz(func(t *testing.T, key1, value1, key2, value2 []byte) {
		x := newIndex()
		for _, e := range []Event{{Key: key1, Value: value1}, {Key: key2, Value: value2}} {
			if len(e.Value) == 0 {
				e.Value = nil
			}
			if x.apply(e) != nil {
				x.drop()
			}
			x.merge()
		}
		uses := 0
		for id, held := range x.ids.all() {
			if len(held.uses) == 0 {
				t.Errorf("id %v stands for nothing", id)
			}
			if *x.maxIDs.get(id.context) < id.id {
				t.Errorf("id %v is above the highest given", id)
			}
			uses += len(held.uses)
		}
		for name, s := range x.subjects.all() {
			if len(s.versions) == 0 {
				t.Errorf("subject %q has no versions", name)
			}
			for i, v := range s.versions {
				uses--
				context, _ := split(name)
				if x.ids.get(schemaID{context, v.id}) == nil {
					t.Errorf("version %d of %q has no id", v.number, name)
				}
				if i > 0 && s.versions[i-1].number >= v.number {
					t.Errorf("versions of %q are not in order", name)
				}
			}
		}
		if uses != 0 {
			t.Errorf("%d uses of ids too many", uses)
		}
	})
}
