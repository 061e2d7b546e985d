package httphelper

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// subdirective is one subdirective of a block: its name, its arguments and a block of its own.
//
// Errors about it name its owner and itself, but never quote its arguments: whatever stands in the
// wrong place may be a secret.
type subdirective struct {
	*caddyfile.Dispenser // stands at the name, for file and line

	owner   string // what the block belongs to, such as "connection billing"
	name    string
	args    []string
	block   []caddyfile.Segment
	segment caddyfile.Segment // all of it
}

func newSubdirective(owner string, segment caddyfile.Segment) *subdirective {
	s := &subdirective{Dispenser: caddyfile.NewDispenser(segment), owner: owner, segment: segment}
	s.Next()
	s.name = s.Val()
	d := caddyfile.NewDispenser(segment)
	d.Next()
	s.args = d.RemainingArgs()
	s.block = blockOf(d)
	return s
}

// blockOf splits the block that follows into its subdirectives.
func blockOf(d *caddyfile.Dispenser) []caddyfile.Segment {
	var segments []caddyfile.Segment
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		segments = append(segments, d.NextSegment())
	}
	return segments
}

// split tells the subdirectives of the block that there are rules for from the rest.
func (s *subdirective) split(known rules) (own, rest []caddyfile.Segment) {
	for _, segment := range s.block {
		if _, ok := known[segment.Directive()]; ok {
			own = append(own, segment)
		} else {
			rest = append(rest, segment)
		}
	}
	return own, rest
}

// with is the subdirective without arguments and with only some of its block.
func (s *subdirective) with(block []caddyfile.Segment) caddyfile.Segment {
	tokens := caddyfile.Segment{s.segment[0]}
	if len(block) == 0 {
		return tokens
	}
	// A block opens on the line of what is before it; an argument of several lines is gone.
	open := s.segment[1+len(s.args)]
	open.Line = tokens[0].Line
	tokens = append(tokens, open)
	for _, segment := range block {
		tokens = append(tokens, segment...)
	}
	return append(tokens, s.segment[len(s.segment)-1])
}

// readWith lets a module read the subdirective, without arguments and with only some of its block.
func (s *subdirective) readWith(module caddyfile.Unmarshaler, block []caddyfile.Segment) error {
	for _, segment := range block {
		// Modules quote what they do not know.
		if inner := newSubdirective(s.owner, segment); !strings.HasPrefix(inner.name, "@") && !likeOption.MatchString(inner.name) {
			return inner.unrecognized()
		}
	}
	d := caddyfile.NewDispenser(s.with(block))
	if err := module.UnmarshalCaddyfile(d); err != nil {
		return err
	}
	if d.Next() {
		return d.Err("something is wrong with the block: are its braces in their places?")
	}
	return nil
}

func (s *subdirective) errorf(format string, args ...any) error {
	return s.wrap(fmt.Errorf(format, args...))
}

func (s *subdirective) wrap(err error) error {
	return s.WrapErr(fmt.Errorf("%s: %s: %w", s.owner, s.name, err))
}

// located says of errors that name their option already whose and where they are.
func (s *subdirective) located(owner string, err error) error {
	all := flatten(err)
	errs := make([]error, 0, len(all))
	for _, e := range all {
		errs = append(errs, s.WrapErr(fmt.Errorf("%s: %w", owner, e)))
	}
	return errors.Join(errs...)
}

// likeOption tells what somebody meant as a subdirective from a part of a secret that has gone
// astray.
var likeOption = regexp.MustCompile(`^[a-z][a-z_]{0,39}$`)

func (s *subdirective) unrecognized() error {
	if likeOption.MatchString(s.name) {
		return s.Errf("%s: unrecognized subdirective %s", s.owner, s.name)
	}
	return s.Errf("%s: unrecognized subdirective; is a quotation mark or a brace missing above?", s.owner)
}

// none checks that there are no arguments.
func (s *subdirective) none() error {
	if len(s.args) > 0 {
		return s.errorf("takes no argument")
	}
	return nil
}

// one is the only argument.
func (s *subdirective) one() (string, error) {
	switch {
	case len(s.args) == 0:
		return "", s.errorf("takes exactly one argument, but there is none; {$NAME} leaves none when NAME is not set")
	case len(s.args) > 1:
		return "", s.errorf("takes exactly one argument; put a value with spaces in quotation marks")
	case s.args[0] == "":
		return "", s.errorf("must not be empty")
	}
	return s.args[0], nil
}

