package subdirective

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// Rule says how a subdirective is read.
type Rule struct {
	Read       func(*Subdirective) error
	Repeatable bool // may be given more than once
	Block      bool // may have a block

	refused bool // an error in any case
}

// Rules are the subdirectives that a block may have, by name.
type Rules map[string]Rule

// ReadAll reads the subdirectives of a block. The error is that of all that cannot be read.
func (r Rules) ReadAll(owner string, segments []caddyfile.Segment) error {
	seen := make(map[string]bool, len(segments))
	errs := make([]error, len(segments))
	for i, segment := range segments {
		s := Parse(owner, segment)
		errs[i] = r.read(s, seen[s.Name])
		seen[s.Name] = true
	}
	return errors.Join(errs...)
}

// read reads a subdirective of a block that may have it already.
func (r Rules) read(s *Subdirective, again bool) error {
	known, ok := r[s.Name]
	switch {
	case !ok:
		return s.Unrecognized(r.Names())
	case again && !known.Repeatable:
		return s.Errorf("is given more than once")
	case len(s.Block) > 0 && !known.Block:
		return s.Errorf("takes no block")
	}
	return known.Read(s)
}

// Names returns the names of the subdirectives that are possible.
func (r Rules) Names() []string {
	var names []string
	for name, rule := range r {
		if !rule.refused {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Option is a subdirective that is read into a T.
type Option[T any] struct {
	Read       func(*Subdirective, *T) error
	Repeatable bool
	Block      bool
}

// Options are the subdirectives of a T, by name.
type Options[T any] map[string]Option[T]

// Bind adds a rule for each option in table, which is read into target.
func Bind[T any](r Rules, table Options[T], target *T) {
	for name, o := range table {
		r[name] = Rule{Repeatable: o.Repeatable, Block: o.Block, Read: func(s *Subdirective) error { return o.Read(s, target) }}
	}
}

// Refuse adds a rule for each name in table that has none: an error that says why the subdirective does
// not belong in this block.
func Refuse[T any](r Rules, table Options[T], why string) {
	for name := range table {
		if _, ok := r[name]; !ok {
			r[name] = Rule{Repeatable: true, Block: true, refused: true, Read: func(s *Subdirective) error { return s.Errorf("%s", why) }}
		}
	}
}

// Suggest adds a rule for each of words, which people write for something else: an error that says what they
// mean, where that is possible.
func (r Rules) Suggest(words map[string]string) {
	for word, meant := range words {
		option, _, _ := strings.Cut(meant, " ")
		if known, ok := r[option]; ok && !known.refused {
			r[word] = Rule{Repeatable: true, Block: true, refused: true, Read: func(s *Subdirective) error {
				return &readError{option, s.Errf("%s: unrecognized subdirective %s (did you mean %s?)", s.Owner, s.Name, meant)}
			}}
		}
	}
}

// argOption returns an option with one argument, which is parsed.
func argOption[T, V any](field func(*T) *V, parse func(string) (V, error)) Option[T] {
	return Option[T]{Read: func(s *Subdirective, target *T) error {
		arg, err := s.OneArg()
		if err != nil {
			return err
		}
		value, err := parse(arg)
		if err != nil {
			return s.Wrap(err)
		}
		*field(target) = value
		return nil
	}}
}

// StringOption returns an option with one argument, which is taken as it is.
func StringOption[T any](field func(*T) *string) Option[T] {
	return argOption(field, func(value string) (string, error) { return value, nil })
}

// CheckedString returns an option with one argument, which has to pass a check.
func CheckedString[T any](field func(*T) *string, check func(string) error) Option[T] {
	return argOption(field, func(value string) (string, error) { return value, check(value) })
}

// OneOf returns a check that a value is one of the given ones.
func OneOf(values ...string) func(string) error {
	return func(value string) error {
		if !slices.Contains(values, value) {
			return fmt.Errorf("must be one of %s%s", strings.Join(values, ", "), DidYouMean(value, values))
		}
		return nil
	}
}

// BoolOption returns an option without arguments, which is true when it is given.
func BoolOption[T any](field func(*T) *bool) Option[T] {
	return Option[T]{Read: func(s *Subdirective, target *T) error {
		*field(target) = true
		return s.NoArgs()
	}}
}

// DurationOption returns an option with a duration above zero, which a later check may limit.
func DurationOption[T any](field func(*T) *caddy.Duration) Option[T] {
	return argOption(field, func(value string) (caddy.Duration, error) {
		duration, err := caddy.ParseDuration(value)
		if err != nil || duration <= 0 {
			return 0, errors.New("must be a duration above zero, such as 30s or 5m")
		}
		return caddy.Duration(duration), nil
	})
}
