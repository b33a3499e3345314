package source

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// MaxVariableBytes is how large the value of one variable may be.
const MaxVariableBytes = 1 << 20

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// CheckVariables returns an error if a variable has a name that cannot be written as ${NAME}, or is too large.
func CheckVariables(variables map[string]string) error {
	for name, value := range variables {
		if !variableName.MatchString(name) {
			return fmt.Errorf("%q cannot be the name of a variable; it has letters, digits and underscores, and does not begin with a digit", name)
		}
		if len(value) > MaxVariableBytes {
			return fmt.Errorf("the variable %s is larger than %d KiB", name, MaxVariableBytes>>10)
		}
	}
	return nil
}

// use finds ${NAME}, and $${NAME}, which stands for the text ${NAME}.
var use = regexp.MustCompile(`\$?\$\{[A-Za-z_][A-Za-z0-9_]*\}`)

// Fill replaces ${NAME} by the value of the variable NAME in the texts of a parsed YAML document: not in keys, comments,
// numbers or anything else, and only for variables that there are. $${NAME} becomes ${NAME}.
//
// The result is text, with one exception: where ${NAME} alone is written without quotes, a value that is a number or a
// boolean in YAML is that. A value never becomes a mapping or a list, whatever it holds. Fill reports whether it
// replaced anything, and fails if the document grows larger than [MaxUnfolded].
func Fill(doc *yaml.Node, variables map[string]string) (filled bool, err error) {
	if len(variables) == 0 {
		return false, nil
	}
	f := filler{variables: variables}
	f.node(doc)
	return f.filled, f.err()
}

// FillText does what [Fill] does for a value that was parsed as JSON, where all texts are in quotes. It changes value.
func FillText(value any, variables map[string]string) (any, error) {
	if len(variables) == 0 {
		return value, nil
	}
	f := filler{variables: variables}
	value = f.value(value)
	return value, f.err()
}

type filler struct {
	variables map[string]string
	filled    bool
	size      int
}

func (f *filler) err() error {
	if f.size > MaxUnfolded {
		return fmt.Errorf("with its variables filled in, the document is larger than %d MiB", MaxUnfolded>>20)
	}
	return nil
}

// text fills variables into a text. It reports whether the text is the use of one variable and nothing else.
func (f *filler) text(text string) (filled string, alone bool) {
	filled = use.ReplaceAllStringFunc(text, func(match string) string {
		to, ok := f.variables[strings.Trim(match, "${}")]
		if !ok || f.size > MaxUnfolded {
			return match
		}
		if strings.HasPrefix(match, "$$") {
			to = match[1:]
		} else {
			alone = match == text
		}
		f.filled = true
		f.size += len(to)
		return to
	})
	return filled, alone
}

func (f *filler) value(value any) any {
	switch value := value.(type) {
	case string:
		filled, _ := f.text(value)
		return filled
	case []any:
		for i := range value {
			value[i] = f.value(value[i])
		}
	case map[string]any:
		for key := range value {
			value[key] = f.value(value[key])
		}
	}
	return value
}

func (f *filler) node(n *yaml.Node) {
	switch n.Kind {
	case yaml.MappingNode:
		for i := 1; i < len(n.Content); i += 2 {
			f.node(n.Content[i])
		}
	case yaml.ScalarNode:
		if n.ShortTag() == "!!str" {
			f.scalar(n)
		}
	default: // an alias has no content: what it stands for is filled in where that is
		for _, c := range n.Content {
			f.node(c)
		}
	}
}

func (f *filler) scalar(n *yaml.Node) {
	const quoted = yaml.SingleQuotedStyle | yaml.DoubleQuotedStyle | yaml.LiteralStyle | yaml.FoldedStyle
	value, alone := f.text(n.Value)
	if value == n.Value {
		return
	}
	n.Value = value
	if n.Style&quoted != 0 {
		return
	}
	typed := yaml.Node{Kind: yaml.ScalarNode, Value: value}
	tag := typed.ShortTag()
	if alone && n.Style&yaml.TaggedStyle == 0 && slices.Contains([]string{"!!int", "!!float", "!!bool"}, tag) {
		n.Style, n.Tag = 0, tag
		return
	}
	n.Style, n.Tag = yaml.DoubleQuotedStyle, "!!str"
}

// Encode writes a document that was filled in as YAML, without comments.
func Encode(doc *yaml.Node) ([]byte, error) {
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	uncomment(doc)
	if err := encoder.Encode(doc); err != nil {
		return nil, fmt.Errorf("write the document with its variables filled in: %w", err)
	}
	return out.Bytes(), encoder.Close()
}

// uncomment removes comments: they mean nothing, and writing them is where the library is weakest.
func uncomment(n *yaml.Node) {
	n.HeadComment, n.LineComment, n.FootComment = "", "", ""
	for _, c := range n.Content {
		uncomment(c)
	}
}
