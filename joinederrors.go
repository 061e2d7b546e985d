package httphelper

import (
	"errors"
	"fmt"
)

// prefixAll says of each error where it happened.
func prefixAll(where string, errs ...error) error {
	var all []error
	for _, err := range errs {
		for _, e := range flatten(err) {
			all = append(all, fmt.Errorf("%s: %w", where, e))
		}
	}
	return errors.Join(all...)
}

// flatten takes joined errors apart.
func flatten(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, flatten(e)...)
	}
	return all
}
