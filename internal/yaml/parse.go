package yaml

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	upstream "go.yaml.in/yaml/v3"
)

// Bounds of a document. They are far above what people write.
const (
	// MaxBytes is the size of the largest text that Parse reads.
	MaxBytes = 4 << 20
	// MaxNodes is how many nodes a document may have with all aliases and merge keys unfolded.
	MaxNodes = 200_000
	// MaxDepth is how deep it may be nested.
	MaxDepth = 100
)

// Error says what of a text is not YAML, and where.
type Error struct {
	Pos     Pos
	Message string
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("%d:%d: %s", e.Pos.Line, e.Pos.Column, e.Message) }

// Duplicate is a key that a mapping has twice. The last one holds.
type Duplicate struct {
	Key   *Node
	First Pos
}

// Parse reads one document. at maps a place of text to the place in the file that it came from; nil means that they are
// the same. The node is nil for an empty document. The error is an [*Error].
func Parse(text string, at func(Pos) Pos) (*Node, []Duplicate, error) {
	if at == nil {
		at = func(p Pos) Pos { return p }
	}
	if len(text) > MaxBytes {
		return nil, nil, &Error{at(Pos{1, 1}), fmt.Sprintf("the document has %d bytes; at most %d are read", len(text), MaxBytes)}
	}
	if !utf8.ValidString(text) {
		return nil, nil, &Error{at(invalidUTF8(text)), "the text is not valid UTF-8"}
	}
	var doc upstream.Node
	if err := upstream.Unmarshal([]byte(text), &doc); err != nil {
		return nil, nil, syntaxError(err, text, at)
	}
	if len(doc.Content) == 0 {
		return nil, nil, nil
	}
	b := builder{at: at, anchored: map[*upstream.Node]*Node{}}
	root, err := b.node(doc.Content[0], 0)
	if err != nil {
		return nil, nil, err
	}
	return root, b.duplicates, nil
}

func invalidUTF8(text string) Pos {
	pos := Pos{1, 1}
	for i, r := range text {
		if r == utf8.RuneError && !strings.HasPrefix(text[i:], "\uFFFD") {
			return pos
		}
		pos.Column++
		if r == '\n' {
			pos = Pos{pos.Line + 1, 1}
		}
	}
	return pos
}

var (
	upstreamError = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)
	// What upstream's parser, other than its scanner, complains of. It counts lines from 0 then, and names the line where
	// the collection begins that is broken somewhere.
	parserError = regexp.MustCompile(`^did not find expected (node content|key|',' or|'-' indicator)`)
)

// indentedByTab reports whether a line begins with spaces and a tab.
func indentedByTab(text string, line int) bool {
	lines := strings.Split(text, "\n")
	return line <= len(lines) && strings.HasPrefix(strings.TrimLeft(lines[line-1], " "), "\t")
}

// syntaxError finds the place that upstream says in words.
func syntaxError(err error, text string, at func(Pos) Pos) *Error {
	pos, message := Pos{1, 1}, err.Error()
	if m := upstreamError.FindStringSubmatch(message); m != nil {
		message = m[2]
		if line, err := strconv.Atoi(m[1]); err == nil {
			if parserError.MatchString(message) {
				line++
				message += ", here or in the lines below"
			}
			pos.Line = min(line, strings.Count(text, "\n")+1)
			if message == "found character that cannot start any token" && indentedByTab(text, pos.Line) {
				message = "a tab cannot indent; use spaces"
			}
		}
	}
	return &Error{at(pos), message}
}

// builder turns upstream's nodes into ours.
type builder struct {
	at         func(Pos) Pos
	anchored   map[*upstream.Node]*Node // nil while a node is being built
	merged     int                      // entries copied by merge keys
	duplicates []Duplicate
}

