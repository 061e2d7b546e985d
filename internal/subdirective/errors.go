package subdirective

import (
	"errors"
	"fmt"
)

// Errorf returns an error about the subdirective, with its owner, name, file and line.
func (s *Subdirective) Errorf(format string, args ...any) error {
	return s.Wrap(fmt.Errorf(format, args...))
}

// Wrap adds the subdirective's owner, name, file and line to an error.
func (s *Subdirective) Wrap(err error) error {
	return s.WrapErr(fmt.Errorf("%s: %s: %w", s.Owner, s.Name, err))
}

// Located adds an owner, the file and the line to errors that name their option already.
func (s *Subdirective) Located(owner string, err error) error {
	all := Flatten(err)
	errs := make([]error, 0, len(all))
	for _, e := range all {
		errs = append(errs, s.WrapErr(fmt.Errorf("%s: %w", owner, e)))
	}
	return errors.Join(errs...)
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
