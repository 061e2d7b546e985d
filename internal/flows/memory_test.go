package flows

import (
	"testing"
	"time"
)

func TestMemory(t *testing.T) {
	now := time.Now()
	m := NewMemory(func() time.Time { return now })
	want := func(key, value string, ok bool) {
		t.Helper()
		if got, found := m.Get(key); found != ok || ok && got != value {
			t.Errorf("%s: got %q, %t; want %q, %t", key, got, found, value, ok)
		}
	}
	want("a", "", false)
	m.Put("a", "1")
	want("a", "1", true)
	now = now.Add(ResultLifetime - time.Second)
	want("a", "1", true)
	m.Put("b", "2")
	now = now.Add(time.Second)
	want("a", "", false)
	want("b", "2", true)
	m.Put("c", "3")
	if len(m.results) != 2 {
		t.Errorf("%d results are kept, want 2: one is too old", len(m.results))
	}
	m.Forget("b")
	want("b", "", false)
	want("c", "3", true)
}