func (b *builder) node(from *upstream.Node, depth int) (*Node, error) {
	pos := b.at(Pos{from.Line, from.Column})
	if from.Kind == upstream.AliasNode {
		to := b.anchored[from.Alias]
		if to == nil {
			return nil, &Error{pos, fmt.Sprintf("the alias *%s stands inside of what it names", from.Value)}
		}
		return to, nil
	}
	if depth > MaxDepth {
		return nil, &Error{pos, fmt.Sprintf("this is nested more than %d deep", MaxDepth)}
	}
	n := &Node{Pos: pos, size: 1}
	if from.Style&upstream.TaggedStyle != 0 {
		n.Tag = from.ShortTag()
	}
	var err error
	switch from.Kind {
	case upstream.SequenceNode:
		n.Kind = Sequence
		n.Items = make([]*Node, len(from.Content))
		for i, item := range from.Content {
			if n.Items[i], err = b.node(item, depth+1); err != nil {
				return nil, err
			}
			n.size += n.Items[i].size
		}
	case upstream.MappingNode:
		n.Kind = Mapping
		if err = b.mapping(n, from, depth); err != nil {
			return nil, err
		}
		for _, e := range n.Entries {
			n.size += 1 + e.Value.size
		}
	default:
		n.Text = from.Value
		n.Quoted = from.Style&(upstream.DoubleQuotedStyle|upstream.SingleQuotedStyle|upstream.LiteralStyle|upstream.FoldedStyle) != 0
	}
	if n.size > MaxNodes {
		return nil, &Error{pos, fmt.Sprintf("this unfolds to more than %d values", MaxNodes)}
	}
	if from.Anchor != "" {
		b.anchored[from] = n
	}
	return n, nil
}

// mapping fills n.Entries. A merge key adds the entries that the mapping does not have by itself.
func (b *builder) mapping(n *Node, from *upstream.Node, depth int) error {
	own := map[string]int{} // key -> index in n.Entries
	var merges []*Node
	for i := 0; i+1 < len(from.Content); i += 2 {
		key, err := b.node(from.Content[i], depth+1)
		if err != nil {
			return err
		}
		if key.Kind != Scalar {
			return &Error{key.Pos, "a key must be a single value, not " + key.Kind.String()}
		}
		value, err := b.node(from.Content[i+1], depth+1)
		if err != nil {
			return err
		}
		if key.Text == "<<" && !key.Quoted && key.Tag == "" || key.Tag == "!!merge" {
			if err := checkMerge(value); err != nil {
				return err
			}
			merges = append(merges, value)
			continue
		}
		if first, twice := own[key.Text]; twice {
			b.duplicates = append(b.duplicates, Duplicate{Key: key, First: n.Entries[first].Key.Pos})
			n.Entries[first] = Entry{key, value}
			continue
		}
		own[key.Text] = len(n.Entries)
		n.Entries = append(n.Entries, Entry{key, value})
	}
	for _, merge := range merges {
		maps := merge.Items
		if merge.Kind == Mapping {
			maps = []*Node{merge}
		}
		for _, m := range maps {
			for _, e := range m.Entries {
				if b.merged++; b.merged > MaxNodes {
					return &Error{n.Pos, fmt.Sprintf("merge keys unfold to more than %d values", MaxNodes)}
				}
				if _, has := own[e.Key.Text]; !has {
					own[e.Key.Text] = len(n.Entries)
					n.Entries = append(n.Entries, e)
				}
			}
		}
	}
	return nil
}

func checkMerge(value *Node) error {
	wrong := &Error{value.Pos, "<< merges a mapping or a list of mappings, not " + value.Kind.String()}
	switch value.Kind {
	case Scalar:
		return wrong
	case Sequence:
		for _, item := range value.Items {
			if item.Kind != Mapping {
				return wrong
			}
		}
	}
	return nil
}

// ErrorAt returns err's place and message, or the beginning of the file if it has none.
func ErrorAt(err error) (Pos, string) {
	var e *Error
	if errors.As(err, &e) {
		return e.Pos, e.Message
	}
	return Pos{1, 1}, err.Error()
}
