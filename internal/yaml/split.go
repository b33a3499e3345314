package yaml

import "strings"

// Document is a part of a file that is read by itself.
type Document struct {
	// Text is the document without its separators.
	Text string
	// Line is the line of the file that Text begins at, from 1.
	Line int
}

// At maps a place of the document to its place in the file.
func (d Document) At(p Pos) Pos { return Pos{p.Line + d.Line - 1, p.Column} }

// Split cuts text into documents: a line that begins with --- separates, and at one that begins with ... the rest is
// ignored. Both rules hold for every line, which is simpler than what YAML says, and what Drone does. Documents of
// blank lines and comments are left out.
func Split(text string) []Document {
	text = strings.TrimPrefix(text, "\uFEFF")
	var docs []Document
	add := func(doc Document) {
		for line := range strings.Lines(doc.Text) {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				docs = append(docs, doc)
				return
			}
		}
	}
	start, offset, line, startLine := 0, 0, 1, 1
	for l := range strings.Lines(text) {
		separator := strings.HasPrefix(l, "---")
		if separator || strings.HasPrefix(l, "...") {
			add(Document{Text: text[start:offset], Line: startLine})
			start, startLine = offset+len(l), line+1
		}
		if strings.HasPrefix(l, "...") {
			return docs
		}
		offset += len(l)
		line++
	}
	add(Document{Text: text[start:], Line: startLine})
	return docs
}
