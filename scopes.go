package httphelper

// Scope is a level of access that a connector defines (RFC 6749 §3.3).
type Scope struct {
	// The scope as the service calls it. Required.
	Name string `json:"name"`

	// Whether it is always requested. Needs `customize_scopes`. Default: it may be left out.
	Required bool `json:"required,omitempty"`

	// What people see.
	Description string `json:"description,omitempty"`
}
