package jsonpointer

import (
	"encoding/json"
	"reflect"
	"testing"
)

func TestCheck(t *testing.T) {
	for pointer, valid := range map[string]bool{
		"": true, "/": true, "/a": true, "/a/0/b": true, "/a~0b~1c": true, "//": true,
		"a": false, "#/a": false, "/~": false, "/~2": false, "/a~": false, "/~~0": false,
	} {
		if err := Check(pointer); (err == nil) != valid {
			t.Errorf("%q: %v", pointer, err)
		}
	}
}

// TestFind looks up the examples of RFC 6901 §5, and what is not there.
func TestFind(t *testing.T) {
	var document any
	err := json.Unmarshal([]byte(`{"foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "m~n": 8, "n": null, "~1": 9}`), &document)
	if err != nil {
		t.Fatal(err)
	}
	for pointer, want := range map[string]any{
		"": document, "/foo/0": "bar", "/foo/1": "baz", "/": 0.0, "/a~1b": 1.0, "/c%d": 2.0, "/m~0n": 8.0, "/n": nil, "/~01": 9.0,
	} {
		if got, found := Find(document, pointer); !found || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %v, %v, want %v", pointer, got, found, want)
		}
	}
	for _, pointer := range []string{"/none", "/foo/2", "/foo/-1", "/foo/01", "/foo/+1", "/foo/-", "/foo/0/x", "/n/x", "foo", "/foo/~"} {
		if got, found := Find(document, pointer); found || got != nil {
			t.Errorf("%q: %v, %v", pointer, got, found)
		}
	}
}
