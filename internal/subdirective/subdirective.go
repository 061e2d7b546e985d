// Package subdirective reads the blocks of a Caddyfile by tables of options, and writes such blocks.
//
// It knows only Caddy's parser. What an option means is defined by the tables of the package that uses
// it.
package subdirective

import (
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// Subdirective is one subdirective of a block: its name, its arguments and a block of its own.
//
// Errors about it contain its owner and its name, but never its arguments: an argument in the wrong
// place may be a secret.
type Subdirective struct {
	*caddyfile.Dispenser // at the name, for file and line

	Owner   string // what the block belongs to, such as "connection billing"
	Name    string // as in errors; callers may add what identifies the subdirective
	Args    []string
	Block   []caddyfile.Segment
	Segment caddyfile.Segment // all of it
}

// Parse takes a segment of a Caddyfile apart.
func Parse(owner string, segment caddyfile.Segment) *Subdirective {
	s := &Subdirective{Dispenser: caddyfile.NewDispenser(segment), Owner: owner, Segment: segment}
	s.Next()
	s.Name = s.Val()
	d := caddyfile.NewDispenser(segment)
	d.Next()
	s.Args = d.RemainingArgs()
	s.Block = SplitBlock(d)
	return s
}

// SplitBlock splits the block that follows into its subdirectives.
func SplitBlock(d *caddyfile.Dispenser) []caddyfile.Segment {
	var segments []caddyfile.Segment
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		segments = append(segments, d.NextSegment())
	}
	return segments
}

// Split separates the subdirectives of the block that have a rule from the rest.
func (s *Subdirective) Split(known Rules) (own, rest []caddyfile.Segment) {
	for _, segment := range s.Block {
		if _, ok := known[segment.Directive()]; ok {
			own = append(own, segment)
		} else {
			rest = append(rest, segment)
		}
	}
	return own, rest
}

// CheckOnce returns an error for each option of a block that is there again and not one of repeatable. It is for
// blocks that a module of Caddy reads: most take the last one.
func CheckOnce(owner string, block []caddyfile.Segment, repeatable ...string) error {
	seen := make(map[string]bool, len(block))
	var errs []error
	for _, segment := range block {
		s := Parse(owner, segment)
		if seen[s.Name] && likeOption.MatchString(s.Name) && !slices.Contains(repeatable, s.Name) {
			errs = append(errs, s.Errorf("is given more than once"))
		}
		seen[s.Name] = true
	}
	return errors.Join(errs...)
}

// Unmarshal lets a module read the subdirective, without arguments and with only some of its block.
func (s *Subdirective) Unmarshal(module caddyfile.Unmarshaler, block []caddyfile.Segment) error {
	for _, segment := range block {
		// Modules quote what they do not know.
		if inner := Parse(s.Owner, segment); !strings.HasPrefix(inner.Name, "@") && !likeOption.MatchString(inner.Name) {
			return inner.Unrecognized(nil)
		}
	}
	d := caddyfile.NewDispenser(s.withBlock(block))
	if err := module.UnmarshalCaddyfile(d); err != nil {
		return err
	}
	if d.Next() {
		return d.Err("something is wrong with the block: are its braces in their places?")
	}
	return nil
}

// withBlock returns the subdirective without arguments and with only some of its block.
func (s *Subdirective) withBlock(block []caddyfile.Segment) caddyfile.Segment {
	tokens := caddyfile.Segment{s.Segment[0]}
	if len(block) == 0 {
		return tokens
	}
	// A block opens on the line of the token before it. Without an argument of several lines, that is
	// the line of the name.
	open := s.Segment[1+len(s.Args)]
	open.Line = tokens[0].Line
	tokens = append(tokens, open)
	for _, segment := range block {
		tokens = append(tokens, segment...)
	}
	return append(tokens, s.Segment[len(s.Segment)-1])
}

// likeOption matches what was probably meant as a subdirective. Other words are not quoted: they may be
// part of a secret in the wrong place.
var likeOption = regexp.MustCompile(`^[a-z][a-z_]{0,39}$`)

// fewOptions is how many options an error lists at most.
const fewOptions = 6

// Unrecognized returns the error about a subdirective that is none of those that are possible.
func (s *Subdirective) Unrecognized(possible []string) error {
	near := Nearest(s.Name, possible)
	hint := DidYouMean(s.Name, possible)
	if near == "" && len(possible) > 0 && len(possible) <= fewOptions {
		hint = "; possible: " + strings.Join(possible, ", ")
	}
	var err error
	switch {
	case likeOption.MatchString(s.Name):
		err = s.Errf("%s: unrecognized subdirective %s%s", s.Owner, s.Name, hint)
	case near != "":
		err = s.Errf("%s: unrecognized subdirective%s", s.Owner, hint)
	default:
		err = s.Errf("%s: unrecognized subdirective; is a quotation mark or a brace missing above?", s.Owner)
	}
	return &readError{near, err}
}

// NeedsBlock checks that there is a block, which may be empty.
func (s *Subdirective) NeedsBlock() error {
	if len(s.Segment) == 1+len(s.Args) {
		return s.Errf("%s: %s: has no block: its line must end with a space and {", s.Owner, s.Name)
	}
	return nil
}

// NoArgs checks that there are no arguments.
func (s *Subdirective) NoArgs() error {
	if len(s.Args) > 0 {
		return s.Errorf("takes no argument")
	}
	return nil
}

// OneArg returns the only argument.
func (s *Subdirective) OneArg() (string, error) {
	switch {
	case len(s.Args) == 0:
		return "", s.Errorf("takes exactly one argument, but there is none; {$NAME} leaves none when NAME is not set")
	case len(s.Args) > 1:
		return "", s.Errorf("takes exactly one argument; put a value with spaces in quotation marks")
	case s.Args[0] == "":
		return "", s.Errorf("must not be empty")
	}
	return s.Args[0], nil
}

// TwoArgs returns a name and a value, which may be empty.
func (s *Subdirective) TwoArgs() (name, value string, err error) {
	switch {
	case len(s.Args) < 2:
		return "", "", s.Errorf("takes exactly two arguments, but there are fewer; {$NAME} leaves none when NAME is not set")
	case len(s.Args) > 2:
		return "", "", s.Errorf("takes exactly two arguments; put a value with spaces in quotation marks")
	}
	return s.Args[0], s.Args[1], nil
}

// SomeArgs returns the arguments: at least one, and none of them empty.
func (s *Subdirective) SomeArgs() ([]string, error) {
	if len(s.Args) == 0 {
		return nil, s.Errorf("takes one argument at least")
	}
	if slices.Contains(s.Args, "") {
		return nil, s.Errorf("must not be empty")
	}
	return s.Args, nil
}
