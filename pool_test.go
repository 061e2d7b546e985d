package httphelper

import "testing"

// uses is how many users the value of a key has.
func (p *pool[K, V]) uses(key K) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if entry := p.entries[key]; entry != nil {
		return entry.uses
	}
	return 0
}

func TestPool(t *testing.T) {
	var p pool[string, int]
	made := 0
	acquire := func(key string) *int {
		return p.acquire(key, func(v *int) { made++; *v = made })
	}
	first, again, other := acquire("a"), acquire("a"), acquire("b")
	if first != again || first == other || *first != 1 || *other != 2 || made != 2 || len(p.all()) != 2 {
		t.Fatalf("%v %v %v, %d made, %d in use", *first, *again, *other, made, len(p.all()))
	}
	if p.release("a") || p.uses("a") != 1 {
		t.Error("released while it is in use")
	}
	if !p.release("a") || p.uses("a") != 0 || p.release("a") || p.release("never") {
		t.Error("not released, or more than once")
	}
	if *acquire("a") != 3 || len(p.all()) != 2 {
		t.Error("not made anew")
	}
}
