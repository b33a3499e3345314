package source

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// The limits of one YAML document.
const (
	MaxUnfolded = 16 << 20 // bytes of scalars, and nodes, after unfolding aliases
	MaxDepth    = 200      // of nesting
)

// CheckYAML returns an error if any document of data is nested too deeply, or grows too large when its aliases are
// unfolded. Data that is not YAML passes: whoever parses it has the better words for it.
func CheckYAML(data []byte) error {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc yaml.Node
		if err := decoder.Decode(&doc); err != nil {
			return nil
		}
		if err := CheckNode(&doc); err != nil {
			return err
		}
	}
}

// CheckNode does for one parsed document what [CheckYAML] does.
func CheckNode(doc *yaml.Node) error {
	_, err := unfold(doc, map[*yaml.Node]extent{}, 0)
	return err
}

// Errors that [CheckYAML] and [CheckNode] return.
var (
	ErrUnfolded = fmt.Errorf("the aliases of the document unfold to more than %d MiB", MaxUnfolded>>20)
	ErrDepth    = fmt.Errorf("the document is nested more than %d levels deep", MaxDepth)
	ErrCycle    = errors.New("an anchor of the document contains itself")
)

// extent is how much a node takes after unfolding. A height of -1 marks a node that is being measured.
type extent struct{ size, height int }

// unfold measures n without unfolding it: extents remembers the nodes that aliases point to.
func unfold(n *yaml.Node, extents map[*yaml.Node]extent, depth int) (extent, error) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	e := extent{size: 1 + len(n.Value)}
	if n.Anchor != "" {
		if known, ok := extents[n]; ok {
			switch {
			case known.height < 0:
				return e, ErrCycle
			case depth+known.height > MaxDepth:
				return e, ErrDepth
			}
			return known, nil
		}
		extents[n] = extent{height: -1}
	}
	if depth > MaxDepth {
		return e, ErrDepth
	}
	for _, child := range n.Content {
		c, err := unfold(child, extents, depth+1)
		if err != nil {
			return e, err
		}
		e.height = max(e.height, c.height+1)
		if e.size += c.size; e.size > MaxUnfolded {
			return e, ErrUnfolded
		}
	}
	if n.Anchor != "" {
		extents[n] = e
	}
	return e, nil
}

// Documents parses all documents of data. The returned error is the parser's, with its line counted from 1 in data.
func Documents(data []byte) ([]*yaml.Node, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var docs []*yaml.Node
	for {
		var doc yaml.Node
		switch err := decoder.Decode(&doc); {
		case errors.Is(err, io.EOF):
			return docs, nil
		case err != nil:
			return docs, err
		}
		docs = append(docs, &doc)
	}
}

// Split cuts a file before each line that starts a document, as kubectl does.
func Split(data []byte) [][]byte {
	var docs [][]byte
	start := 0
	for i := 0; i < len(data); {
		end := len(data)
		if n := bytes.IndexByte(data[i:], '\n'); n >= 0 {
			end = i + n + 1
		}
		line := data[i:end]
		if rest, ok := bytes.CutPrefix(line, []byte("---")); ok && i > start && (len(rest) == 0 || strings.ContainsRune(" \t\r\n", rune(rest[0]))) {
			docs = append(docs, data[start:i])
			start = i
		}
		i = end
	}
	return append(docs, data[start:])
}

// yamlLine finds the line in the messages of the YAML libraries, which have no structured form for it.
var yamlLine = regexp.MustCompile(`line (\d+): `)

// ParseError returns the line and the message of an error of a YAML library. The line is 1 if it is not known.
func ParseError(err error) (line int, message string) {
	message = strings.TrimPrefix(err.Error(), "error converting YAML to JSON: ")
	message = strings.TrimPrefix(message, "yaml: ")
	message = strings.TrimPrefix(message, "unmarshal errors:\n  ")
	message, _, _ = strings.Cut(message, "\n") // the first of several
	if m := yamlLine.FindStringSubmatchIndex(message); m != nil {
		line, _ = strconv.Atoi(message[m[2]:m[3]])
		message = message[m[1]:]
	}
	return max(line, 1), strings.TrimSpace(strings.ReplaceAll(message, "\n", " "))
}
