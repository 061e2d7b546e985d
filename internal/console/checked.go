package console

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/caddy-httphelper/caddy-httphelper/internal/draft"
)

// checked says whether anything is wrong with a new connector, and where.
type checked struct {
	Wrong  bool
	Title  string
	Fields []fieldLink
	Lines  []string // about no field
}

// fieldLink leads to a field.
type fieldLink struct{ ID, Label string }

// newChecked sums up what is wrong.
func newChecked(problems []draft.Problem) *checked {
	result := &checked{Wrong: len(problems) > 0, Title: "No mistakes: copy the block."}
	if !result.Wrong {
		return result
	}
	for _, p := range problems {
		link := linkTo(p.Field)
		if p.Field != "" && !slices.Contains(result.Fields, link) {
			result.Fields = append(result.Fields, link)
		}
	}
	result.Lines = elsewhere(problems, func(field string) bool { return field != "" })
	result.Title = plural(len(result.Fields)+len(result.Lines), "mistake")
	if len(result.Fields) > 0 {
		result.Title += ": "
	}
	return result
}

// Labels of fields, and of those in the rows of lists.
var (
	fieldLabels = map[string]string{
		"name": "Name", "label": "Label", "base_url": "Base URL", "auth_method": "Client authentication", "token_url": "Token URL",
		"customize_scopes": "Connections may customize scopes", "additional_scopes": "Connections may add scopes of their own", "scopes_delimiter": "Delimiter", "scopes_help": "Help page",
		"ping.method": "Method of the ping", "ping.path": "Path of the ping", "ping.statuses": "Statuses of the ping",
	}
	rowNouns = map[string]string{
		"scopes": "scope", "parameters": "parameter", "config_values": "config value", "token_request_params": "token request parameter", "api_headers": "API header", "api_query": "API query parameter",
	}
	partLabels = map[string]string{
		"name": "Name", "value": "Value", "description": "Description", "required": "Required", "key": "Key", "type": "Type", "label": "Label", "options": "Options", "default": "Default option",
		"source": "Comes from", "hidden": "Hidden", "method": "Method", "url": "URL", "headers": "Header fields", "body": "Body", "pointer": "JSON pointer", "template": "Template",
	}
)

// linkTo returns the link to the field of a problem, by the name that it has on the page.
func linkTo(field string) fieldLink {
	if label, ok := fieldLabels[field]; ok {
		return fieldLink{field, label}
	}
	words := append(strings.SplitN(field, ".", 3), "", "")
	list, part := words[0], words[2]
	number, err := strconv.Atoi(words[1])
	if err != nil || rowNouns[list] == "" {
		return fieldLink{field, field}
	}
	if part == "" {
		part = lists[list]
	}
	return fieldLink{control(list, number, part), partLabels[part] + " of " + rowNouns[list] + " " + strconv.Itoa(number+1)}
}

// Messages of the configuration that name what the page calls otherwise, or begin with a name that is as somebody has
// typed it.
var (
	unknownKey  = regexp.MustCompile(`^there is no (parameter|config_value) (\S+); there is none$`)
	literalName = regexp.MustCompile(`^([^\s` + "`" + `]+) (cannot be set here|is given twice|needs a value)`)
)

const customizing = "“Connections may customize scopes”"

// inWords returns a problem in the words of the page.
func inWords(p draft.Problem) draft.Problem {
	switch match := unknownKey.FindStringSubmatch(p.Message); {
	case match != nil && match[1] == "parameter":
		p.Message = "there is no parameter " + match[2] + ": add it under Parameters"
	case match != nil:
		p.Message = "there is no config value " + match[2] + ": add it under Config values"
	case p.Field == "additional_scopes" && p.Message == "additional_scopes needs customize_scopes":
		p.Message = "it needs " + customizing
	}
	p.Message = strings.ReplaceAll(p.Message, "required needs customize_scopes", "required needs "+customizing)
	p.Message = literalName.ReplaceAllString(p.Message, "`$1` $2")
	return p
}