// pair is a name and a value, which may be empty.
func (s *subdirective) pair() (name, value string, err error) {
	if len(s.args) != 2 {
		return "", "", s.errorf("takes exactly two arguments; put a value with spaces in quotation marks")
	}
	return s.args[0], s.args[1], nil
}

// some are the arguments, one at least and none of them empty.
func (s *subdirective) some() ([]string, error) {
	if len(s.args) == 0 {
		return nil, s.errorf("takes one argument at least")
	}
	if slices.Contains(s.args, "") {
		return nil, s.errorf("must not be empty")
	}
	return s.args, nil
}

// rule says how a subdirective is read.
type rule struct {
	read  func(*subdirective) error
	many  bool // may stand more than once
	block bool // may have a block
}

// rules are the subdirectives that a block may have, by name.
type rules map[string]rule

func (r rules) readAll(owner string, segments []caddyfile.Segment) error {
	seen := make(map[string]bool, len(segments))
	for _, segment := range segments {
		s := newSubdirective(owner, segment)
		known, ok := r[s.name]
		switch {
		case !ok:
			return s.unrecognized()
		case seen[s.name] && !known.many:
			return s.errorf("is given more than once")
		case len(s.block) > 0 && !known.block:
			return s.errorf("takes no block")
		}
		seen[s.name] = true
		if err := known.read(s); err != nil {
			return err
		}
	}
	return nil
}

// refuse gives the names in table, unless there is a rule for them, an error that says why they are
// not for this block.
func refuse[T any](r rules, table options[T], why string) {
	for name := range table {
		if _, ok := r[name]; !ok {
			r[name] = rule{many: true, block: true, read: func(s *subdirective) error { return s.errorf("%s", why) }}
		}
	}
}

// option is a subdirective that is read into a T.
type option[T any] struct {
	read  func(*subdirective, *T) error
	many  bool
	block bool
}

// options are the subdirectives of a T, by name.
type options[T any] map[string]option[T]

// bind adds the subdirectives in table, which are read into target.
func bind[T any](r rules, table options[T], target *T) {
	for name, o := range table {
		r[name] = rule{many: o.many, block: o.block, read: func(s *subdirective) error { return o.read(s, target) }}
	}
}

// plainText is an option with one argument in which placeholders mean nothing.
func plainText[T any](field func(*T) *string) option[T] {
	return option[T]{read: func(s *subdirective, target *T) (err error) {
		*field(target), err = s.one()
		return err
	}}
}

// checkedText is an option with one argument that has to pass a check.
func checkedText[T any](field func(*T) *string, check func(string) error) option[T] {
	return option[T]{read: func(s *subdirective, target *T) error {
		value, err := s.one()
		if err != nil {
			return err
		}
		if err := check(value); err != nil {
			return s.wrap(err)
		}
		*field(target) = value
		return nil
	}}
}

// textWith checks that a text has only placeholders that are understood.
func textWith(kinds ...string) func(string) error {
	return func(value string) error {
		_, err := parseText(value, kinds...)
		return err
	}
}

// oneOf checks that a value is among those that there are.
func oneOf(values ...string) func(string) error {
	return func(value string) error {
		if !slices.Contains(values, value) {
			return fmt.Errorf("must be one of %s", strings.Join(values, ", "))
		}
		return nil
	}
}

// boolean is an option without arguments.
func boolean[T any](field func(*T) *bool) option[T] {
	return option[T]{read: func(s *subdirective, target *T) error {
		*field(target) = true
		return s.none()
	}}
}

// duration is an option with a span of time.
func duration[T any](field func(*T) *caddy.Duration) option[T] {
	return option[T]{read: func(s *subdirective, target *T) error {
		value, err := s.one()
		if err != nil {
			return err
		}
		span, err := caddy.ParseDuration(value)
		if err != nil || span <= 0 {
			return s.errorf("must be a duration above zero, such as 30s or 5m")
		}
		*field(target) = caddy.Duration(span)
		return nil
	}}
}

// field is an option with a name and a value. It may stand more than once.
func field(list func(*Service) *[]Field, header bool, refused func(string) bool, kinds []string) option[Service] {
	return option[Service]{many: true, read: func(s *subdirective, target *Service) error {
		name, value, err := s.pair()
		if err != nil {
			return err
		}
		if header && !httpguts.ValidHeaderFieldName(name) {
			return s.errorf("the first argument is not the name of a header field")
		}
		if err := textWith(kinds...)(value); err != nil {
			return s.wrap(err)
		}
		fields := list(target)
		*fields = append(*fields, Field{Name: name, Value: value})
		return s.located(s.owner, checkFields(s.name, *fields, header, refused))
	}}
}
