package httphelper

import "sync"

// pool holds what the configs share, by key, as long as one of them uses it: it survives a reload.
// caddy.UsagePool does the same with three more objects for each value. With thousands of connections
// those are a good part of what every garbage collection has to look at.
type pool[K comparable, V any] struct {
	mu      sync.Mutex
	entries map[K]*pooled[V]
}

type pooled[V any] struct {
	value V
	uses  int
}

// acquire returns the value of a key for one more user. The first one's is made by init of a zero value.
func (p *pool[K, V]) acquire(key K, init func(*V)) *V {
	p.mu.Lock()
	defer p.mu.Unlock()
	entry := p.entries[key]
	if entry == nil {
		if p.entries == nil {
			p.entries = make(map[K]*pooled[V])
		}
		entry = new(pooled[V])
		init(&entry.value)
		p.entries[key] = entry
	}
	entry.uses++
	return &entry.value
}

// release ends one use, and reports whether it was the last.
func (p *pool[K, V]) release(key K) (last bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	entry := p.entries[key]
	if entry == nil {
		return false
	}
	entry.uses--
	if entry.uses == 0 {
		delete(p.entries, key)
	}
	return entry.uses == 0
}

// all are the values in use, in no order.
func (p *pool[K, V]) all() []*V {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]*V, 0, len(p.entries))
	for _, entry := range p.entries {
		all = append(all, &entry.value)
	}
	return all
}
