package subdirective

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// Errorf returns an error about the subdirective, with its owner, name, file and line.
func (s *Subdirective) Errorf(format string, args ...any) error {
	return s.Wrap(fmt.Errorf(format, args...))
}

// Wrap adds the subdirective's owner, name, file and line to errors.
func (s *Subdirective) Wrap(err error) error {
	all := Flatten(err)
	errs := make([]error, 0, len(all))
	for _, e := range all {
		errs = append(errs, &readError{s.Segment.Directive(), s.WrapErr(fmt.Errorf("%s: %s: %w", s.Owner, s.Name, e))})
	}
	return errors.Join(errs...)
}

// readError is an error about an option that is therefore not set.
type readError struct {
	option string // or the one that was probably meant
	error
}

// Unwrap lets errors.Is look inside.
func (e *readError) Unwrap() error { return e.error }

// JoinChecks joins the errors of reading a block with those of checking what was read, without those that
// only follow from an option that could not be read.
func JoinChecks(read, checks error) error {
	all := Flatten(read)
	var unread []string
	for _, err := range all {
		if e, ok := errors.AsType[*readError](err); ok {
			unread = append(unread, e.option)
		}
	}
	for _, err := range Flatten(checks) {
		options := optionLike.FindAllString(err.Error(), -1)
		if !slices.ContainsFunc(options, func(option string) bool { return slices.Contains(unread, option) }) {
			all = append(all, err)
		}
	}
	return errors.Join(all...)
}

// optionLike matches what may be an option in an error.
var optionLike = regexp.MustCompile(`[a-z][a-z_]*`)

// Located adds an owner, the file and the line to errors that begin with their option. The line is that of
// the option, or of the block if it does not have the option.
func (s *Subdirective) Located(owner string, err error) error {
	all := Flatten(err)
	errs := make([]error, 0, len(all))
	for _, e := range all {
		at := Parse(owner, s.find(e.Error()))
		errs = append(errs, at.WrapErr(fmt.Errorf("%s: %w", owner, e)))
	}
	return errors.Join(errs...)
}

// isMissing matches an error about an option, or one of its keys, that is not there.
var isMissing = regexp.MustCompile(`^[a-z_]+( [^ :]+)? is missing`)

// find returns the option that an error begins with: the last one of the block whose first argument the
// error names, or else the last one. Without it, it is the subdirective itself.
func (s *Subdirective) find(message string) caddyfile.Segment {
	words := strings.FieldsFunc(message, func(r rune) bool { return strings.ContainsRune(" :,;", r) })
	if len(words) == 0 || isMissing.MatchString(message) {
		return s.Segment
	}
	var found caddyfile.Segment
	named := false
	for _, segment := range s.options() {
		if segment.Directive() != words[0] {
			continue
		}
		names := len(segment) > 1 && slices.ContainsFunc(words[1:], func(word string) bool { return strings.EqualFold(word, segment[1].Text) })
		if names || !named {
			found, named = segment, named || names
		}
	}
	if found == nil {
		return s.Segment
	}
	// What follows may be about an option of the option.
	if _, rest, ok := strings.Cut(message, ": "); ok {
		return Parse(s.Owner, found).find(rest)
	}
	return found
}

// options returns the options of the block, with those of its blocks before them.
func (s *Subdirective) options() []caddyfile.Segment {
	var all []caddyfile.Segment
	for _, segment := range s.Block {
		all = append(all, Parse(s.Owner, segment).options()...)
	}
	return append(all, s.Block...)
}

// Flatten returns the errors that were joined.
func Flatten(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, Flatten(e)...)
	}
	return all
}
